//! The seam between the proxy and what outlives it: files in one directory.
//!
//! Five operations, as a journal needs them. What was written is there for the next process at
//! once, and is there after the machine has lost its power only if it was synced. The simulator's
//! disk forgets the rest, so what is not synced in time is found out there.
//!
//! Operations on one file take effect in the order in which they were begun, also if they are not
//! waited for. A failed sync says nothing of what is on the disk: whoever gets one must not sync
//! again and believe it, but read (the fsyncgate of PostgreSQL, 2018).
//!
//! Left out: directories inside the directory, and files that the proxy only reads. Configuration
//! and registries' files are watched, which is the business of `config::reload`.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};

/// A result of a disk, which may take its time.
pub type Done<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// Files by name. Every name is one of a file, without a directory.
pub trait Disk: Send + Sync + 'static {
    /// The names of all files, sorted.
    fn list(&self) -> Done<Vec<String>>;

    /// A whole file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none.
    fn read(&self, file: &str) -> Done<Vec<u8>>;

    /// Writes at the end of a file, which is made if there is none. If that fails, a part may be
    /// written: a full disk takes as much as it can.
    fn append(&self, file: &str, bytes: Vec<u8>) -> Done<()>;

    /// Waits until all that was appended to a file, and that it exists, outlives the machine's
    /// power.
    fn sync(&self, file: &str) -> Done<()>;

    /// Gives a synced file the name of another one, which it replaces: one of the two is there
    /// under that name at any time, also after a loss of power. On return it is this one.
    fn rename(&self, from: &str, to: &str) -> Done<()>;

    /// Removes a file, if there is one.
    fn remove(&self, file: &str) -> Done<()>;
}

/// Where a log goes: lines are put at its end.
pub trait LogSink: Send + Sync + 'static {
    /// Writes whole lines. If that fails, a part may be written.
    fn write(&self, lines: Vec<u8>) -> Done<()>;
}

/// A file of a disk. It is looked up by its name each time, so one that is renamed gives way to a
/// new one.
#[derive(Clone)]
pub struct LogFile {
    /// Where it is.
    pub disk: Arc<dyn Disk>,
    /// Its name there.
    pub name: String,
}

impl LogSink for LogFile {
    fn write(&self, lines: Vec<u8>) -> Done<()> {
        self.disk.append(&self.name, lines)
    }
}

/// The standard output of the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stdout;

impl LogSink for Stdout {
    fn write(&self, lines: Vec<u8>) -> Done<()> {
        let written = tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&lines)?;
            stdout.flush()
        });
        Box::pin(async { written.await.unwrap_or_else(|_| Err(io::Error::other("the process is ending"))) })
    }
}

/// No disk: what a process that keeps nothing has. Every operation fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDisk;

impl NoDisk {
    fn refuse<T: Send + 'static>() -> Done<T> {
        let error = io::Error::new(io::ErrorKind::Unsupported, "this process has no directory for its state");
        Box::pin(std::future::ready(Err(error)))
    }
}

impl LogSink for NoDisk {
    fn write(&self, _: Vec<u8>) -> Done<()> {
        Self::refuse()
    }
}

impl Disk for NoDisk {
    fn list(&self) -> Done<Vec<String>> {
        Self::refuse()
    }

    fn read(&self, _: &str) -> Done<Vec<u8>> {
        Self::refuse()
    }

    fn append(&self, _: &str, _: Vec<u8>) -> Done<()> {
        Self::refuse()
    }

    fn sync(&self, _: &str) -> Done<()> {
        Self::refuse()
    }

    fn rename(&self, _: &str, _: &str) -> Done<()> {
        Self::refuse()
    }

    fn remove(&self, _: &str) -> Done<()> {
        Self::refuse()
    }
}

/// What a process keeps is its owner's, and its group may read it.
const PRIVATE: u32 = 0o640;

