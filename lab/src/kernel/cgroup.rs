//! Control groups: the sure way to end a process with everything that it started.
//!
//! Each process of the world gets a group `lab-<run>/<instance>.<role>` in the unified hierarchy,
//! wherever that is mounted. A child joins before it drops its privileges, so nothing it starts can
//! be outside. They are for killing and counting; limits are the matter of
//! `limits`. Machines without cgroup2 work without; the caller notes it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::time::Instant;

/// How long a killed group may take to become empty.
const EMPTY_WITHIN: Duration = Duration::from_secs(3);

/// A directory in the unified hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The first cgroup2 mount, from the text of /proc/mounts.
    pub fn mount_point(mounts: &str) -> Option<PathBuf> {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (target, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(target))
        })
    }

    /// Where the group of a run belongs: `lab-<run>` at the root of the unified hierarchy.
    pub fn place(run_id: &str) -> io::Result<PathBuf> {
        let root = Self::mount_point(&std::fs::read_to_string("/proc/mounts")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 is mounted"))?;
        Ok(root.join(format!("lab-{run_id}")))
    }

    /// Makes a group that must be new.
    pub fn create(path: PathBuf) -> io::Result<Cgroup> {
        std::fs::create_dir(&path)?;
        Ok(Cgroup { path })
    }

    /// A group that exists already, if it still does.
    pub fn open(path: &Path) -> Option<Cgroup> {
        path.join("cgroup.procs").exists().then(|| Cgroup { path: path.to_owned() })
    }

    /// Makes a group inside this one, or takes the one that is there.
    pub fn child(&self, name: &str) -> io::Result<Cgroup> {
        let path = self.path.join(name);
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(Cgroup { path }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file to which a child writes `0` to join.
    pub fn entrance(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }

    /// Kills everything in the group and in the groups below, and waits until it is empty. Kernels
    /// before 5.14 have no `cgroup.kill`; there every process is killed one by one until none is
    /// left.
    pub fn kill(&self) -> io::Result<()> {
        let deadline = Instant::now() + EMPTY_WITHIN;
        let at_once = std::fs::write(self.path.join("cgroup.kill"), "1").is_ok();
        loop {
            // Opened anew each time: reading arms the notification that poll waits for.
            let mut events = File::open(self.path.join("cgroup.events"))?;
            let mut text = String::new();
            events.read_to_string(&mut text)?;
            if text.lines().any(|l| l == "populated 0") {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let path = self.path.display();
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{path} still has processes")));
            }
            let mut wait = left;
            if !at_once {
                self.kill_each()?;
                wait = wait.min(Duration::from_millis(10));
            }
            let timeout = PollTimeout::try_from(wait.as_millis() as u32 as i32).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        for child in self.children()? {
            child.kill_each()?;
        }
        for pid in std::fs::read_to_string(self.path.join("cgroup.procs"))?.lines() {
            if let Ok(pid) = pid.parse() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        Ok(())
    }

    fn children(&self) -> io::Result<Vec<Cgroup>> {
        let mut children = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                children.push(Cgroup { path: entry.path() });
            }
        }
        Ok(children)
    }

    /// Kills everything in it and removes it with all groups below.
    pub fn remove(&self) -> io::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        self.kill()?;
        self.remove_empty()
    }

    fn remove_empty(&self) -> io::Result<()> {
        for child in self.children()? {
            child.remove_empty()?;
        }
        remove_dir(&self.path)
    }
}

/// Removes a group that is empty or about to be, if it is there.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    loop {
        match std::fs::remove_dir(path) {
            // The last process may still be leaving although the group already counts as empty.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                let _ = poll(&mut [], PollTimeout::from(2_u8));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_wherever_it_is_mounted() {
        let hybrid =
            "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(Cgroup::mount_point(hybrid).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(Cgroup::mount_point(unified).unwrap(), Path::new("/sys/fs/cgroup"));
        assert_eq!(Cgroup::mount_point("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"), None);
    }
}
