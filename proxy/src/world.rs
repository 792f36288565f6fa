//! The seam between the proxy and everything that is not arithmetic: sockets, tasks, time and
//! chance.
//!
//! The same proxy code runs on the kernel and inside the simulator, so nothing else in this crate
//! names a socket, a clock or a source of randomness; `clippy.toml` bans the bypasses. Three rules
//! keep a simulated run repeatable:
//!
//! - monotonic time is [`tokio::time`] and nothing else, because the simulator owns that clock;
//! - randomness comes from an [`RngTree`], one stream for each purpose and each entity, so that
//!   removing one draw does not shift all the others;
//! - tasks start through [`Net::spawn`], which keeps them on the thread (and the simulated host) of
//!   their parent. That is why nothing here asks for `Send`: a request never crosses threads.
//!
//! What it leaves out: the configuration, which arrives as text; only `config::reload` reads its
//! file.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rustls::crypto::CryptoProvider;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpStream, UnixStream};

pub mod crypto;
pub mod disk;
#[cfg(test)]
pub(crate) mod fake;
pub mod files;
mod kernel;
mod recent;
mod sock_diag;
mod through;

pub use disk::{Disk, KernelDisk, LogFile, LogSink, NoDisk, Stdout};
pub use files::{Files, KernelFiles};
pub use kernel::{Alarm, KernelListener, KernelNet, raise_nofile};
pub use through::poll_read_new;

#[cfg(not(tokio_unstable))]
compile_error!(
    "build with --cfg tokio_unstable (see .cargo/config.toml): RUSTFLAGS in the environment overrides it"
);

/// A network: the kernel's, or a simulated one.
pub trait Net: Clone + Unpin + 'static {
    /// A connected stream.
    type Io: AsyncRead + AsyncWrite + Transport + Send + Unpin + 'static;
    /// A listening socket.
    type Listener: Listener<Io = Self::Io>;

    /// Opens a connection to `to`. `from` asks for a source address (the port stays free); a
    /// simulated network may ignore it, and an IPv6 address that this host does not have is
    /// replaced by the loopback one. There is no timeout here: the caller bounds the wait.
    fn connect(&self, to: SocketAddr, from: Option<IpAddr>) -> impl Future<Output = io::Result<Self::Io>>;

    /// Opens a connection to a program of this machine that listens on a Unix socket. A simulated
    /// network has none.
    fn connect_unix(&self, path: &Path) -> impl Future<Output = io::Result<UnixStream>> {
        let error = format!("this network has no Unix sockets, and {} is one", path.display());
        async { Err(io::Error::new(io::ErrorKind::Unsupported, error)) }
    }

    /// Listens on `at`. Several workers may bind the same address; the kernel spreads connections
    /// over them.
    fn bind(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>>;

    /// The same for a listener that has its address to itself.
    fn bind_exclusive(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> {
        self.bind(at)
    }

    /// Where the client meant to go before interception redirected it here, or `None` if it was not
    /// redirected. IPv4-mapped IPv6 addresses are returned as IPv4.
    fn orig_dst(&self, io: &mut Self::Io) -> impl Future<Output = Option<SocketAddr>>;

    /// Resident bytes of the process, or `None` where that means nothing.
    fn resident(&self) -> Option<u64> {
        None
    }

    /// The most that the process may grow to, bytes; `None` without such a limit.
    fn memory_limit(&self) -> Option<u64> {
        None
    }

    /// Gives memory that the allocator keeps back to the system, where that means something.
    fn give_memory_back(&self) {}

    /// The kernel's socket under a stream, if nothing else stands between, so that bytes may pass
    /// inside the kernel ([`crate::tcp`] splices). By default there is none, and bytes are copied:
    /// so it is in a simulated network, and so it must be for every layer that looks at bytes.
    fn kernel_socket(io: &Self::Io) -> Option<&TcpStream> {
        let _ = io;
        None
    }

    /// Whether this process itself has just opened the connection from `from` to `to`: one that was
    /// redirected here all the same goes in a circle.
    fn is_own(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let _ = (from, to);
        false
    }

    /// Whether the process at the other end of a connection within this host may give orders to
    /// this one: it is root's, or of the same user. In a simulated network everybody may.
    fn is_operator(&self, io: &Self::Io) -> bool {
        let _ = io;
        true
    }

    /// Runs a task without which the process is not what it says it is: if it panics, so does the
    /// process, in a way of its own.
    fn spawn_essential(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.spawn(name, task);
    }

    /// Runs `task` on this thread until it ends or the process does. `name` is for diagnostics.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static);
}

/// What the stream of a connection does beside reading and writing.
pub trait Transport {
    /// Breaks it off (RFC 9293 section 3.10.5, ABORT): from now on dropping the stream resets it
    /// (RST) instead of ending it (FIN), and what has not been sent by then never is. So the peer
    /// can tell that it has not heard all there was.
    fn abort(&mut self);

    /// What stands behind the FIN of the peer, which must have come. Costs a few system calls.
    fn behind_fin(&self) -> AfterFin;

    /// After a read that had to wait: ready when one may not have to, so that nobody keeps a buffer
    /// for what does not come. A stream that cannot tell says so at once.
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// What a FIN meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFin {
    /// The peer sends nothing more, and still reads.
    HalfClose,
    /// Nobody reads any more; so it is after a reset too.
    Close,
    /// The peer is on another host: TCP says the same for both.
    Unknown,
}

/// A stream in memory has no reset: whoever reads on sees its end.
impl Transport for DuplexStream {
    fn abort(&mut self) {}

    fn behind_fin(&self) -> AfterFin {
        AfterFin::Unknown
    }
}

/// A listening socket of some [`Net`].
pub trait Listener: 'static {
    /// The stream that [`Listener::accept`] yields.
    type Io;

    /// Waits for the next connection and says who opened it.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>>;

    /// The address in force, with the port that was chosen if 0 was asked for.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The wall clock. Only timestamps that people read come from it; every duration is measured with
/// [`tokio::time`].
pub trait Wall: Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> SystemTime;
}

