//! What runs leave on a machine: everything that carries the id of a run, and everything that the
//! lab must not touch.
//!
//! Written without the lab's own way of cleaning up, because it judges that: it reads /proc, the
//! control groups, the mounts, and what `iptables-save` says of the main namespace.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use lab::kernel::cleanup::REGISTRY;

/// Processes of a run: those whose control group is the run's, or that run the copy of the lab's
/// executable that only exists for this run. One that is dead and not yet reaped does not count.
pub fn processes(run: &str) -> Vec<String> {
    let group = format!("/lab-{run}/");
    let folder = format!("{REGISTRY}/{run}/");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
        // Only the program counts: someone may be looking at the folder.
        let ours = groups.lines().any(|l| format!("{l}/").contains(&group)) || line.starts_with(&folder);
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let alive = stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']));
        if ours && alive {
            found.push(format!("process {}: {line}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Everything on this machine that carries the id of `run`.
pub fn of_run(run: &str) -> Vec<String> {
    let mut left = processes(run);
    let folder = Path::new(REGISTRY).join(run);
    if folder.exists() {
        left.push(format!("directory {}", folder.display()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    left.extend(mounts.lines().filter(|l| l.contains(run)).map(|l| format!("mount {l}")));
    for root in mounts.lines().filter(|l| l.contains(" - cgroup2 ")).filter_map(|l| l.split(' ').nth(4)) {
        let group = Path::new(root).join(format!("lab-{run}"));
        if group.exists() {
            left.push(format!("control group {}", group.display()));
        }
    }
    left
}

/// The main namespace: its rules in both families, without counters and remarks, and its
/// interfaces.
#[derive(Debug, PartialEq, Eq)]
pub struct Outside {
    rules: Vec<String>,
    interfaces: BTreeSet<String>,
}

impl Outside {
    /// As it is now.
    pub fn now() -> Outside {
        let mut rules = Vec::new();
        for tool in ["iptables-save", "ip6tables-save"] {
            let saved = Command::new(tool).output().unwrap_or_else(|e| panic!("{tool}: {e}"));
            assert!(saved.status.success(), "{tool}: {saved:?}");
            let text = String::from_utf8_lossy(&saved.stdout).into_owned();
            let lasting = text.lines().filter(|l| l.starts_with("-A"));
            rules.extend(lasting.map(|l| format!("{tool}: {l}")));
        }
        let interfaces = std::fs::read_dir("/sys/class/net").expect("interfaces").flatten();
        let interfaces = interfaces.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        Outside { rules, interfaces }
    }
}