/// A directory of the kernel's. Operations run one after the other on tokio's blocking threads,
/// never on a worker. Cheap to clone.
///
/// Files are regular ones: another might never let go of who opens it (a FIFO that nobody reads),
/// or never end. Nor is a symbolic link one, or whoever can write to the directory could have files
/// written anywhere else.
#[derive(Clone)]
pub struct KernelDisk {
    directory: Arc<Path>,
    /// Held as long as anything may be written there.
    claim: Option<Arc<Flock<File>>>,
    queue: Arc<Mutex<Queue>>,
    /// Whether a file may be anything that can be written.
    takes_any: bool,
    /// Whether the directory is made again if it is gone.
    makes_again: bool,
}

type Job = Box<dyn FnOnce() + Send>;

/// What is to be done, in order.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Whether a thread is at it.
    is_busy: bool,
}

impl KernelDisk {
    /// The files of `directory`, which is made if there is none.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        let directory = directory.into();
        Ok(KernelDisk { directory, claim: None, queue: Arc::default(), takes_any: false, makes_again: false })
    }

    /// The same for one process at a time.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another one has it, or what the kernel says.
    pub fn locked(self) -> io::Result<Self> {
        let claim = Some(Arc::new(lock_directory(&self.directory)?));
        Ok(KernelDisk { claim, ..self })
    }

    /// The same, where a file may also be a device, a FIFO or a symbolic link.
    pub fn with_any_file(self) -> Self {
        KernelDisk { takes_any: true, ..self }
    }

    /// The same for files of which none needs the others: their directory is made again if somebody
    /// has removed it.
    pub fn made_again(self) -> Self {
        KernelDisk { makes_again: true, ..self }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> Done<T> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (directory, claim) = (self.directory.clone(), self.claim.clone());
        let job: Job = Box::new(move || {
            let result = job(&directory);
            drop(claim);
            // Nobody may wait for it any more.
            let _ = tell.send(result);
        });
        let mut queue = lock(&self.queue);
        queue.jobs.push_back(job);
        if !std::mem::replace(&mut queue.is_busy, true) {
            let queue = self.queue.clone();
            tokio::task::spawn_blocking(move || work(&queue));
        }
        Box::pin(async { told.await.unwrap_or_else(|_| Err(io::Error::other("the process is ending"))) })
    }
}

/// Locks a directory itself, so there is nothing that could be removed. The lock ends with the
/// process.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if another process has it, or what the kernel says.
pub fn lock_directory(directory: &Path) -> io::Result<Flock<File>> {
    Ok(Flock::lock(File::open(directory)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?)
}

fn lock(queue: &Mutex<Queue>) -> std::sync::MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what is queued until there is nothing left.
fn work(queue: &Mutex<Queue>) {
    loop {
        let job = {
            let mut queue = lock(queue);
            let job = queue.jobs.pop_front();
            queue.is_busy = job.is_some();
            job
        };
        let Some(job) = job else { return };
        job();
    }
}

/// Opens a file. Unless it may be anything, nothing but a regular file is opened, and nothing is
/// waited for.
fn open(options: &mut OpenOptions, path: &Path, takes_any: bool) -> io::Result<File> {
    if takes_any {
        return options.open(path);
    }
    let refused = |what| Err(io::Error::other(format!("{} is {what}", path.display())));
    match options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path) {
        // A FIFO that nobody reads, or a socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => refused("not a regular file"),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            refused("a symbolic link, not a regular file")
        }
        Ok(file) if !file.metadata()?.is_file() => refused("not a regular file"),
        opened => opened,
    }
}

impl Disk for KernelDisk {
    fn list(&self) -> Done<Vec<String>> {
        self.run(|directory| {
            let mut names = Vec::new();
            for entry in fs::read_dir(directory)? {
                names.extend(entry?.file_name().into_string());
            }
            names.sort_unstable();
            Ok(names)
        })
    }

