//! What a sidecar gives up, read from `/proc` of a real process, thread by thread. Takes root, and
//! is skipped without.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tempfile::TempDir;

/// Nothing here takes so long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// A user that nobody is.
const USER: u32 = 4242;
/// CAP_NET_ADMIN and CAP_NET_BIND_SERVICE (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;
const NET_BIND_SERVICE: u64 = 1 << 10;
const IDENTITY: &str = "identity = { id = 'spiffe://mesh.test/a', files = '/nonexistent' }\n";

/// A sidecar that runs.
struct Sidecar {
    child: Child,
    _folder: TempDir,
}

impl Sidecar {
    /// Starts one and waits until it works; `None` if this is not root.
    fn start(more: &str, options: &[&str], change: impl Fn(&mut Command)) -> Option<Sidecar> {
        if !geteuid().is_root() {
            assert!(std::env::var_os("LAB_REQUIRE_KERNEL").is_none(), "this takes root");
            eprintln!("skipped: takes root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let free: Vec<_> = (0..5).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let ports: Vec<_> = free.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(free);
        let listen = ["outbound", "inbound", "admin", "metrics", "health"].into_iter().zip(&ports);
        let listen: Vec<_> = listen.map(|(name, port)| format!("{name} = {port}")).collect();
        let config = format!("service = 'a'\nworkers = 2\nlisten = {{ {} }}\n{more}", listen.join(", "));
        fs::write(folder.path().join("sidecar.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy"));
        command.args(["run", "--config", "sidecar.toml"]).args(options).current_dir(folder.path());
        change(&mut command);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let sidecar = Sidecar { child, _folder: folder };
        until("it listens", || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0])).is_ok());
        Some(sidecar)
    }

    /// What each of its threads says of itself.
    fn threads(&self) -> Vec<Status> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let threads: Vec<_> =
            tasks.map(|task| Status::read(&task.unwrap().path().display().to_string())).collect();
        assert!(threads.len() >= 3, "control and two workers: {threads:?}");
        threads
    }

    /// To whom its part of `/proc` belongs: root, if its memory is private.
    fn owner(&self) -> u32 {
        fs::metadata(format!("/proc/{}/environ", self.child.id())).unwrap().uid()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What proc_pid_status(5) says.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    users: Vec<u32>,
    groups: Vec<u32>,
    others: Vec<u32>,
    permitted: u64,
    effective: u64,
    inherited: u64,
    no_new_privileges: bool,
}

