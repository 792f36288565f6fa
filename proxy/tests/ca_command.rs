//! `proxy ca`, as its operator uses it, and a sidecar that gets its certificate from it: the real
//! binary, with ports of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";

/// A process that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Authority {
    folder: TempDir,
    port: u16,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        Authority { folder, port: ports(1)[0] }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy"));
        let (action, rest) = arguments.split_first().unwrap();
        command.args(["ca", action, "--state", "state"]).args(rest).current_dir(self.folder.path());
        command
    }

    /// Runs a command to its end: its exit code, what it printed, and what it complained about.
    fn ask(&self, arguments: &[&str]) -> (i32, String, String) {
        let address = format!("127.0.0.1:{}", self.port);
        let mut command = self.command(arguments);
        if !["token", "run"].contains(&arguments[0]) {
            command.args(["--address", &address]);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn print(&self, arguments: &[&str]) -> String {
        let (code, printed, error) = self.ask(arguments);
        assert_eq!((code, &*error), (0, ""), "{arguments:?}");
        printed
    }

    fn run(&self, lifetime: &str) -> Process {
        let listen = format!("127.0.0.1:{}", self.port);
        let mut command =
            self.command(&["run", "--trust-domain", "mesh.test", "--certificate-lifetime", lifetime]);
        let child = command.args(["--listen", &listen]).stderr(Stdio::null()).spawn().unwrap();
        until("it answers", || (self.ask(&["roots"]).0 == 0).then_some(()));
        Process(child)
    }
}

/// Free ports, no two the same.
fn ports(count: usize) -> Vec<u16> {
    let free: Vec<_> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    free.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

#[allow(clippy::disallowed_methods, reason = "a test of real processes takes real time")]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A page of a sidecar: its status and its text.
fn page(port: u16, path: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let mut io = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    io.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    io.read_to_string(&mut text).ok()?;
    Some((text.split(' ').nth(1)?.parse().ok()?, text))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_operator_runs_an_authority_and_a_sidecar_gets_its_certificate_from_it() {
    let ca = Authority::new();
    let (code, _, error) = ca.ask(&["token", "--id", WEB]);
    assert_eq!(code, 1);
    assert!(error.contains("there is no authority's state here"), "{error}");
    let running = ca.run("1h");
    for file in ["state.json", "issued.log"] {
        assert_eq!(mode(&ca.folder.path().join("state").join(file)), 0o600, "{file}");
    }
    let write = |name: &str, text: &str| std::fs::write(ca.folder.path().join(name), text).unwrap();
    write("roots.pem", &ca.print(&["roots"]));
    let p = ports(5);
    write(
        "sidecar.toml",
        &format!(
            "service = 'web'\nworkers = 1\n\
             listen = {{ outbound = {}, inbound = {}, admin = {}, metrics = {}, health = {} }}\n\
             [identity]\nid = '{WEB}'\n[identity.ca]\n\
             addresses = ['127.0.0.1:{}']\nroots = 'roots.pem'\ntoken = 'token'\n",
            p[0], p[1], p[2], p[3], p[4], ca.port
        ),
    );
    let mut sidecar = Command::new(env!("CARGO_BIN_EXE_proxy"));
    sidecar.args(["run", "--config", "sidecar.toml"]).current_dir(ca.folder.path());
    let _sidecar = Process(sidecar.stderr(Stdio::null()).spawn().unwrap());
    let ready = |status| page(p[4], "/ready").filter(|(found, _)| *found == status);
    let (_, why) = until("it says what it lacks", || ready(503).filter(|(_, why)| why.contains("token")));
    assert!(why.contains("there is no certificate yet: no bootstrap token: cannot read token"), "{why}");
    write("token", &ca.print(&["token", "--id", WEB]));
    until("it has a certificate", || ready(200));
    let issued = ca.print(&["issued"]);
    assert!(issued.contains(WEB), "{issued}");
    assert_eq!(ca.print(&["rotate"]), "a new root is announced\n");
    assert_eq!(ca.print(&["roots"]).matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(ca.ask(&["rotate"]).0, 1, "one is on its way");
    assert_eq!(ca.print(&["revoke", "--id", WEB]), "certificates revoked: 1\n");
    drop(running);
    let _again = ca.run("1h");
    assert_eq!(ca.print(&["roots"]).matches("BEGIN CERTIFICATE").count(), 2);
}

#[test]
fn what_an_operator_gets_wrong_is_said() {
    let ca = Authority::new();
    let run = |more: &[&str]| ca.ask(&[&["run"], more].concat());
    for (arguments, words) in [
        (&["--trust-domain", "Mesh"][..], "'M' is not allowed in a trust domain"),
        (&["--trust-domain", "mesh.test", "--certificate-lifetime", "10"], "invalid value '10'"),
        (&["--trust-domain", "mesh.test", "--certificate-lifetime", "0s"], "at least 1s"),
        (&["--trust-domain", "mesh.test", "--certificate-lifetime", "1y"], "m (minutes), h and d (days)"),
        (&["--trust-domain", "mesh.test", "--certificates-per-workload", "0"], "0 is not in 1..=100000"),
        (&["--trust-domain", "mesh.test", "--root-lifetime", "3d"], "at least four times as long"),
    ] {
        let (code, _, error) = run(arguments);
        assert_eq!(code, 2, "{error}");
        assert!(error.contains(words), "{error}");
    }
    let _running = ca.run("1h");
    let (code, _, error) = run(&["--trust-domain", "mesh.test", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 1);
    assert!(error.contains("another authority runs on state"), "{error}");
    let (code, _, error) = ca.ask(&["token", "--id", "spiffe://mesh.test/sidelab/ca"]);
    assert_eq!(code, 2);
    assert!(error.contains("is no workload of the trust domain"), "{error}");
    for (lifetime, words) in [("168.1h", "seven days at most, 7d"), ("365d", "seven days at most, 7d")] {
        let (code, _, error) = ca.ask(&["token", "--id", WEB, "--lifetime", lifetime]);
        assert_eq!(code, 2);
        assert!(error.contains(words), "{error}");
    }
    ca.print(&["token", "--id", WEB, "--lifetime", "7d"]);
    let (code, _, error) = ca.ask(&["revoke"]);
    assert_eq!(code, 2);
    assert!(error.contains("<--id <SPIFFE-ID>|--serial <NUMBER>>"), "{error}");
    let (code, _, error) = ca.ask(&["revoke", "--serial", "none"]);
    assert_eq!(code, 1);
    assert!(error.contains("this is no serial number"), "{error}");
    let (code, _, error) = ca.ask(&["revoke", "--id", "spiffe://other.test/a"]);
    assert_eq!(code, 1);
    assert!(error.contains("is no workload of the trust domain"), "{error}");
}

#[test]
fn an_authority_that_cannot_start_says_why_and_makes_no_root() {
    let ca = Authority::new();
    let state = ca.folder.path().join("state");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let run = || ca.ask(&["run", "--trust-domain", "mesh.test", "--listen", &listen]);
    let (code, _, error) = run();
    assert_eq!(code, 1);
    assert!(error.contains(&format!("error: cannot listen on {listen}: ")), "{error}");
    assert!(!state.join("state.json").exists());
    drop(taken);
    std::fs::write(state.join("state.json"), "{").unwrap();
    let (code, _, error) = run();
    assert_eq!(code, 1);
    assert!(error.contains("error: state: state.json:1: EOF while parsing"), "{error}");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "").unwrap();
    let (code, _, error) = run();
    assert_eq!(code, 2);
    assert!(error.contains("error: state is no directory"), "{error}");
}

#[test]
fn an_authority_takes_from_others_what_they_may_read() {
    let ca = Authority::new();
    let state = ca.folder.path().join("state");
    let with_mode =
        |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    with_mode(&state, 0o755);
    drop(ca.run("1h"));
    assert_eq!(mode(&state), 0o700);
    for file in ["state.json", "issued.log"] {
        with_mode(&state.join(file), 0o644);
    }
    let _running = ca.run("1h");
    for file in ["state.json", "issued.log"] {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
}
