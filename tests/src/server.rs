//! Real servers on loopback, for tests that ask one: each is ended with the value that started it.
//! The proxy's own tests include this file, so it names no part of the project.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

/// A server that runs.
pub struct Server(Child);

impl Server {
    /// Starts `program`. `None`, if it is not here and nobody insists.
    ///
    /// # Panics
    /// If it is not here and `LAB_REQUIRE_KERNEL` is set: says which package has it.
    pub fn start(program: &str, package: &str, args: &[&str]) -> Option<Self> {
        let child = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if child.is_err() {
            let required = std::env::var_os("LAB_REQUIRE_KERNEL").is_some();
            assert!(!required, "{program} is required: apt-get install {package}");
            eprintln!("skipped: {program} is not installed (apt-get install {package})");
        }
        child.ok().map(Server)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address on loopback that was free a moment ago.
///
/// # Panics
/// If there is none.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
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
        let folder = tempfile::tempdir().expect("a folder");
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
