//! `proxy run -- command`: the sidecar and its app live and die together. The real binary, with
//! ports of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Nothing here takes so long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sidecar with an app, and a folder for what the app writes.
struct Run {
    dir: TempDir,
    outbound: u16,
}

impl Run {
    fn new(more: &str) -> Run {
        let dir = tempfile::tempdir().unwrap();
        // All at once, so that no two are the same.
        let free: Vec<_> = (0..5).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let ports: Vec<_> = free.iter().map(|l| l.local_addr().unwrap().port()).collect();
        let config = format!(
            "service = 'job'\nworkers = 1\nlisten = {{ outbound = {}, inbound = {}, admin = {}, metrics = {}, health = {} }}\n{more}",
            ports[0], ports[1], ports[2], ports[3], ports[4]
        );
        std::fs::write(dir.path().join("sidecar.toml"), config).unwrap();
        Run { dir, outbound: ports[0] }
    }

    fn start(&self, options: &[&str], app: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy"));
        command.args(["run", "--config", "sidecar.toml"]).args(options).arg("--").args(app);
        command.current_dir(self.dir.path()).env("OUTBOUND", self.outbound.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for a file of the app and reads it.
    fn wait_for(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        until(|| std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')))
    }
}

#[allow(clippy::disallowed_methods, reason = "a test of real processes takes real time")]
fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn terminate(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
}

const WAITS_FOR_TERM: &str = "trap 'exit 3' TERM; echo $$ > started; while :; do sleep 0.05; done";

#[test]
fn a_directory_has_the_audit_log_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let audit = format!("[audit]\ndirectory = '{}'", folder.path().display());
    let first = Run::new(&audit);
    let app = "echo $$ > started; until [ -e done ]; do sleep 0.05; done";
    let running = first.start(&[], &["sh", "-c", app]);
    first.wait_for("started");
    let refused = end(Run::new(&audit).start(&[], &["true"]));
    assert_eq!(refused.status.code(), Some(1));
    let words =
        format!("the audit log cannot be in {}: another process writes one there", folder.path().display());
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&words));
    std::fs::write(first.dir.path().join("done"), "").unwrap();
    assert!(end(running).status.success());
    assert!(end(Run::new(&audit).start(&[], &["true"])).status.success(), "it is free again");
}

#[test]
fn the_sidecar_ends_with_its_app_and_with_its_exit_code() {
    let run = Run::new("");
    assert_eq!(end(run.start(&[], &["sh", "-c", "exit 7"])).status.code(), Some(7));
    assert_eq!(end(run.start(&[], &["sh", "-c", "kill -9 $$"])).status.code(), Some(128 + 9));
}

#[test]
fn the_app_starts_when_the_sidecar_takes_connections() {
    let connects = "exec 3<>/dev/tcp/127.0.0.1/$OUTBOUND && exit 5";
    assert_eq!(end(Run::new("").start(&[], &["bash", "-c", connects])).status.code(), Some(5));
}

#[test]
fn a_sidecar_that_is_told_to_end_tells_its_app_and_waits_for_it() {
    let run = Run::new("timeouts.drain_min = '0s'");
    let sidecar = run.start(&[], &["sh", "-c", WAITS_FOR_TERM]);
    run.wait_for("started");
    terminate(&sidecar);
    assert_eq!(end(sidecar).status.code(), Some(3));
}

#[test]
fn an_app_that_does_not_end_in_time_is_killed() {
    let run = Run::new("timeouts = { drain_min = '0s', drain = '100ms' }");
    let sidecar =
        run.start(&[], &["sh", "-c", "trap '' TERM; echo $$ > started; while :; do sleep 0.05; done"]);
    run.wait_for("started");
    terminate(&sidecar);
    assert_eq!(end(sidecar).status.code(), Some(128 + 9));
}

#[test]
fn an_app_does_not_outlive_a_sidecar_that_is_killed() {
    dies_with_its_sidecar(&[]);
}

#[test]
fn an_app_that_got_its_groups_back_does_not_outlive_its_sidecar_either() {
    // The kernel forgets the signal for the parent's death when the group changes.
    if is_root() {
        dies_with_its_sidecar(&["--gid", "1337"]);
    }
}

fn dies_with_its_sidecar(options: &[&str]) {
    let run = Run::new("");
    let mut sidecar = run.start(options, &["sh", "-c", WAITS_FOR_TERM]);
    let app: i32 = run.wait_for("started").trim().parse().unwrap();
    sidecar.kill().unwrap();
    assert_eq!(sidecar.wait().unwrap().signal(), Some(9));
    until(|| {
        // Whoever inherits it may leave it unreaped.
        let stat = std::fs::read_to_string(format!("/proc/{app}/stat")).unwrap_or_else(|_| "Z".into());
        stat.rsplit(')').next().is_some_and(|state| state.trim_start().starts_with('Z')).then_some(())
    });
}

