//! Watches files that something else replaces, also while their directories come and go.
//!
//! What is watched is the directory and not the file, because editors and Kubernetes replace files
//! and symbolic links instead of writing into them; if the file is a link, so is the directory that
//! it leads to, and if there is no directory yet, the one in which it will be. Events only say
//! *look again*: they are gathered until the directory has been quiet for [`RELOAD_QUIET`]. Not
//! everything makes events (what others write to a network file system, and links among the
//! directories do not), so it is also asked every two seconds whether the files are still the same.
//!
//! It reads the file system, so it belongs on the control thread, as do those who use it
//! ([`reload`](super::reload), `discovery::file`, `key_sets`, `identity`).

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::defaults::{FILE_POLL, RELOAD_QUIET, RELOAD_WAIT};

/// Watches files for as long as it lives.
pub trait Watch: Send {
    /// Watches these files from now on, and no others, whether they are there or not. Called again,
    /// it also sees where links lead now. To be called after each change, and before the files are
    /// read.
    ///
    /// # Errors
    /// If the system cannot tell of changes, so that only [`Watch::has_changed`] does. That is told
    /// once.
    fn cover(&mut self, paths: &[PathBuf]) -> io::Result<()>;

    /// Whether one of them is another one than when they were covered. Not of everything that
    /// happens to files is one told.
    fn has_changed(&self) -> bool;
}

/// Waits until one of the files that `watch` covers may be another one, and then until nothing has
/// happened for a moment. `look` is what `watch` notifies.
pub(crate) async fn changed(watch: &dyn Watch, look: &Notify) {
    while timeout(FILE_POLL, look.notified()).await.is_err() && !watch.has_changed() {}
    quiet(look).await;
}

/// Returns once there was no event for [`RELOAD_QUIET`], or after [`RELOAD_WAIT`].
pub(crate) async fn quiet(look: &Notify) {
    let deadline = Instant::now() + RELOAD_WAIT;
    loop {
        let until = (Instant::now() + RELOAD_QUIET).min(deadline);
        tokio::select! {
            biased;
            () = sleep_until(until) => return,
            () = look.notified() => {}
        }
    }
}

/// Watches files by the directories in which they are, or will be, and by what `stat` says of them.
pub(crate) struct FileWatch {
    /// Or why the system gave none.
    watcher: Result<RecommendedWatcher, String>,
    /// The directories that are watched. One of the same name may be another one later.
    covered: BTreeMap<PathBuf, DirectoryId>,
    /// What the files are called in them. Shared with the watcher's thread.
    names: Names,
    /// The files as they were when they were covered last.
    stamps: Vec<(PathBuf, Option<Stamp>)>,
    /// Whether something could not be watched then. That is told once.
    is_blind: bool,
}

type Names = Arc<Mutex<BTreeSet<OsString>>>;

/// Device, inode, and when it was made: numbers of inodes are used again.
type DirectoryId = (u64, u64, Option<SystemTime>);

/// Device, inode, size, and when content and inode were changed, in seconds and nanoseconds.
type Stamp = (u64, u64, u64, [i64; 4]);

impl FileWatch {
    /// Watches nothing yet; `look` is notified of every event that matters.
    pub(crate) fn new(look: Arc<Notify>) -> Self {
        let names = Names::default();
        let known = names.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error may have swallowed events: look then too.
            let names = known.lock().unwrap_or_else(PoisonError::into_inner);
            if event.map_or(true, |event| matters(&event, &names)) {
                look.notify_one();
            }
        });
        let watcher = watcher.map_err(|error| error.to_string());
        FileWatch { watcher, covered: BTreeMap::new(), names, stamps: Vec::new(), is_blind: false }
    }

    /// Watches what has to be watched for `paths` now, and nothing else.
    fn watch(&mut self, paths: &[PathBuf]) -> Result<(), String> {
        let watcher = self.watcher.as_mut().map_err(|why| why.clone())?;
        let real = paths.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()));
        let all: Vec<PathBuf> = paths.iter().cloned().chain(real).collect();
        let wanted: BTreeMap<PathBuf, DirectoryId> = all.iter().filter_map(|path| directory(path)).collect();
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) =
            all.iter().filter_map(|path| path.file_name().map(OsString::from)).collect();
        self.covered.retain(|directory, id| {
            let keep = wanted.get(directory) == Some(id);
            if !keep {
                // A directory that was removed has no watch left to end, which is just as well.
                let _ = watcher.unwatch(directory);
            }
            keep
        });
        for (directory, id) in wanted {
            if let Entry::Vacant(entry) = self.covered.entry(directory) {
                let watched = watcher.watch(entry.key(), RecursiveMode::NonRecursive);
                watched.map_err(|error| error.to_string())?;
                entry.insert(id);
            }
        }
        Ok(())
    }
}

impl Watch for FileWatch {
    fn cover(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        self.stamps = paths.iter().map(|path| (path.clone(), stamp(path))).collect();
        let watched = self.watch(paths);
        let was_blind = std::mem::replace(&mut self.is_blind, watched.is_err());
        if was_blind { Ok(()) } else { watched.map_err(io::Error::other) }
    }

    fn has_changed(&self) -> bool {
        self.stamps.iter().any(|(path, before)| stamp(path) != *before)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    Some((found.dev(), found.ino(), found.size(), times))
}

/// The directory of a file, or the one in which that will be, or the one in which that one will be.
fn directory(path: &Path) -> Option<(PathBuf, DirectoryId)> {
    path.ancestors().skip(1).find_map(|ancestor| {
        let here = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        let real = here.canonicalize().ok()?;
        let found = fs::metadata(&real).ok().filter(fs::Metadata::is_dir)?;
        Some((real, (found.dev(), found.ino(), found.created().ok())))
    })
}

/// Whether the file may be another one after `event`. Reading does not count, or looking would
/// cause the next look; writing into files of other names does not either, since they may be logs.
fn matters(event: &Event, names: &BTreeSet<OsString>) -> bool {
    let ours = || event.paths.iter().filter_map(|path| path.file_name()).any(|name| names.contains(name));
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => ours(),
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => ours(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_the_file_or_writing_a_log_beside_it_causes_no_look() {
        use notify::event::{CreateKind, DataChange};
        let names = BTreeSet::from([OsString::from("sidecar.toml")]);
        let event = |kind, name: &str| Event::new(kind).add_path(Path::new("/etc").join(name));
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let open = EventKind::Access(AccessKind::Open(AccessMode::Read));
        let create = EventKind::Create(CreateKind::File);
        assert!(matters(&event(data, "sidecar.toml"), &names));
        assert!(!matters(&event(data, "web.log"), &names));
        assert!(!matters(&event(open, "sidecar.toml"), &names));
        assert!(matters(&event(create, "..data"), &names));
    }
}
