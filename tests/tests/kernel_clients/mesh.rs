//! One lab with a real server behind each sidecar, shared by all tests of this file, and real
//! clients inside it.
//!
//! The lab comes up with the first test that needs it and ends with the last: each test holds an
//! `Arc`, and one that finds none makes a new one. Tests take turns, because what a test asks of
//! the sidecars' counters is what happened during its own turn. A client is started the way a
//! person would do it, by `nsenter` beside web's sidecar, so it has web's network and its
//! /etc/hosts, and runs as an ordinary user whose connections the rules redirect.
//!
//! It leaves out what the servers are asked: that is in the other files of this folder.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Duration;

use lab::metrics::{self, Sample};
use lab::plan::{APP_UID, METRICS_PORT};
use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tests::testbed::{Lab, Testbed, page, pid_of, sum, wait_until};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");
/// Debian's own Python: its modules come as Debian packages, whatever other Python stands first in
/// PATH.
pub const PYTHON: &str = "/usr/bin/python3";
/// The file that goes up and down.
pub const PAYLOAD_BYTES: u64 = 1 << 30;
/// Seconds that a client may take.
const CLIENT_WITHIN: u32 = 120;

/// Where `npm install --global` puts things, Debian's and Node's own.
macro_rules! node_path {
    () => {
        "/usr/local/lib/node_modules:/usr/lib/node_modules"
    };
}

/// What is looked for before anything starts: a command that must succeed, and the package that
/// brings it.
const NEEDS: [(&[&str], &str); 13] = [
    (&["curl", "--version"], "curl"),
    (&["nginx", "-v"], "nginx-light"),
    (&["openssl", "version"], "openssl"),
    (&[PYTHON, "-c", "import grpc"], "python3-grpcio"),
    (&[PYTHON, "-c", "import websockets"], "python3-websockets"),
    (&[PYTHON, "-c", "import aiosmtpd"], "python3-aiosmtpd"),
    (&["sh", "-c", "ls /usr/lib/postgresql/*/bin/initdb"], "postgresql"),
    (&["psql", "--version"], "postgresql-client"),
    (&["redis-server", "--version"], "redis-server"),
    (&["redis-cli", "--version"], "redis-tools"),
    (&["node", "--version"], "nodejs"),
    (
        &["sh", "-c", concat!("NODE_PATH=", node_path!(), " node -e 'require(\"@grpc/grpc-js\")'")],
        "@grpc/grpc-js@1.14.7",
    ),
    (&["nsenter", "--version"], "util-linux"),
];

/// Programs that run as servers and clients.
const PROGRAMS: [(&str, &str); 5] = [
    ("grpc_server.py", include_str!("../../clients/grpc_server.py")),
    ("grpc_server.js", include_str!("../../clients/grpc_server.js")),
    ("grpc_client.py", include_str!("../../clients/grpc_client.py")),
    ("websocket_server.py", include_str!("../../clients/websocket_server.py")),
    ("websocket_client.py", include_str!("../../clients/websocket_client.py")),
];

/// A lab that is up.
pub struct Mesh {
    // Before the bench: the lab must be gone when the bench takes its folder away.
    // The mutex is for the compiler: only `drop` asks the lab anything.
    lab: Mutex<Lab>,
    run: PathBuf,
    testbed: Testbed,
    payload: Once,
}

/// A test's turn: the mesh, with the other tests kept waiting.
pub struct Turn {
    mesh: Arc<Mesh>,
    _turn: MutexGuard<'static, ()>,
}

static SHARED: Mutex<Weak<Mesh>> = Mutex::new(Weak::new());
static TURNS: Mutex<()> = Mutex::new(());

/// A turn in the shared lab, or `None` where the kernel or one of the programs is missing.
///
/// # Panics
/// If something is missing and kernel tests are required (`LAB_REQUIRE_KERNEL=1`), or the lab does
/// not come up.
pub fn turn() -> Option<Turn> {
    let mesh = {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.upgrade() {
            Some(mesh) => mesh,
            None => {
                let mesh = Arc::new(Mesh::start()?);
                *shared = Arc::downgrade(&mesh);
                mesh
            }
        }
    };
    Some(Turn { mesh, _turn: TURNS.lock().unwrap_or_else(PoisonError::into_inner) })
}

