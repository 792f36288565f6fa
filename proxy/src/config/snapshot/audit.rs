//! The audit log.

use std::path::PathBuf;

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
