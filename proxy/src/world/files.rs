//! Files that something else writes and a process only reads while it runs: certificates, keys,
//! tokens.
//!
//! What a process itself keeps is on its [`Disk`](super::Disk), and its configuration is followed
//! by `config::reload`.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::config::watch::{FileWatch, Watch};
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
