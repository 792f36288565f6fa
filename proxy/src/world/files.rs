//! Files that something else writes and a process only reads while it runs: certificates, keys,
//! tokens.
//!
//! What a process itself keeps is on its [`Disk`](super::Disk), and its configuration is followed
//! by `config::reload`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::config::reload::FileWatch;
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

/// Watches one file for as long as it lives.
pub trait Watch: Send {
    /// Watches this file from now on, and no other. Called again, it also sees where links lead
    /// now.
    ///
    /// # Errors
    /// If it cannot be watched.
    fn cover(&mut self, path: &Path) -> io::Result<()>;
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

impl Watch for FileWatch {
    fn cover(&mut self, path: &Path) -> io::Result<()> {
        FileWatch::cover(self, path).map_err(io::Error::other)
    }
}
