//! What the tests of the kernel world share: a folder, a plan, and how to look at the result.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::app::{AppKind, AppSpec, CommandApp};
use lab::events::EventLog;
use lab::kernel::cgroup::Cgroup;
use lab::kernel::{KernelWorld, Options, cleanup, doctor};
use lab::plan::{Instance, Plan, SidecarKind};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

#[path = "../plans/mod.rs"]
mod plans;

pub use plans::entry;

pub const WITHIN: Duration = Duration::from_secs(10);
/// Set for the lab that gets killed: the folder that outlives it.
pub const VICTIM: &str = "LAB_TEST_VICTIM";

/// Whether the machine can run this test; says so if not.
pub fn can_run() -> bool {
    match doctor::require() {
        Ok(()) => true,
        Err(why) if std::env::var_os("LAB_REQUIRE_KERNEL").is_some_and(|v| v == "1") => panic!("{why}"),
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            false
        }
    }
}

/// A folder that other users may enter, with this binary in it.
pub struct Testbed {
    pub dir: TempDir,
    pub run_id: String,
}

impl Testbed {
    pub fn new(test: &str) -> Testbed {
        let base = std::env::var_os(VICTIM).map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::tempdir_in(base).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), dir.path().join("helper")).unwrap();
        Testbed { dir, run_id: format!("test-{test}-{}", std::process::id()) }
    }

    /// Arguments that start this binary as the test `helper`.
    pub fn helper(&self, helper: &str) -> Vec<String> {
        let exe = self.dir.path().join("helper").display().to_string();
        [exe.as_str(), "--exact", helper, "--nocapture"].map(str::to_owned).to_vec()
    }

    /// A stand-in for the lab's executable.
    pub fn script(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("exe.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub fn world(&self, plan: Plan, exe: PathBuf) -> (KernelWorld, EventLog) {
        let events = EventLog::new(std::time::SystemTime::UNIX_EPOCH);
        let options = Options {
            run_id: self.run_id.clone(),
            run_dir: self.dir.path().join("run"),
            backend: None,
            exe,
            events: events.clone(),
        };
        (KernelWorld::new(plan, options).unwrap(), events)
    }

    pub fn left_behind(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let group = Cgroup::mount_point(&mounts)
            .and_then(|root| Cgroup::open(&root.join(format!("lab-{}", self.run_id))));
        cleanup::leftovers(&Path::new(cleanup::REGISTRY).join(&self.run_id), group.as_ref())
    }
}

pub fn instance(position: usize, name: &str, service: usize, command: Option<Vec<String>>) -> Instance {
    let n = position as u8 + 1;
    let app =
        command.map(|c| AppSpec { instance: name.into(), port: 8080, kind: AppKind::Command(CommandApp(c)) });
    Instance {
        name: name.into(),
        service,
        v4: Ipv4Addr::new(10, 20, 0, n),
        v6: Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, n.into()),
        mac: [2, 0x1a, 0xb0, 0, 0, n],
        zone: None,
        weight: None,
        labels: Default::default(),
        identity: None,
        app,
        sidecar: None,
    }
}

/// `web` calls, `orders-1` and `orders-2` answer with their names.
pub fn plan(command: Vec<String>) -> Plan {
    let service = |name: &str, n: u8, port, instances| {
        let vips = (Ipv4Addr::new(10, 96, 0, n), Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, n.into()));
        plans::service(name, vips, port, instances)
    };
    Plan {
        name: "test".into(),
        seed: 1,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(1),
        sidecar: SidecarKind::None,
        services: vec![service("web", 1, None, vec![0]), service("orders", 2, Some(8080), vec![1, 2])],
        instances: vec![
            instance(0, "web", 0, None),
            instance(1, "orders-1", 1, Some(command.clone())),
            instance(2, "orders-2", 1, Some(command)),
        ],
        authorities: Vec::new(),
        certificates: Vec::new(),
        captures: Vec::new(),
        links: Vec::new(),
        loads: Vec::new(),
        timeline: Vec::new(),
        expectations: Vec::new(),
        left_out: 0,
    }
}

/// What is said to an instance that dials `to`.
pub async fn dial(world: &KernelWorld, from: usize, to: SocketAddr) -> std::io::Result<String> {
    let node = world.node(from).unwrap();
    let answer = node.probe(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut name = String::new();
        stream.read_to_string(&mut name)?;
        Ok(name)
    });
    answer.await?
}

pub fn metric(samples: &[lab::metrics::Sample], name: &str, label: (&str, &str)) -> f64 {
    let named = samples.iter().filter(|s| *s.name == *name);
    named.filter(|s| s.labels.has(label.0, label.1)).map(|s| s.value).sum()
}

pub async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