impl std::ops::Deref for Turn {
    type Target = Mesh;
    fn deref(&self) -> &Mesh {
        &self.mesh
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // As Ctrl-C does: it takes its namespaces away. Should it hang, the kill in `Lab` follows.
        let lab = self.lab.get_mut().unwrap_or_else(PoisonError::into_inner);
        lab.signal(Signal::SIGINT);
        lab.ends_within(Duration::from_secs(20));
    }
}

/// Whether every program is there; says which are not.
fn programs() -> bool {
    let found = |command: &[&str]| {
        let mut check = Command::new(command[0]);
        check.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        check.status().is_ok_and(|status| status.success())
    };
    let missing: Vec<_> = NEEDS.iter().filter(|(command, _)| !found(command)).collect();
    if missing.is_empty() {
        return true;
    }
    let commands: Vec<_> = missing.iter().map(|(command, _)| format!("`{}`", command.join(" "))).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    let why = format!(
        "{} did not work; ci/clients installs what is missing: {}",
        commands.join(", "),
        packages.join(" ")
    );
    assert!(std::env::var_os("LAB_REQUIRE_KERNEL").is_none(), "kernel tests are required: {why}");
    eprintln!("skipped: {why}");
    false
}

#[test]
fn every_package_that_the_tests_ask_for_is_installed_by_ci() {
    let script = include_str!("../../../ci/clients");
    for (_, package) in NEEDS.iter().filter(|(_, package)| *package != "util-linux") {
        assert!(script.split_whitespace().any(|word| word == *package), "ci/clients lacks {package}");
    }
}

impl Mesh {
    fn start() -> Option<Mesh> {
        let testbed = Testbed::new(EXE)?;
        if !programs() {
            return None;
        }
        prepare(testbed.dir());
        let scenario = testbed.write("clients", &scenario(testbed.dir()));
        let lab = testbed.start(&scenario, &[]);
        let run = lab.up();
        Some(Mesh { lab: Mutex::new(lab), run, testbed, payload: Once::new() })
    }

    /// Where the servers live, and what clients leave.
    pub fn dir(&self) -> &Path {
        self.testbed.dir()
    }

    /// A file of [`PAYLOAD_BYTES`] that nothing can compress or guess, made when it is first asked
    /// for.
    pub fn payload(&self) -> PathBuf {
        let path = self.dir().join("files/payload");
        self.payload.call_once(|| {
            let mut rng = SmallRng::seed_from_u64(1);
            let mut file = std::fs::File::create(&path).expect("a file for the payload");
            let mut block = vec![0; 1 << 20];
            for _ in 0..PAYLOAD_BYTES >> 20 {
                rng.fill_bytes(&mut block);
                std::io::Write::write_all(&mut file, &block).expect("room for the payload");
            }
        });
        path
    }

    /// Runs a client in web and gives what it left, however it ended.
    pub fn output(&self, argv: &[&str]) -> Output {
        self.command(argv).output().expect("nsenter starts")
    }

    /// A client in web, not started yet.
    pub fn command(&self, argv: &[&str]) -> Command {
        let beside = pid_of(&self.run, "web/sidecar").to_string();
        let (user, within) = (APP_UID.to_string(), CLIENT_WITHIN.to_string());
        let mut command = Command::new("nsenter");
        command.args(["--target", &beside, "--net", "--mount", "--setuid", &user, "--setgid", &user, "--"]);
        // A client that hangs must not hang the test.
        command.args(["timeout", "--kill-after=5", &within]).args(argv);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.dir()).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a client that must succeed; what it printed.
    ///
    /// # Panics
    /// If it fails; shows what it said.
    pub fn client(&self, argv: &[&str]) -> String {
        said(argv, self.output(argv))
    }

    /// The same for a line of shell, where clients are joined by pipes. `$1` and so on are
    /// `arguments`.
    pub fn shell(&self, line: &str, arguments: &[&str]) -> String {
        let mut argv = vec!["bash", "-o", "pipefail", "-euc", line, "bash"];
        argv.extend(arguments);
        self.client(&argv)
    }

    /// What the sidecars of web and of `service` have counted so far.
    pub fn counted(&self, service: &str) -> Counted {
        let samples = |instance| {
            let (_, text) = page(&self.run, instance, METRICS_PORT, "/metrics").expect("a metrics page");
            metrics::parse(instance, &text)
        };
        Counted { service: service.to_owned(), web: samples("web"), far: samples(service) }
    }

    /// Runs `work` and gives what it returned and what it made both sidecars count.
    pub fn watch<T>(&self, service: &str, work: impl FnOnce() -> T) -> (T, Passed) {
        let before = self.counted(service);
        let result = work();
        (result, Passed { before, after: self.counted(service) })
    }

