//! A simulated disk: what was not synced is lost with the machine's power, and it can be full.

use std::collections::BTreeMap;
use std::future::ready;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proxy::world::Disk;
use proxy::world::disk::Done;

/// The files of one process. They outlive it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    /// As processes see them.
    written: BTreeMap<String, Vec<u8>>,
    /// As they are after a loss of power.
    synced: BTreeMap<String, Vec<u8>>,
    /// How many bytes there is room for; `None`: any number.
    capacity: Option<usize>,
}

impl SimDisk {
    /// The machine loses its power.
    pub fn lose_power(&self) {
        let files = &mut *self.files();
        files.written = files.synced.clone();
    }

    /// From now on there is room for so many bytes; `None`: for any number.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.files().capacity = bytes;
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is done at once: in virtual time a disk takes none.
    fn done<T: Send + 'static>(&self, act: impl FnOnce(&mut Files) -> io::Result<T>) -> Done<T> {
        Box::pin(ready(act(&mut self.files())))
    }
}

impl Files {
    fn room(&self) -> usize {
        let used: usize = self.written.values().map(Vec::len).sum();
        self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(used))
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn list(&self) -> Done<Vec<String>> {
        self.done(|files| Ok(files.written.keys().cloned().collect()))
    }

    fn read(&self, file: &str) -> Done<Vec<u8>> {
        self.done(|files| files.written.get(file).cloned().ok_or_else(missing))
    }

    fn append(&self, file: &str, mut bytes: Vec<u8>) -> Done<()> {
        self.done(|files| {
            let room = files.room();
            let fits = bytes.len() <= room;
            bytes.truncate(room);
            files.written.entry(file.to_owned()).or_default().append(&mut bytes);
            if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        })
    }

    fn sync(&self, file: &str) -> Done<()> {
        self.done(|files| {
            let written = files.written.get(file).ok_or_else(missing)?;
            files.synced.insert(file.to_owned(), written.clone());
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Done<()> {
        self.done(|files| {
            let written = files.written.remove(from).ok_or_else(missing)?;
            files.written.insert(to.to_owned(), written);
            // What was not synced of it is not there afterwards, whatever its name.
            let synced = files.synced.remove(from).unwrap_or_default();
            files.synced.insert(to.to_owned(), synced);
            Ok(())
        })
    }

    fn remove(&self, file: &str) -> Done<()> {
        self.done(|files| {
            files.written.remove(file);
            files.synced.remove(file);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use proxy::world::KernelDisk;

    use super::*;

    /// What every disk does.
    async fn check(disk: &dyn Disk) {
        let missing = disk.read("a").await.expect_err("there is no file yet");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(disk.sync("a").await.is_err(), "nor can it be synced");
        disk.remove("a").await.expect("it is gone already");
        let (first, second) = (disk.append("a", b"one ".to_vec()), disk.append("a", b"two".to_vec()));
        second.await.expect("appended");
        first.await.expect("appended");
        assert_eq!(disk.read("a").await.expect("a file"), b"one two", "in the order in which they began");
        disk.sync("a").await.expect("synced");
        disk.append("b", b"new".to_vec()).await.expect("appended");
        assert_eq!(disk.list().await.expect("names"), ["a", "b"]);
        disk.sync("b").await.expect("synced");
        disk.rename("b", "a").await.expect("renamed");
        assert_eq!(disk.list().await.expect("names"), ["a"]);
        assert_eq!(disk.read("a").await.expect("a file"), b"new");
        assert!(disk.rename("b", "a").await.is_err(), "there is none any more");
        disk.remove("a").await.expect("removed");
        assert!(disk.list().await.expect("names").is_empty());
    }

    #[tokio::test]
    async fn it_does_what_the_kernels_does() {
        let directory = tempfile::tempdir().unwrap();
        check(&KernelDisk::open(directory.path().join("state")).unwrap()).await;
        check(&SimDisk::default()).await;
    }

    #[tokio::test]
    async fn a_loss_of_power_takes_what_was_not_synced() {
        let disk = SimDisk::default();
        disk.append("journal", b"kept".to_vec()).await.unwrap();
        disk.sync("journal").await.unwrap();
        disk.append("journal", b" and lost".to_vec()).await.unwrap();
        disk.append("new", b"lost".to_vec()).await.unwrap();
        assert_eq!(disk.read("journal").await.unwrap(), b"kept and lost", "the next process sees all");
        disk.lose_power();
        assert_eq!(disk.list().await.unwrap(), ["journal"]);
        assert_eq!(disk.read("journal").await.unwrap(), b"kept");
    }

    #[tokio::test]
    async fn a_file_that_was_renamed_before_it_was_synced_is_empty_after_a_loss_of_power() {
        let disk = SimDisk::default();
        disk.append("old", b"old".to_vec()).await.unwrap();
        disk.sync("old").await.unwrap();
        disk.append("new", b"new".to_vec()).await.unwrap();
        disk.rename("new", "old").await.unwrap();
        disk.lose_power();
        assert_eq!(disk.read("old").await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_full_disk_takes_a_part_and_says_so() {
        let disk = SimDisk::default();
        disk.set_capacity(Some(4));
        let error = disk.append("a", b"hello".to_vec()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read("a").await.unwrap(), b"hell");
        disk.set_capacity(None);
        disk.append("a", b"o".to_vec()).await.unwrap();
        assert_eq!(disk.read("a").await.unwrap(), b"hello");
    }
}
