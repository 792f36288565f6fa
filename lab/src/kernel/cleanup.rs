//! What a run leaves on the machine outside its own memory, and the certainty that it goes away
//! again.
//!
//! Namespaces, interfaces, rules and faults die with the lab's threads. Three things do not: bind
//! mounts of the namespaces (kept so that `nsenter --net=/run/lab/<run>/ns/<instance>` works), a
//! control group, and the directory that names them. All three carry the run's id and are listed
//! under `/run/lab/<run>`, with a lock that the lab holds for as long as it lives. A free lock
//! therefore means a dead run, and whoever starts next clears it away: no process ids that could be
//! recycled, no names that could be someone else's.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::cgroup::{Cgroup, remove_dir};
use super::run_lock::RunLock;
use crate::readable::count;

/// Where runs are registered.
pub const REGISTRY: &str = "/run/lab";
/// File that holds the path of the run's control group.
const CGROUP_NOTE: &str = "cgroup";
/// File that holds the paths of its groups with limits, a line each.
const LIMITED_NOTE: &str = "limited";

/// A run's entry in the registry; holds its lock.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    _lock: RunLock,
}

impl Registration {
    /// Registers `run_id`, which must be new. Everyone may read the directory, because children run
    /// as other users.
    pub fn new(run_id: &str) -> io::Result<Registration> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if run_id.is_empty() || run_id.starts_with('.') || !run_id.chars().all(plain) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{run_id:?} cannot name a run")));
        }
        let registry = registry_lock()?;
        let path = Path::new(REGISTRY).join(run_id);
        DirBuilder::new().mode(0o755).create(&path)?;
        let lock = RunLock::new(&path.join("lock"))?;
        for directory in ["ns", "etc", "config"] {
            DirBuilder::new().mode(0o755).create(path.join(directory))?;
        }
        drop(registry);
        Ok(Registration { path, _lock: lock })
    }

    /// `/run/lab/<run>`
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes where the control group will be, so that a later run can kill what is in it. To be
    /// called before the group is made: a lab that is killed in between would otherwise leave a
    /// group that nobody knows of.
    pub fn note_cgroup(&self, path: &Path) -> io::Result<()> {
        std::fs::write(self.path.join(CGROUP_NOTE), path.as_os_str().as_encoded_bytes())
    }

    /// Notes a group with limits, as [`Registration::note_cgroup`] does the run's own.
    pub fn note_limited(&self, path: &Path) -> io::Result<()> {
        let mut note = File::options().create(true).append(true).open(self.path.join(LIMITED_NOTE))?;
        note.write_all(&[path.as_os_str().as_encoded_bytes(), b"\n"].concat())
    }

    /// Makes a namespace findable as `/run/lab/<run>/ns/<name>`.
    pub fn mount_namespace(&self, name: &str, netns: &OwnedFd) -> io::Result<()> {
        let target = self.path.join("ns").join(name);
        File::create(&target)?;
        let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
        mount(Some(source.as_str()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    }

    /// Unmounts and removes everything of this run.
    pub fn remove(&self) -> io::Result<()> {
        // Once the lock's file is gone the rest looks like a dead run: another lab must not clear
        // it away beside us.
        let _registry = registry_lock()?;
        remove_run(&self.path).map(drop)
    }
}

/// Serialises registering and sweeping: between making a run's directory and locking it, it looks
/// dead.
fn registry_lock() -> io::Result<Flock<File>> {
    DirBuilder::new().recursive(true).mode(0o755).create(REGISTRY)?;
    Flock::lock(File::open(REGISTRY)?, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
}

/// What became of the runs whose labs are dead, one sentence each.
#[derive(Debug, Default)]
pub struct Swept {
    /// What was removed.
    pub removed: Vec<String>,
    /// What could not be.
    pub left: Vec<String>,
}

impl Swept {
    /// All of it.
    pub fn said(&self) -> impl Iterator<Item = &String> {
        self.removed.iter().chain(&self.left)
    }
}

/// Clears away every run whose lab is dead.
pub fn sweep() -> Swept {
    let mut said = Swept::default();
    if !Path::new(REGISTRY).exists() {
        return said;
    }
    let swept = (|| -> io::Result<()> {
        let _registry = registry_lock()?;
        for run in std::fs::read_dir(REGISTRY)? {
            let run = run?;
            if run.file_type()?.is_dir() && is_dead(&run.path())? {
                match remove_run(&run.path()) {
                    Ok(what) => said.removed.push(what),
                    Err(e) => said.left.push(format!("could not clear away {}: {e}", run.path().display())),
                }
            }
        }
        Ok(())
    })();
    if let Err(e) = swept {
        said.left.push(format!("could not look for dead runs in {REGISTRY}: {e}"));
    }
    said
}

fn is_dead(run: &Path) -> io::Result<bool> {
    match File::open(run.join("lock")) {
        Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_) => Ok(true),
            Err((_, Errno::EWOULDBLOCK)) => Ok(false),
            Err((_, e)) => Err(e.into()),
        },
        // Directories are registered under the registry's lock, which we hold: nobody is about to
        // make the file.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

fn remove_run(run: &Path) -> io::Result<String> {
    let name = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut groups = 0;
    if let Ok(path) = std::fs::read_to_string(run.join(CGROUP_NOTE)) {
        // The note is only believed if it names this run's own group.
        let path = PathBuf::from(path);
        if path.file_name().is_some_and(|n| n.to_string_lossy() == format!("lab-{name}"))
            && let Some(group) = Cgroup::open(&path)
        {
            group.remove()?;
            groups = 1;
        }
    }
    // Groups with limits, of version 1. Whatever was in them has just been killed. Where they are,
    // the run has noted: that depends on the group that its lab was in, which is not ours.
    for path in std::fs::read_to_string(run.join(LIMITED_NOTE)).unwrap_or_default().lines().map(Path::new) {
        let is_own = |file: &OsStr| file.to_string_lossy().starts_with(&format!("lab-{name}."));
        if path.file_name().is_some_and(is_own) && path.exists() {
            remove_dir(path)?;
            groups += 1;
        }
    }
    let mut namespaces = 0;
    match std::fs::read_dir(run.join("ns")) {
        Ok(mounts) => {
            for mount in mounts {
                let mount = mount?.path();
                match umount2(&mount, MntFlags::MNT_DETACH) {
                    Ok(()) => namespaces += 1,
                    // Never mounted, because the run died before.
                    Err(Errno::EINVAL) => {}
                    Err(e) => return Err(io::Error::other(format!("umount {}: {e}", mount.display()))),
                }
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    match std::fs::remove_dir_all(run) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    Ok(format!("removed run {name}: {}, {}", count(namespaces, "namespace"), count(groups, "control group")))
}

/// What of a run is still on the machine, from the directory, the mounts and the control group;
/// empty if nothing is.
pub fn leftovers(run: &Path, cgroup: Option<&Cgroup>) -> Vec<String> {
    let mut left = Vec::new();
    if run.exists() {
        left.push(format!("directory {}", run.display()));
    }
    let prefix = format!("{}/", run.display());
    for line in std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        if let Some(target) = line.split(' ').nth(4).filter(|t| t.starts_with(&prefix)) {
            left.push(format!("mount {target}"));
        }
    }
    if let Some(group) = cgroup.filter(|g| g.path().exists()) {
        left.push(format!("control group {}", group.path().display()));
    }
    left
}
