//! Who called `sudo`. Git and cargo run as this user, so that the clone stays theirs, and files
//! that root wrote are given back.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Uid, User, geteuid};

/// The user who called `sudo`, if the clone is theirs.
#[derive(Debug, Clone)]
pub struct Caller {
    uid: u32,
    gid: u32,
    home: Option<PathBuf>,
}

impl Caller {
    /// Whoever this process works for in the clone at `root`; `None` if that is its own user.
    pub fn of(root: &Path) -> Option<Caller> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let (uid, gid) = (number("SUDO_UID")?, number("SUDO_GID")?);
        let is_theirs = fs::metadata(root).is_ok_and(|found| found.uid() == uid);
        if !geteuid().is_root() || uid == 0 || !is_theirs {
            return None;
        }
        let home = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.dir);
        Some(Caller { uid, gid, home })
    }

    /// Has `command` run as this user.
    pub fn becomes<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some(home) = &self.home {
            command.env("HOME", home);
        }
        command.uid(self.uid).gid(self.gid)
    }

    /// Gives them `path` and all that is below it.
    ///
    /// # Errors
    /// If that is not allowed.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        let found = fs::symlink_metadata(path)?;
        if (found.uid(), found.gid()) != (self.uid, self.gid) {
            lchown(path, Some(self.uid), Some(self.gid))?;
        }
        if found.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own(&entry?.path())?;
            }
        }
        Ok(())
    }
}

/// Makes `folder` with all above it, for `caller`.
///
/// # Errors
/// If it cannot be made.
pub fn make(folder: &Path, caller: Option<&Caller>) -> io::Result<()> {
    let topmost = folder.ancestors().take_while(|ancestor| !ancestor.exists()).last();
    fs::create_dir_all(folder).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", folder.display())))?;
    match (topmost, caller) {
        (Some(made), Some(caller)) => caller.own(made),
        _ => Ok(()),
    }
}
