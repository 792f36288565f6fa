//! A lock on a file that ends with this process, at once.
//!
//! A lock belongs to an open file, and a child that was forked and has not yet begun its program
//! has all open files of its parent. The kernel needs a while to close them if the parent is killed
//! just then, so a lock that children share may outlive the process that whoever wants it has
//! already seen die. So the file is opened where no child gets it: by a thread with a table of open
//! files of its own.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, unshare};

/// An exclusive lock (`flock(2)`), held until this is dropped or the process ends.
#[derive(Debug)]
pub struct RunLock {
    /// The sender's end is what releases the lock; the thread then ends.
    keeper: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl RunLock {
    /// Makes the file at `path` and locks it.
    ///
    /// # Errors
    /// If the file cannot be made, or someone else holds a lock on it.
    pub fn new(path: &Path) -> io::Result<RunLock> {
        let (release, released) = mpsc::channel::<()>();
        let (done, result) = mpsc::sync_channel(1);
        let path: PathBuf = path.into();
        let keeper = std::thread::Builder::new().name("run-lock".into()).spawn(move || {
            let lock = lock_alone(&path);
            let (lock, said) = match lock {
                Ok(lock) => (Some(lock), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _ = done.send(said);
            // Nothing is ever sent: the sender is dropped.
            let _ = released.recv();
            drop(lock);
        })?;
        let lock = RunLock { keeper: Some((release, keeper)) };
        result.recv().map_err(|_| io::Error::other("the thread that locks a run panicked"))??;
        Ok(lock)
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        if let Some((release, keeper)) = self.keeper.take() {
            drop(release);
            let _ = keeper.join();
        }
    }
}

/// Locks the file in a table of open files that only this thread has, and that holds nothing else:
/// copies of the process's pipes would keep their readers from ever seeing the end.
fn lock_alone(path: &Path) -> io::Result<Flock<File>> {
    unshare(CloneFlags::CLONE_FILES)?;
    let open = std::fs::read_dir("/proc/thread-self/fd")?;
    let open: Vec<i32> = open.flatten().filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // That of the listing itself is closed already.
        let _ = nix::unistd::close(fd);
    }
    Flock::lock(File::create(path)?, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    fn is_free(path: &Path) -> bool {
        let file = File::open(path).unwrap();
        Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
    }

    #[test]
    #[allow(unsafe_code, reason = "pre_exec is unsafe by nature")]
    fn a_child_that_has_not_begun_its_program_does_not_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = RunLock::new(&path).unwrap();
        assert!(!is_free(&path));

        let (mut forked, tell) = io::pipe().unwrap();
        let (wait, go) = io::pipe().unwrap();
        let mut command = Command::new("/bin/true");
        // SAFETY: nothing but bare system calls on files opened beforehand.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::write(&tell, b"!")?;
                nix::unistd::read(&wait, &mut [0])?;
                Ok(())
            });
        }
        // Starting it returns only once its program has begun.
        let child = std::thread::spawn(move || command.status());
        forked.read_exact(&mut [0]).unwrap();
        drop(lock);
        assert!(is_free(&path));
        nix::unistd::write(&go, b"!").unwrap();
        assert!(child.join().unwrap().unwrap().success());
    }

    #[test]
    fn its_thread_has_no_copy_of_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let _lock = RunLock::new(&dir.path().join("lock")).unwrap();
        drop(writer);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn who_cannot_have_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _lock = RunLock::new(&path).unwrap();
        assert_eq!(RunLock::new(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(RunLock::new(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