#[test]
fn a_command_that_cannot_be_started_is_named() {
    for (program, code, why) in [
        ("/no/such/program", 127, "No such file or directory"),
        ("no-such-program", 127, "No such file or directory"),
        ("./sidecar.toml", 126, "Permission denied"),
        ("/proc/self/status/nonsense", 126, "Not a directory"),
    ] {
        let output = end(Run::new("").start(&[], &[program]));
        assert_eq!(output.status.code(), Some(code), "{program}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("cannot start {program}: {why}")), "{said}");
    }
}

#[test]
fn the_app_may_open_as_many_files_as_the_sidecar_was_allowed_to() {
    let run = Run::new("");
    let proxy = env!("CARGO_BIN_EXE_proxy");
    let script =
        format!("ulimit -Sn 300; exec {proxy} run --config sidecar.toml -- sh -c 'ulimit -Sn > files'");
    let mut limited = Command::new("sh");
    limited.args(["-c", &script]).current_dir(run.dir.path()).stdin(Stdio::null());
    assert_eq!(limited.status().unwrap().code(), Some(0));
    assert_eq!(run.wait_for("files"), "300\n");
}

#[test]
fn the_first_process_of_a_container_runs_an_app() {
    if !is_root() {
        return;
    }
    let run = Run::new("");
    let mut first = Command::new("unshare");
    first.args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_proxy")]);
    first.args(["run", "--config", "sidecar.toml", "--", "sh", "-c", "echo $PPID > parent; exit 7"]);
    first.current_dir(run.dir.path()).stdin(Stdio::null());
    assert_eq!(first.status().unwrap().code(), Some(7));
    assert_eq!(run.wait_for("parent"), "1\n");
}

#[test]
fn a_log_that_cannot_be_written_ends_no_sidecar() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run = Run::new("");
    let mut logging = Command::new(env!("CARGO_BIN_EXE_proxy"));
    logging.args(["run", "--config", "sidecar.toml", "--", "sh", "-c", "exit 7"]).env("RUST_LOG", "debug");
    logging.current_dir(run.dir.path()).stdin(Stdio::null());
    assert_eq!(logging.stderr(full()).status().unwrap().code(), Some(7));
    let (unread, written) = std::io::pipe().unwrap();
    drop(unread);
    assert_eq!(logging.stderr(written).status().unwrap().code(), Some(7));

    let mut check = Command::new(env!("CARGO_BIN_EXE_proxy"));
    check.args(["check", "--config", "sidecar.toml"]).current_dir(run.dir.path()).stdin(Stdio::null());
    let checked = check.stdout(full()).output().unwrap();
    assert_eq!(checked.status.code(), Some(1), "what was asked for was not told");
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(said.starts_with("cannot write to standard output: "), "{said}");
}

#[test]
fn a_second_sidecar_on_the_same_ports_is_refused_and_told_whose_they_are() {
    let run = Run::new("timeouts.drain_min = '0s'");
    let first = run.start(&[], &["sh", "-c", WAITS_FOR_TERM]);
    run.wait_for("started");
    let second = end(run.start(&[], &["sh", "-c", "echo ran > second"]));
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    let whose = format!("port {} (outbound) is taken by process {} (proxy)", run.outbound, first.id());
    assert!(said.contains(&whose), "{said}");
    assert!(!run.dir.path().join("second").exists());
    terminate(&first);
    assert_eq!(end(first).status.code(), Some(3));
}

#[test]
fn the_sidecar_takes_the_exempt_group_and_the_app_does_not() {
    if !is_root() {
        return;
    }
    let run = Run::new("timeouts.drain_min = '0s'");
    let groups = "grep -E '^(Gid|Groups):' /proc/$$/status > groups";
    let sidecar = run.start(&["--gid", "1337"], &["sh", "-c", &format!("{groups}; {WAITS_FOR_TERM}")]);
    let of = |process: &str| -> Vec<String> {
        let status = std::fs::read_to_string(Path::new("/proc").join(process).join("status")).unwrap();
        let lines = status.lines().filter(|line| line.starts_with("Gid:") || line.starts_with("Groups:"));
        lines.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).collect()
    };
    run.wait_for("started");
    let app: Vec<_> = run.wait_for("groups").lines().map(str::to_owned).collect();
    let app: Vec<_> =
        app.iter().map(|l| l.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(app, of("self"));
    let group = "1337 1337 1337 1337".to_owned();
    // Every thread: sockets belong to the group of the thread that makes them.
    for thread in std::fs::read_dir(format!("/proc/{}/task", sidecar.id())).unwrap() {
        let thread = thread.unwrap().path();
        assert_eq!(of(&thread.display().to_string()), [group.clone(), "1337".into()]);
    }
    terminate(&sidecar);
    assert_eq!(end(sidecar).status.code(), Some(3));
}

/// Whether this is root; if not, says that the test is skipped, or fails where it must not be.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(
        root || std::env::var_os("LAB_REQUIRE_KERNEL").is_none(),
        "kernel tests are required, which takes root"
    );
    if !root {
        eprintln!("skipped: it takes root");
    }
    root
}

#[test]
fn a_configuration_that_is_wrong_is_logged_without_what_it_says() {
    let more = "[[cluster]]\nname = 'c'\naddresses = ['10.0.0.1:80']\nendpoints = ['10.0.0.2:80']\n\
                [[cluster.route]]\nrequest_headers.set.authorization = 99887766\nname = 'SECRET'\nwrong = 1\n";
    let run = Run::new(more);
    let output = run.start(&[], &["true"]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "sidecar.toml:9:37: `cluster.route.request_headers.set.authorization` takes text\n\
         sidecar.toml:11:1: unknown key `wrong`\n\
         `proxy check --config sidecar.toml` shows the lines and what to write\n"
    );
}
