//! The audit log.

use std::ffi::OsStr;
use std::path::{Path, PathBuf, absolute};

use serde::Serialize;

/// How the audit log is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Where its files are.
    pub directory: PathBuf,
    /// What happens while the disk is slow or full.
    pub when_full: WhenFull,
    /// How many lines may wait to be written.
    pub queue: usize,
    /// How large a file may become, bytes.
    pub rotate: u64,
    /// How many older files are kept.
    pub keep: usize,
    /// Whether each line has the hash of the one before.
    pub chain: bool,
    /// Whether lines are synced before more are written.
    pub sync: bool,
}

impl Audit {
    /// The file that is written now.
    pub const FILE: &str = "audit.log";

    /// How many files of the log are newer than the one with this name; `None` if it is none of
    /// them.
    pub fn age(name: &str) -> Option<usize> {
        let age = match name.strip_prefix(Audit::FILE)? {
            "" => 0,
            number => number.strip_prefix('.')?.parse().ok()?,
        };
        (Audit::name_of(age) == name).then_some(age)
    }

    /// The name of the file than which so many are newer.
    pub fn name_of(age: usize) -> String {
        match age {
            0 => Audit::FILE.to_owned(),
            age => format!("{}.{age}", Audit::FILE),
        }
    }

    /// Whether `file` is one of its files, or will be. (Symbolic links are not followed.)
    pub fn has_file(&self, file: &Path) -> bool {
        let directory = |file: &Path| Some(absolute(file).ok()?.parent()?.to_owned());
        file.file_name().and_then(OsStr::to_str).and_then(Audit::age).is_some()
            && directory(file) == directory(&self.directory.join(Audit::FILE))
    }
}

/// What happens to requests for which the audit log has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// They wait until there is room.
    Block,
    /// They go on, and the log says how many lines are missing.
    Drop,
}

impl WhenFull {
    /// Each with its word in the configuration.
    pub const ALL: [(&'static str, WhenFull); 2] = [("block", WhenFull::Block), ("drop", WhenFull::Drop)];

    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, one)| *one == self).map_or("", |(word, _)| word)
    }
}