    /// Waits until both sidecars have no request in flight for a service that is idle.
    pub fn wait_until_idle(&self, service: &str) {
        wait_until("both sidecars have no request in flight", || {
            let now = self.counted(service);
            [&now.web, &now.far].iter().all(|side| sum(side, "proxy_load_requests", &[]) == 0.0)
        });
    }
}

/// What a client printed.
///
/// # Panics
/// If it failed.
pub fn said(argv: &[&str], output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{argv:?}: {}\n{text}\n{errors}", output.status);
    text
}

/// What two sidecars have counted.
pub struct Counted {
    service: String,
    web: Vec<Sample>,
    far: Vec<Sample>,
}

/// What two sidecars counted during a piece of work.
pub struct Passed {
    before: Counted,
    after: Counted,
}

impl Passed {
    /// Increase at web's sidecar, on the way out.
    pub fn out(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = &[&[("side", "outbound")], labels].concat();
        sum(&self.after.web, name, labels) - sum(&self.before.web, name, labels)
    }

    /// Increase at the service's sidecar, on the way in.
    pub fn inward(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = &[&[("side", "inbound")], labels].concat();
        sum(&self.after.far, name, labels) - sum(&self.before.far, name, labels)
    }

    /// That `requests` passed both sidecars as HTTP of the version that detection calls `version`,
    /// on `connections` of the client's.
    ///
    /// # Panics
    /// If not.
    pub fn as_http(&self, version: &str, connections: u32, requests: u32) {
        let cluster = [("cluster", &self.after.service[..])];
        let detected = [("result", version)];
        let seen = [
            self.out("proxy_detections_total", &detected),
            self.out("proxy_requests_total", &cluster),
            self.inward("proxy_requests_total", &cluster),
        ];
        assert_eq!(seen, [connections, requests, requests].map(f64::from), "{version} at {cluster:?}");
        // Sidecars keep the connections between them, so this one may be older than the work.
        let kinds =
            sum(&self.after.far, "proxy_detections_total", &[("side", "inbound"), ("result", version)]);
        assert!(kinds > 0.0, "the far sidecar never saw {version}");
    }

    /// That `connections` passed both sidecars as bytes that neither took for HTTP.
    ///
    /// # Panics
    /// If not.
    pub fn as_bytes(&self, connections: u32) {
        let seen = [
            self.out("proxy_connections_total", &[]),
            self.inward("proxy_connections_total", &[]),
            self.out("proxy_requests_total", &[]) + self.inward("proxy_requests_total", &[]),
        ];
        assert_eq!(seen, [connections.into(), connections.into(), 0.0], "{}", self.after.service);
        assert_eq!(self.detected("http1") + self.detected("http2"), 0.0, "taken for HTTP");
    }

    /// How many connections both sidecars together found to be `result`.
    pub fn detected(&self, result: &str) -> f64 {
        let labels = &[("result", result)];
        self.out("proxy_detections_total", labels) + self.inward("proxy_detections_total", labels)
    }
}

/// Files of the servers, in a folder that belongs to the user whom apps run as.
fn prepare(dir: &Path) {
    let folder = |name: &str| {
        let path = dir.join(name);
        std::fs::create_dir(&path).expect("a folder");
        chown(&path, Some(APP_UID), Some(APP_UID)).expect("the app's folder");
        path
    };
    let files = folder("files");
    std::fs::write(files.join("poem.txt"), POEM.repeat(1000)).expect("a text");
    std::fs::set_permissions(&files, Permissions::from_mode(0o755)).expect("leave to read");
    for (name, text) in PROGRAMS {
        std::fs::write(dir.join(name), text).expect("a program");
    }
    openssl_certificate(dir);
    let config = include_str!("../../clients/nginx.conf").replace("@FILES@", &text_of(&files));
    let tls = format!(
        "ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;",
        dir.display()
    );
    for (name, listen, tls) in
        [("files", "8080", ""), ("multi", "8081 http2", ""), ("secure", "8443 ssl http2", &tls[..])]
    {
        let home = folder(&format!("nginx-{name}"));
        for below in ["up", "small"] {
            folder(&format!("nginx-{name}/{below}"));
        }
        let config = config.replace("@DIR@", &text_of(&home)).replace("@LISTEN@", listen);
        std::fs::write(home.join("nginx.conf"), config.replace("@TLS@", tls)).expect("a configuration");
    }
    folder("redis");
    folder("mail");
    folder("mail-odd-port");
    postgresql_cluster(dir);
}

