//! Real servers on loopback, for tests that ask one: each is ended with the value that started it.
//! The proxy's own tests include this file, so it names no part of the project.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// A server that runs. What it says of errors is shown if the test fails.
pub struct Server {
    process: Child,
    errors: File,
}

impl Server {
    /// Starts `program`. `None`, if it is not here and nobody insists.
    ///
    /// # Panics
    /// If it is not here and `LAB_REQUIRE_KERNEL` is set: says which package has it.
    pub fn start(program: &str, package: &str, args: &[&str]) -> Option<Self> {
        let errors = tempfile::tempfile().expect("a file");
        let to = errors.try_clone().expect("a file");
        let process = Command::new(program).args(args).stdout(Stdio::null()).stderr(to).spawn();
        if process.is_err() {
            let required = std::env::var_os("LAB_REQUIRE_KERNEL").is_some();
            assert!(!required, "{program} is required: apt-get install {package}");
            eprintln!("skipped: {program} is not installed (apt-get install {package})");
        }
        process.ok().map(|process| Server { process, errors })
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let mut said = Vec::new();
            let _ = self.errors.rewind().and_then(|()| self.errors.read_to_end(&mut said));
            eprintln!("the server said:\n{}", String::from_utf8_lossy(&said));
        }
    }
}

/// An address on loopback that was free a moment ago, another each time. It lies below the ports
/// that the kernel gives to whoever asks for any, so nobody is given it before it is used.
///
/// # Panics
/// If there is none.
pub fn free() -> SocketAddr {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    // Processes that run side by side begin at different places.
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(std::process::id().wrapping_mul(61) as u16));
    PORTS
        .map(|_| PORTS.start + next.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u16)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a free port")
}

/// A real etcd, whose data outlives its process.
pub struct Etcd {
    /// Where clients reach it.
    pub address: SocketAddr,
    /// Where its data is, and there is room for more.
    pub folder: tempfile::TempDir,
    peers: SocketAddr,
    server: Option<Server>,
}

impl Etcd {
    /// Starts one without data. `None`, if it is not here and nobody insists.
    ///
    /// # Panics
    /// As [`Server::start`].
    pub fn start() -> Option<Self> {
        // In memory: it outlives the process, and etcd waits for the disk at each write, which
        // takes seconds while others build.
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let mut etcd = Etcd { address: free(), folder, peers: free(), server: None };
        etcd.run();
        etcd.server.is_some().then_some(etcd)
    }

    /// Starts it again on its data.
    pub fn run(&mut self) {
        let (clients, peers) = (format!("http://{}", self.address), format!("http://{}", self.peers));
        let data = self.folder.path().join("data").display().to_string();
        let cluster = format!("one={peers}");
        let args = [
            ["--data-dir", &data],
            ["--name", "one"],
            ["--log-level", "error"],
            ["--listen-client-urls", &clients],
            ["--advertise-client-urls", &clients],
            ["--listen-peer-urls", &peers],
            ["--initial-advertise-peer-urls", &peers],
            ["--initial-cluster", &cluster],
        ];
        self.server = Server::start("etcd", "etcd-server", args.as_flattened());
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.server = None;
    }
}