/// A time of day in whole seconds of Unix time.
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The machine's own wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemWall;

impl Wall for SystemWall {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Everything a sidecar needs from outside: a network, a wall clock, a disk, files and randomness.
#[derive(Clone)]
pub struct World<N> {
    /// Sockets and tasks.
    pub net: N,
    /// Time of day.
    pub wall: Arc<dyn Wall>,
    /// What outlives the process.
    pub disk: Arc<dyn Disk>,
    /// Where its access log goes.
    pub log: Arc<dyn LogSink>,
    /// What others write and this process reads.
    pub files: Arc<dyn Files>,
    /// Chance.
    pub rng: RngTree,
    /// Cryptography, with randomness of its own: nothing secret ever comes from `rng`.
    pub crypto: Arc<CryptoProvider>,
    /// Makes keys.
    pub new_key: crypto::KeySource,
}

impl<N> World<N> {
    /// A world of these parts with the kernel's files, in which nothing outlives the process.
    pub fn new(net: N, wall: impl Wall, rng: RngTree) -> Self {
        let (disk, log, files) = (Arc::new(NoDisk), Arc::new(NoDisk), Arc::new(KernelFiles));
        let (crypto, new_key) = (crypto::system(), crypto::system_key);
        World { net, wall: Arc::new(wall), disk, log, files, rng, crypto, new_key }
    }

    /// The same with a disk.
    pub fn with_disk(self, disk: impl Disk) -> Self {
        World { disk: Arc::new(disk), ..self }
    }

    /// The same with an access log.
    pub fn with_log(self, log: impl LogSink) -> Self {
        World { log: Arc::new(log), ..self }
    }

    /// The same with other files.
    pub fn with_files(self, files: impl Files) -> Self {
        World { files: Arc::new(files), ..self }
    }

    /// The same with other cryptography, and other keys.
    pub fn with_crypto(self, crypto: Arc<CryptoProvider>, new_key: crypto::KeySource) -> Self {
        World { crypto, new_key, ..self }
    }
}

/// A tree of random streams that all follow from one seed.
///
/// Each purpose (`label`) and each entity (`key`) gets a stream of its own, derived by hashing and
/// not by drawing, so streams do not depend on the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RngTree {
    seed: u64,
}

impl RngTree {
    /// The tree of `seed`.
    pub fn new(seed: u64) -> Self {
        RngTree { seed }
    }

    /// A tree that nobody can predict, for production.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn from_os() -> Self {
        let mut seed = [0; 8];
        rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut seed)
            .expect("the operating system gives random bytes");
        RngTree { seed: u64::from_le_bytes(seed) }
    }

    /// The seed of this tree: enough to make it again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The subtree for one purpose and one entity.
    pub fn child(&self, label: &str, key: u64) -> RngTree {
        // FNV-1a (Fowler, Noll, Vo): stable across releases, which `DefaultHasher` does not
        // promise.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let bytes = self.seed.to_le_bytes().into_iter().chain(label.bytes()).chain(key.to_le_bytes());
        for byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        RngTree { seed: hash }
    }

    /// The stream of this node.
    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed)
    }
}

/// hyper's executor on top of [`Net::spawn`].
#[derive(Debug, Clone)]
pub struct Exec<N>(pub N);

impl<N: Net, F> hyper::rt::Executor<F> for Exec<N>
where
    F: Future + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn("http", async move {
            task.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn a_child_depends_on_label_and_key_and_not_on_its_siblings() {
        let tree = RngTree::new(7);
        let draw = |t: RngTree| t.rng().random::<u64>();
        assert_eq!(draw(tree.child("pick", 1)), draw(tree.child("pick", 1)));
        assert_ne!(draw(tree.child("pick", 1)), draw(tree.child("pick", 2)));
        assert_ne!(draw(tree.child("pick", 1)), draw(tree.child("id", 1)));
    }
}