impl Status {
    fn read(process: &str) -> Self {
        let text = fs::read_to_string(format!("{process}/status")).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("{name} in {text}")).trim()
        };
        let numbers = |name| field(name).split_whitespace().map(|n| n.parse().unwrap()).collect();
        let bits = |name| u64::from_str_radix(field(name), 16).unwrap();
        Status {
            users: numbers("Uid"),
            groups: numbers("Gid"),
            others: numbers("Groups"),
            permitted: bits("CapPrm"),
            effective: bits("CapEff"),
            inherited: bits("CapInh") | bits("CapAmb"),
            no_new_privileges: field("NoNewPrivs") == "1",
        }
    }

    /// That of user and group, with these capabilities and no more.
    fn of(user: u32, group: u32, capabilities: u64) -> Self {
        Status {
            users: vec![user; 4],
            groups: vec![group; 4],
            others: vec![group],
            permitted: capabilities,
            effective: capabilities,
            inherited: 0,
            no_new_privileges: true,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a test of real processes takes real time")]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_sidecar_is_its_own_user_in_every_thread_with_the_capabilities_that_its_configuration_takes() {
    let uid = USER.to_string();
    let cases: [(&str, &[&str], u32, u64); 4] = [
        ("", &["--uid", &uid], USER, 0),
        ("mark = 7\n", &["--uid", &uid], USER, NET_ADMIN),
        (IDENTITY, &["--uid", &uid, "--gid", "4343"], 4343, 0),
        ("", &["--uid", &uid, "--gid", "4343"], 4343, 0),
    ];
    for (more, options, group, capabilities) in cases {
        let Some(sidecar) = Sidecar::start(more, options, |_| {}) else { return };
        for thread in sidecar.threads() {
            assert_eq!(thread, Status::of(USER, group, capabilities), "{more} {options:?}");
        }
    }
}

#[test]
fn root_without_another_user_has_no_capability_that_it_does_not_need() {
    let Some(sidecar) = Sidecar::start("", &[], |_| {}) else { return };
    for thread in sidecar.threads() {
        assert_eq!((thread.permitted, thread.effective, thread.inherited), (0, 0, 0));
        assert!(thread.no_new_privileges && thread.users == [0; 4]);
    }
}

#[test]
fn a_port_below_1024_keeps_the_capability_to_bind_it() {
    // The port is the sidecar's alone: nothing else in these tests takes one of these.
    let Some(sidecar) = Sidecar::start("", &["--uid", "4242"], |command| {
        let file = command.get_current_dir().unwrap().join("sidecar.toml");
        let text = fs::read_to_string(&file).unwrap();
        let (before, after) = text.split_once("health = ").unwrap();
        let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
        fs::write(file, format!("{before}health = 871{after}")).unwrap();
    }) else {
        return;
    };
    assert!(sidecar.threads().iter().all(|thread| *thread == Status::of(USER, USER, NET_BIND_SERVICE)));
}

#[test]
fn who_has_keys_keeps_its_memory_to_itself() {
    let as_user = |command: &mut Command| {
        command.uid(USER).gid(USER);
    };
    let Some(without) = Sidecar::start("", &[], as_user) else { return };
    let with = Sidecar::start(IDENTITY, &[], as_user).unwrap();
    assert_eq!((without.owner(), with.owner()), (USER, 0));
}

#[test]
fn an_authority_is_its_own_user_without_capabilities_and_keeps_its_memory_and_its_state_to_itself() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("LAB_REQUIRE_KERNEL").is_none(), "this takes root");
        eprintln!("skipped: takes root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let authority = |port: u16, options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy"));
        command.args(["ca", "run", "--state", "state", "--trust-domain", "mesh.test"]).args(options);
        command.args(["--listen", &format!("127.0.0.1:{port}")]).current_dir(folder.path());
        command.stdin(Stdio::null());
        command
    };
    let refused = |options: &[&str], owner: u32, user: u32| {
        let output = authority(1, options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let expected =
            format!("state is of user {owner}, and this is user {user}: start it with --uid {owner}");
        assert!(output.status.code() == Some(2) && said.contains(&expected), "{said}");
    };
    let uid = USER.to_string();
    refused(&["--uid", &uid], 0, USER);
    std::os::unix::fs::chown(&state, Some(USER), Some(USER)).unwrap();
    refused(&[], USER, 0);
    // One of them takes the capability to bind, and neither has it once it has done so.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    for (port, options, group) in
        [(872, &["--uid", &uid][..], USER), (free, &["--uid", &uid, "--gid", "4343"], 4343)]
    {
        let child = authority(port, options).stderr(Stdio::null()).spawn().unwrap();
        let running = Sidecar { child, _folder: tempfile::tempdir().unwrap() };
        until("it listens", || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        until("it has a root", || state.join("state.json").exists());
        for task in fs::read_dir(format!("/proc/{}/task", running.child.id())).unwrap() {
            let thread = Status::read(&task.unwrap().path().display().to_string());
            assert_eq!(thread, Status::of(USER, group, 0), "{port}");
        }
        assert_eq!(running.owner(), 0, "its memory is private");
        assert_eq!(fs::metadata(state.join("state.json")).unwrap().uid(), USER);
    }
}

#[test]
fn an_app_gets_what_its_sidecar_was_started_with_and_no_sidecar_with_an_app_becomes_another_user() {
    let own = Status::read("/proc/self");
    let options =
        ["--gid", "4343", "--", "sh", "-c", "cat /proc/self/status > status; echo > done; exec sleep 60"];
    let Some(sidecar) = Sidecar::start(IDENTITY, &options, |_| {}) else { return };
    let folder = sidecar._folder.path();
    until("the app has started", || folder.join("done").exists());
    let app = Status::read(folder.to_str().unwrap());
    assert_eq!(app, own);
    assert_eq!(sidecar.owner(), 0);
    let refused = Command::new(env!("CARGO_BIN_EXE_proxy"))
        .args(["run", "--config", "a", "--uid", "1", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot be used with"));
}
