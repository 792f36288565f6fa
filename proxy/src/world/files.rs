//! Files that something else writes and a process only reads while it runs: certificates, keys,
//! tokens.
//!
//! What a process itself keeps is on its [`Disk`](super::Disk), and its configuration is followed
//! by `config::reload`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::config::defaults::FILE_POLL;
use crate::config::reload::{FileWatch, quiet};
use crate::config::{self, LoadError};

/// Files by their paths.
pub trait Files: Send + Sync + 'static {
    /// All of a text.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, path: &Path) -> Result<String, LoadError>;

    /// Watches no file yet; `look` is notified when one that is watched may have changed.
    fn watch(&self, look: Arc<Notify>) -> Box<dyn Watch>;
}

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

/// The kernel's.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelFiles;

impl Files for KernelFiles {
    fn read(&self, path: &Path) -> Result<String, LoadError> {
        config::read(path)
    }

    fn watch(&self, look: Arc<Notify>) -> Box<dyn Watch> {
        Box::new(FileWatch::new(look))
    }
}
