//! What a process may take of the machine: its control group's limits of CPU and memory, and what
//! came of them.
//!
//! A machine has its controllers in the unified hierarchy (version 2) or each in one of its own
//! (version 1); both are common, so both are used, each where it is. In version 2 the limits stand
//! on the group that the process has anyway; in version 1 it joins one more group for each
//! controller, beside the lab's own. Where a controller is missing the world does not come up and
//! says which, because a run without its limits would measure something else.
//!
//! A limit of memory is hard: past it the kernel kills. The sidecar is told four fifths of it as
//! its budget, as it would choose itself if it could see its group from inside a namespace.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::{Cgroup, remove_dir};
use crate::plan::ResourceLimits;

/// The scheduler's window, microseconds: the kernel's default.
const PERIOD_US: f64 = 100_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where one controller's groups are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    /// The group under which ours belong.
    parent: PathBuf,
}

/// The limited groups of one process.
#[derive(Debug, Clone)]
pub struct Limited {
    cpu: Option<(Version, PathBuf)>,
    memory: Option<(Version, PathBuf)>,
}

/// What came of the limits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Windows of 100 ms in which the process wanted more CPU than it may have.
    pub throttled: Option<f64>,
    /// The most memory that it ever had, bytes.
    pub peak: Option<f64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<f64>,
}

impl Limited {
    /// Makes the groups for `limits` of a process whose own group is `own`, a child of the run's
    /// `run`. Version 1's are called `name`, which must be unique on this machine, and each is told
    /// to `note` before it is made.
    pub fn create(
        run: &Cgroup,
        own: &Cgroup,
        name: &str,
        limits: ResourceLimits,
        note: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<Limited> {
        let (mounts, groups) =
            (std::fs::read_to_string("/proc/mounts")?, std::fs::read_to_string("/proc/self/cgroup")?);
        let mut limited = Limited { cpu: None, memory: None };
        if let Some(cores) = limits.cpu {
            let group = group("cpu", &mounts, &groups, run, own, name, &note)?;
            let quota = (cores * PERIOD_US).round();
            match group.0 {
                Version::Two => write(&group.1, "cpu.max", &format!("{quota} {PERIOD_US}"))?,
                Version::One => write(&group.1, "cpu.cfs_quota_us", &quota.to_string())?,
            }
            limited.cpu = Some(group);
        }
        if let Some(bytes) = limits.memory {
            let group = group("memory", &mounts, &groups, run, own, name, &note)?;
            let file = if group.0 == Version::Two { "memory.max" } else { "memory.limit_in_bytes" };
            write(&group.1, file, &bytes.to_string())?;
            limited.memory = Some(group);
        }
        Ok(limited)
    }

    /// The files to which a child writes `0` to join, beside that of its own group.
    pub fn entrances(&self) -> io::Result<Vec<File>> {
        let open = |path: &PathBuf| OpenOptions::new().write(true).open(path.join("cgroup.procs"));
        self.extra().map(open).collect()
    }

    /// What came of them so far.
    pub fn usage(&self) -> Usage {
        let read = |path: &Path, file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        let mut usage = Usage::default();
        if let Some((_, path)) = &self.cpu {
            usage.throttled = field(&read(path, "cpu.stat"), "nr_throttled");
        }
        if let Some((version, path)) = &self.memory {
            let (peak, events) = match version {
                Version::Two => ("memory.peak", "memory.events"),
                Version::One => ("memory.max_usage_in_bytes", "memory.oom_control"),
            };
            usage.peak = read(path, peak).trim().parse().ok();
            usage.oom_kills = field(&read(path, events), "oom_kill");
        }
        usage
    }

    /// Removes the groups that are not the process's own. Whatever was in them must have been
    /// killed.
    pub fn remove(&self) -> io::Result<()> {
        self.extra().try_for_each(|path| remove_dir(path))
    }

    /// The groups of version 1.
    fn extra(&self) -> impl Iterator<Item = &PathBuf> {
        let one = |group: &&(Version, PathBuf)| group.0 == Version::One;
        self.cpu.iter().chain(&self.memory).filter(one).map(|(_, path)| path)
    }
}

fn write(group: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = group.join(file);
    std::fs::write(&path, value)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot write {value} to {}: {e}", path.display())))
}

/// The group in which a controller limits a process.
fn group(
    controller: &str,
    mounts: &str,
    groups: &str,
    run: &Cgroup,
    own: &Cgroup,
    name: &str,
    note: &impl Fn(&Path) -> io::Result<()>,
) -> io::Result<(Version, PathBuf)> {
    let missing =
        || io::Error::new(io::ErrorKind::Unsupported, format!("this machine has no {controller} controller"));
    let Hierarchy { version, parent } = place(controller, mounts, groups).ok_or_else(missing)?;
    if version == Version::One {
        let path = parent.join(name);
        note(&path)?;
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => return Ok((version, path)),
        }
    }
    // From the root down to the run's group each must hand the controller on.
    for above in [&parent, run.path()] {
        write(above, "cgroup.subtree_control", &format!("+{controller}"))?;
    }
    Ok((version, own.path().to_owned()))
}

/// Where a controller is, from the texts of /proc/mounts and /proc/self/cgroup.
fn place(controller: &str, mounts: &str, groups: &str) -> Option<Hierarchy> {
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (target, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup" && options.split(',').any(|o| o == controller)).then_some(target)
    });
    if let Some(mount) = mounted {
        // Below the group that the lab itself is in, so that its limits hold for us too.
        let own = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            controllers.split(',').any(|c| c == controller).then_some(path)
        });
        let below = Path::new(mount).join(own.unwrap_or("/").trim_start_matches('/'));
        // In a container the path may be one that only the machine outside can see.
        let parent = if below.is_dir() { below } else { PathBuf::from(mount) };
        return Some(Hierarchy { version: Version::One, parent });
    }
    let parent = Cgroup::mount_point(mounts)?;
    let has = std::fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    let there = has.split_ascii_whitespace().any(|c| c == controller);
    there.then_some(Hierarchy { version: Version::Two, parent })
}

/// `name 5` in a file of such lines.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_of_version_1_is_found_among_others() {
        let mounts =
            "cgroup /none/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup2 /none/unified cgroup2 rw 0 0\n";
        let place = place("cpu", mounts, "3:cpu,cpuacct:/pod/x\n0::/\n").unwrap();
        let parent = PathBuf::from("/none/cpu,cpuacct");
        assert_eq!(place, Hierarchy { version: Version::One, parent }, "there is no /pod/x to be seen here");
        assert_eq!(super::place("memory", mounts, ""), None, "the unified hierarchy does not have it");
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "nr_periods 7\nnr_throttled 3\noom_kill_disable 0\noom_kill 2\n";
        assert_eq!(field(text, "nr_throttled"), Some(3.0));
        assert_eq!(field(text, "oom_kill"), Some(2.0));
        assert_eq!(field(text, "oom"), None);
    }
}