    fn read(&self, file: &str) -> Done<Vec<u8>> {
        let file = file.to_owned();
        let takes_any = self.takes_any;
        self.run(move |directory| {
            let mut bytes = Vec::new();
            open(File::options().read(true), &directory.join(file), takes_any)?.read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    fn append(&self, file: &str, bytes: Vec<u8>) -> Done<()> {
        let file = file.to_owned();
        let (takes_any, makes_again) = (self.takes_any, self.makes_again);
        self.run(move |directory| {
            let (mut options, path) = (OpenOptions::new(), directory.join(file));
            options.append(true).create(true).mode(PRIVATE);
            let opened = match open(&mut options, &path, takes_any) {
                Err(error) if makes_again && error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(directory)?;
                    open(&mut options, &path, takes_any)
                }
                opened => opened,
            };
            opened?.write_all(&bytes)
        })
    }

    fn sync(&self, file: &str) -> Done<()> {
        let (file, takes_any) = (file.to_owned(), self.takes_any);
        self.run(move |directory| {
            open(File::options().read(true), &directory.join(file), takes_any)?.sync_data()?;
            // Its name is in the directory.
            File::open(directory)?.sync_all()
        })
    }

    fn rename(&self, from: &str, to: &str) -> Done<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.run(move |directory| {
            fs::rename(directory.join(from), directory.join(to))?;
            File::open(directory)?.sync_all()
        })
    }

    fn remove(&self, file: &str) -> Done<()> {
        let file = file.to_owned();
        self.run(move |directory| match fs::remove_file(directory.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_begun_is_done_in_order_although_nobody_waits() {
        let directory = tempfile::tempdir().unwrap();
        let disk = KernelDisk::open(directory.path()).unwrap();
        let expected: Vec<u8> = (0..200).collect();
        for byte in &expected {
            drop(disk.append("log", vec![*byte]));
        }
        assert_eq!(disk.read("log").await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_full_disk_says_so_and_keeps_what_it_has() {
        let directory = tempfile::tempdir().unwrap();
        // The kernel's own full disk.
        std::os::unix::fs::symlink("/dev/full", directory.path().join("full")).unwrap();
        let disk = KernelDisk::open(directory.path()).unwrap().with_any_file();
        let error = disk.append("full", vec![1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.append("other", vec![2]).await.unwrap();
        assert_eq!(disk.read("other").await.unwrap(), [2]);
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mode = nix::sys::stat::Mode::S_IRWXU;
        nix::unistd::mkfifo(&directory.path().join("fifo"), mode).unwrap();
        for (to, link) in [("/dev/zero", "endless"), ("elsewhere", "dangling")] {
            std::os::unix::fs::symlink(to, directory.path().join(link)).unwrap();
        }
        // The directory itself may be found through one.
        let linked = directory.path().join("linked");
        std::os::unix::fs::symlink(directory.path(), &linked).unwrap();
        let disk = KernelDisk::open(linked).unwrap();
        for (file, is) in [
            ("fifo", "not a regular file"),
            ("endless", "a symbolic link, not a regular file"),
            ("dangling", "a symbolic link, not a regular file"),
        ] {
            for error in [
                disk.read(file).await.unwrap_err(),
                disk.append(file, vec![1]).await.unwrap_err(),
                disk.sync(file).await.unwrap_err(),
            ] {
                assert!(error.to_string().ends_with(&format!("/{file} is {is}")), "{error}");
            }
        }
        assert!(!directory.path().join("elsewhere").exists());
        disk.append("log", vec![1]).await.unwrap();
    }

    #[tokio::test]
    async fn a_locked_directory_has_one_process_until_its_last_handle_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let open = || KernelDisk::open(directory.path()).unwrap().locked();
        let disk = open().unwrap();
        let handle = disk.clone();
        drop(disk);
        assert_eq!(open().map(|_| ()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(handle);
        open().unwrap();
    }

    #[tokio::test]
    async fn a_directory_is_made_again_only_if_it_may_be() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("a/b");
        let disk = KernelDisk::open(&inside).unwrap();
        std::fs::remove_dir_all(directory.path().join("a")).unwrap();
        assert_eq!(disk.append("log", vec![1]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        disk.clone().made_again().append("log", vec![2]).await.unwrap();
        assert_eq!(disk.read("log").await.unwrap(), [2]);
    }

    #[tokio::test]
    async fn a_process_without_a_directory_is_told_so() {
        let error = NoDisk.append("a", vec![1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
