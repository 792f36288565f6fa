//! Simulated files that processes read: what the lab, or an operator in its story, writes for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proxy::config::LoadError;
use proxy::config::watch::Watch;
use proxy::world::Files;
use tokio::sync::Notify;

/// The files of one instance. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SimFiles(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<PathBuf, String>,
    /// Who is told of what, in the order in which they began to watch.
    watches: BTreeMap<u64, (Arc<Notify>, BTreeSet<PathBuf>)>,
    next: u64,
}

impl SimFiles {
    /// Writes files, all at one moment.
    pub fn write(&self, files: impl IntoIterator<Item = (PathBuf, String)>) {
        let mut inner = self.inner();
        for (path, text) in files {
            inner.tell(&path);
            inner.files.insert(path, text);
        }
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, path: &Path) {
        let mut inner = self.inner();
        inner.files.remove(path);
        inner.tell(path);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&self, path: &Path) {
        for (look, _) in self.watches.values().filter(|(_, covered)| covered.contains(path)) {
            look.notify_one();
        }
    }
}

impl Files for SimFiles {
    fn read(&self, path: &Path) -> Result<String, LoadError> {
        let found = self.inner().files.get(path).cloned();
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        found.ok_or_else(|| LoadError::Unreadable { path: path.to_owned(), error: missing(), help: None })
    }

    fn watch(&self, look: Arc<Notify>) -> Box<dyn Watch> {
        let mut inner = self.inner();
        let id = inner.next;
        inner.next += 1;
        inner.watches.insert(id, (look, BTreeSet::new()));
        Box::new(SimWatch { files: self.clone(), id })
    }
}

struct SimWatch {
    files: SimFiles,
    id: u64,
}

impl Watch for SimWatch {
    fn cover(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        if let Some((_, covered)) = self.files.inner().watches.get_mut(&self.id) {
            *covered = paths.iter().cloned().collect();
        }
        Ok(())
    }

    /// Never: of every change one is told.
    fn has_changed(&self) -> bool {
        false
    }
}

impl Drop for SimWatch {
    fn drop(&mut self) {
        self.files.inner().watches.remove(&self.id);
    }
}
