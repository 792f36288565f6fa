//! The kernel's side of the seam: real sockets on a current-thread tokio runtime.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::recent::{Recent, canonical};
use super::{AfterFin, Listener, Net, Transport, sock_diag};
use crate::config::defaults::ACCEPT_BACKLOG;
use crate::config::defaults::{KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, KEEPALIVE_TIME, TCP_USER_TIMEOUT};

/// What this process has dialled. Not a part of [`KernelNet`], whose clones would then share a
/// count.
static DIALLED: LazyLock<Recent> = LazyLock::new(Recent::default);

/// Sockets of the kernel. Cheap to clone; one for each worker thread.
#[derive(Debug, Clone, Default)]
pub struct KernelNet {
    mark: Option<u32>,
    /// Who hears of an essential task that panics.
    failed: Option<mpsc::UnboundedSender<io::Error>>,
}

/// Tells somebody when the code around it panics.
pub struct Alarm {
    name: String,
    failed: mpsc::UnboundedSender<io::Error>,
}

impl Alarm {
    /// Tells `failed` that `name` panicked.
    pub fn new(name: impl Into<String>, failed: mpsc::UnboundedSender<io::Error>) -> Self {
        Alarm { name: name.into(), failed }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // If nobody listens any more, the process ends already.
            let _ = self.failed.send(io::Error::other(format!("{} panicked", self.name)));
        }
    }
}

impl KernelNet {
    /// A network whose outgoing connections carry `mark` (SO_MARK), so that interception rules can
    /// exempt them.
    ///
    /// # Errors
    /// If the mark may not be set: it takes CAP_NET_ADMIN.
    pub fn with_mark(mark: Option<u32>) -> io::Result<Self> {
        if let Some(mark) = mark {
            Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.set_mark(mark)?;
        }
        Ok(KernelNet { mark, ..KernelNet::default() })
    }

    /// The same network, which tells `failed` of essential tasks that panic.
    pub fn with_alarm(self, failed: mpsc::UnboundedSender<io::Error>) -> Self {
        KernelNet { failed: Some(failed), ..self }
    }

    fn listen(&self, at: SocketAddr, shared: bool) -> io::Result<KernelListener> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        if at.is_ipv6() {
            // One wildcard socket serves both families.
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        // Linux hands these options down to the sockets that are accepted, which saves a system
        // call for each on every connection.
        tune(&SockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        socket.bind(&at.into())?;
        socket.listen(ACCEPT_BACKLOG as i32)?;
        Ok(KernelListener(TcpListener::from_std(socket.into())?))
    }
}

impl Net for KernelNet {
    type Io = TcpStream;
    type Listener = KernelListener;

    async fn connect(&self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(from) = from {
            // The port is chosen at connect time, from the ports free for this one destination;
            // without it a bound source address could open only as many connections as there are
            // ephemeral ports in all.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            match socket.bind(&SocketAddr::new(from, 0).into()) {
                Err(e) if from.is_ipv6() && e.kind() == io::ErrorKind::AddrNotAvailable => {
                    socket.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into())?;
                }
                result => result?,
            }
        }
        tune(&SockRef::from(&socket))?;
        DIALLED.note(to, || {
            match socket.connect(&to.into()) {
                Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
                result => result?,
            }
            Ok(socket.local_addr()?.as_socket())
        })?;
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        stream.take_error()?.map_or(Ok(stream), Err)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    async fn connect_unix(&self, path: &Path) -> io::Result<UnixStream> {
        UnixStream::connect(path).await
    }

    async fn bind(&self, at: SocketAddr) -> io::Result<KernelListener> {
        self.listen(at, true)
    }

    async fn bind_exclusive(&self, at: SocketAddr) -> io::Result<KernelListener> {
        self.listen(at, false)
    }

    fn is_own(&self, from: SocketAddr, to: SocketAddr) -> bool {
        DIALLED.has(from, to)
    }

    async fn orig_dst(&self, io: &mut TcpStream) -> Option<SocketAddr> {
        let local = canonical(io.local_addr().ok()?);
        // Without a redirect, conntrack reports the address the client really dialled: this
        // listener.
        dialled(io, local).filter(|found| *found != local)
    }

    fn resident(&self) -> Option<u64> {
        // Total, resident, shared, ... in pages (proc_pid_statm(5)).
        let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        Some(pages * u64::try_from(page).ok()?)
    }

    #[allow(unsafe_code, reason = "malloc_trim has no safe wrapper")]
    fn give_memory_back(&self) {
        #[cfg(target_env = "gnu")]
        // SAFETY: it takes the allocator's own locks and touches only what is free.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    fn memory_limit(&self) -> Option<u64> {
        group_memory_limit()
    }

    fn kernel_socket(io: &TcpStream) -> Option<&TcpStream> {
        Some(io)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let _ = name;
        tokio::task::spawn_local(task);
    }