fn text_of(path: &Path) -> String {
    path.to_str().expect("a scratch folder has a plain name").to_owned()
}

/// Line endings and letters beyond ASCII, so that whatever meddles with text is noticed.
pub const POEM: &str = "Es war, als h\u{e4}tt' der Himmel\r\nDie Erde still gek\u{fc}\u{df}t,\n";

fn openssl_certificate(dir: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=secure", "-addext", "subjectAltName=DNS:secure"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .output()
        .expect("openssl starts");
    assert!(made.status.success(), "{made:?}");
    chown(dir.join("key.pem"), Some(APP_UID), Some(APP_UID)).expect("the app's key");
}

/// A database cluster. `initdb` insists on a user with a name, which apps do not have; the server
/// does not.
fn postgresql_cluster(dir: &Path) {
    let data = dir.join("postgres");
    std::fs::create_dir(&data).expect("a folder");
    let owned = Command::new("chown").arg("postgres:").arg(&data).status();
    assert!(owned.is_ok_and(|s| s.success()), "postgres owns its folder");
    let made = Command::new("setpriv")
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh", "-c"])
        .arg("exec /usr/lib/postgresql/*/bin/initdb -D \"$1\" -U lab -A trust -E UTF8 --locale=C --no-sync")
        .arg("sh")
        .arg(&data)
        .current_dir("/")
        .output()
        .expect("setpriv starts");
    assert!(made.status.success(), "{made:?}");
    let rules = "host all all 0.0.0.0/0 trust\n";
    std::fs::write(data.join("pg_hba.conf"), rules).expect("who may enter");
    let owned = Command::new("chown").args(["-R", &format!("{APP_UID}:{APP_UID}")]).arg(&data).status();
    assert!(owned.is_ok_and(|s| s.success()), "the app owns the database");
}

/// Options of a gRPC server that ends its connections when they are half a second old, and 200 ms
/// later what is on them.
const AGE: &str = "\"grpc.max_connection_age_ms=500\", \"grpc.max_connection_age_grace_ms=200\"";

/// One service for each server; nobody calls but the tests.
fn scenario(dir: &Path) -> String {
    let d = dir.display();
    let nginx =
        |name: &str| format!("\"nginx\", \"-e\", \"stderr\", \"-c\", \"{d}/nginx-{name}/nginx.conf\"");
    let python = |name: &str| format!("\"{PYTHON}\", \"{d}/{name}\"");
    let node = |name: &str| format!("\"env\", \"NODE_PATH={}\", \"node\", \"{d}/{name}\"", node_path!());
    let mail = |folder: &str| {
        format!(
            "\"{PYTHON}\", \"-m\", \"aiosmtpd\", \"-n\", \"-l\", \"0.0.0.0:25\", \"-c\", \
             \"aiosmtpd.handlers.Mailbox\", \"{d}/{folder}/box\""
        )
    };
    let postgres = format!(
        "\"sh\", \"-c\", \"exec /usr/lib/postgresql/*/bin/postgres -D {d}/postgres -c listen_addresses='*' \
         -c unix_socket_directories='' -c fsync=off\""
    );
    let redis = format!(
        "\"redis-server\", \"--port\", \"6379\", \"--bind\", \"0.0.0.0\", \"--protected-mode\", \"no\", \
         \"--save\", \"\", \"--dir\", \"{d}/redis\""
    );
    let services = [
        ("files", 8080, nginx("files")),
        ("multi", 8081, nginx("multi")),
        ("secure", 8443, nginx("secure")),
        ("grpc", 50051, python("grpc_server.py")),
        ("aging", 50052, format!("{}, {AGE}", python("grpc_server.py"))),
        ("aging-js", 50053, format!("{}, {AGE}", node("grpc_server.js"))),
        ("chat", 8765, python("websocket_server.py")),
        ("db", 5432, postgres),
        ("cache", 6379, redis),
        ("mail", 25, mail("mail")),
        ("mail-odd-port", 2501, mail("mail-odd-port").replace(":25\"", ":2501\"")),
    ];
    let mut text = String::from(
        "[scenario]\nname = \"real servers\"\nwarmup = \"1ms\"\nduration = \"10m\"\n\n[service.web]\n",
    );
    for (name, port, argv) in services {
        text += &format!("\n[service.{name}]\nport = {port}\napp = {{ cmd = [{argv}] }}\n");
    }
    text
}