    fn is_operator(&self, io: &TcpStream) -> bool {
        let (Ok(peer), Ok(local)) = (io.peer_addr(), io.local_addr()) else { return false };
        let own = nix::unistd::geteuid().as_raw();
        let owner = sock_diag::owner(canonical(peer), canonical(local));
        owner.ok().flatten().is_some_and(|uid| uid == 0 || uid == own)
    }

    fn spawn_essential(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let alarm = self.failed.clone().map(|failed| Alarm::new(name, failed));
        self.spawn(name, async move {
            let _alarm = alarm;
            task.await;
        });
    }
}

impl Transport for TcpStream {
    fn abort(&mut self) {
        // A socket that is gone already needs no reset. With SO_LINGER at zero, close(2) sends one
        // (socket(7)).
        let _ = SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }

    fn behind_fin(&self) -> AfterFin {
        let (Ok(peer), Ok(local)) = (self.peer_addr(), self.local_addr()) else { return AfterFin::Close };
        let local = canonical(local);
        // The client knows this end by the address that it dialled, before it was redirected here.
        let dialled = dialled(self, local).unwrap_or(local);
        let peer = canonical(peer);
        let held = match sock_diag::is_held(peer, dialled) {
            Ok(None) => sock_diag::are_held(peer.ip(), dialled),
            found => found,
        };
        match held {
            Ok(Some(true)) => AfterFin::HalfClose,
            Ok(Some(false)) => AfterFin::Close,
            Ok(None) | Err(_) => AfterFin::Unknown,
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error is told to whoever reads.
        self.poll_read_ready(cx).map(drop)
    }
}

/// The address that the client of this socket dialled, `local` or where it was redirected from.
fn dialled(io: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(io);
    // The listener is dual-stack, so an IPv4 client shows up with a mapped address: ask the IPv4
    // table for it.
    let v4 = local.is_ipv4();
    let found = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() }.ok()?;
    found.as_socket().map(canonical)
}

/// What every socket of the data plane is set to: small writes go out at once, and a peer that is
/// gone is found out.
fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&probes)
}

/// A TCP listener of the kernel.
#[derive(Debug)]
pub struct KernelListener(TcpListener);

impl Listener for KernelListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (io, peer) = self.0.accept().await?;
        Ok((io, canonical(peer)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The least memory limit of the control groups that this process is in, bytes (cgroup v2's
/// `memory.max`, cgroup v1's `memory.limit_in_bytes`); `None` without one.
fn group_memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        // A container sees its own group at the root, whatever the path says.
        let below = Path::new(path)
            .ancestors()
            .map(|group| Path::new(root).join(group.strip_prefix("/").unwrap_or(group)));
        below
            .filter_map(|group| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok())
            .collect()
    });
    // Version 1 says "none" with the largest multiple of a page.
    limits.filter(|limit| *limit < 1 << 60).min()
}

/// Raises the limit of open files to the hard limit: a proxy needs two for each connection, and the
/// usual soft limit of 1024 is spent at once. Returns the limit in force.
///
/// # Errors
/// What `getrlimit` or `setrlimit` says.
pub fn raise_nofile() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_essential_task_that_panics_is_reported_and_one_that_ends_is_not() {
        let (failed, mut failure) = mpsc::unbounded_channel();
        let net = KernelNet::default().with_alarm(failed);
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            net.spawn_essential("check", async {});
            net.spawn("connection", async { panic!("on purpose") });
            tokio::task::yield_now().await;
            assert!(failure.try_recv().is_err());
            net.spawn_essential("discovery", async { panic!("on purpose") });
            assert_eq!(failure.recv().await.unwrap().to_string(), "discovery panicked");
        });
    }

    #[tokio::test]
    async fn what_was_dialled_is_known_as_soon_as_it_can_be_accepted() {
        let net = KernelNet::default();
        let mut listener = net.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let to = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(net.connect(to, None), listener.accept());
        let (io, peer) = accepted.unwrap();
        assert!(net.is_own(peer, to));
        assert!(!net.is_own(peer, "127.0.0.1:1".parse().unwrap()));
        drop((dialled, io));
    }

    #[tokio::test]
    async fn an_address_of_ones_own_is_shared_with_nobody() {
        let (net, at) = (KernelNet::default(), "127.0.0.1:0".parse().unwrap());
        let alone = net.bind_exclusive(at).await.unwrap();
        let taken = alone.local_addr().unwrap();
        assert_eq!(net.bind_exclusive(taken).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(net.bind(taken).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let shared = net.bind(at).await.unwrap().local_addr().unwrap();
        let _first = net.bind(shared).await.unwrap();
        assert!(net.bind(shared).await.is_ok());
    }

    #[tokio::test]
    async fn accepted_and_dialled_sockets_find_out_about_dead_peers() {
        let net = KernelNet::default();
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let mut listener = net.bind(at.parse().unwrap()).await.unwrap();
            let to = listener.local_addr().unwrap();
            let (dialled, accepted) = tokio::join!(net.connect(to, None), listener.accept());
            for io in [dialled.unwrap(), accepted.unwrap().0] {
                let socket = SockRef::from(&io);
                assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_USER_TIMEOUT));
                assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
            }
        }
    }
}
