//! A mesh in one process, for tests of the data plane: real loopback sockets, no root and no
//! interception rules.
//!
//! [`TestNet`] is the kernel's network with three differences. Connections that a sidecar accepts
//! have the original destination that the test chose, and a dialled address may be redirected: that
//! is what the rules of two machines do. And the test may let a connection look closed after some
//! reads, at a moment that a real peer hits only by chance. [`outbound`] and [`inbound`] start one
//! side of a sidecar on a port of its own, so tests run side by side. Apps and clients are raw
//! sockets with [`Wire`], because what counts is the bytes.

#![allow(dead_code, unused_imports, reason = "each test uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use proxy::audit;
use proxy::balance::Table;
use proxy::capture::listener::accept;
use proxy::config::LogTarget;
use proxy::discovery::EndpointStore;
use proxy::drain;
use proxy::inbound::{self, Inbound};
use proxy::outbound::{self, Outbound};
use proxy::telemetry::{Metrics, access};
use proxy::tls::TlsStore;
use proxy::world::{
    AfterFin, KernelDisk, KernelListener, KernelNet, Listener, LogFile, Net, RngTree, SystemWall, Transport,
    World,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::Instant;

pub mod authority;
pub mod frames;
pub mod h2c;
mod wire;

pub use wire::{Message, Wire, answering, app, nobody};

/// Where connections of the app seem to go.
pub const SERVICE: &str = "10.96.0.1:80";
/// A deadline for everything; no test waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on a runtime like a worker's.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it ends in time") });
}

/// Starts a task of the test.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    KernelNet::default().spawn("test", task);
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE / 2, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Loopback in place of intercepted connections.
#[derive(Clone)]
pub struct TestNet {
    kernel: KernelNet,
    destination: Option<SocketAddr>,
    redirects: BTreeMap<SocketAddr, SocketAddr>,
    silent: Vec<SocketAddr>,
    splices: bool,
    remote: bool,
    own: bool,
    reads_left: Arc<AtomicU32>,
}

const NO_LIMIT: u32 = u32::MAX;

impl TestNet {
    /// A network whose accepted connections were meant for `destination`.
    pub fn to(destination: &str) -> Self {
        TestNet {
            kernel: KernelNet::default(),
            destination: Some(destination.parse().unwrap()),
            redirects: BTreeMap::new(),
            silent: Vec::new(),
            splices: false,
            remote: false,
            own: false,
            reads_left: Arc::new(NO_LIMIT.into()),
        }
    }

    /// A network in which no connection was redirected.
    pub fn direct() -> Self {
        TestNet { destination: None, ..TestNet::to(SERVICE) }
    }

    /// Dialling `from` reaches `to`.
    pub fn redirect(mut self, from: SocketAddr, to: SocketAddr) -> Self {
        self.redirects.insert(from, to);
        self
    }

    /// Bytes may pass inside the kernel.
    pub fn splicing(self) -> Self {
        TestNet { splices: true, ..self }
    }

    /// Those who open connections to it count as on other hosts: what their FIN means nobody knows.
    pub fn with_remote_clients(self) -> Self {
        TestNet { remote: true, ..self }
    }

    /// Every connection to it counts as one of the sidecar's own that was redirected back.
    pub fn with_own_clients(self) -> Self {
        TestNet { own: true, ..self }
    }

    /// Dialling `to` gets no answer.
    pub fn silence(mut self, to: SocketAddr) -> Self {
        self.silent.push(to);
        self
    }

    /// After `reads` more reads of outgoing connections, those that are open look closed by the
    /// peer.
    pub fn close_after(&self, reads: u32) {
        self.reads_left.store(reads, Ordering::Relaxed);
    }
}

impl Net for TestNet {
    type Io = TestIo;
    type Listener = TestListener;

    async fn connect(&self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<TestIo> {
        if self.silent.contains(&to) {
            return std::future::pending().await;
        }
        let to = self.redirects.get(&to).copied().unwrap_or(to);
        let io = self.kernel.connect(to, from).await?;
        // What is opened now is new and works.
        self.reads_left.store(NO_LIMIT, Ordering::Relaxed);
        let reads_left = self.reads_left.clone();
        Ok(TestIo { io, reads_left, closed: false, splices: self.splices, remote: false })
    }

    async fn bind(&self, at: SocketAddr) -> io::Result<TestListener> {
        let kernel = self.kernel.bind(at).await?;
        Ok(TestListener { kernel, splices: self.splices, remote: self.remote })
    }

    async fn orig_dst(&self, _: &mut TestIo) -> Option<SocketAddr> {
        self.destination
    }

    fn is_own(&self, _: SocketAddr, _: SocketAddr) -> bool {
        self.own
    }

    fn kernel_socket(io: &TestIo) -> Option<&TcpStream> {
        io.splices.then_some(&io.io)
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.kernel.spawn(name, task);
    }
}

/// A listener of a [`TestNet`].
pub struct TestListener {
    kernel: KernelListener,
    splices: bool,
    remote: bool,
}

impl Listener for TestListener {
    type Io = TestIo;

    async fn accept(&mut self) -> io::Result<(TestIo, SocketAddr)> {
        let (io, peer) = self.kernel.accept().await?;
        let reads_left = Arc::new(NO_LIMIT.into());
        Ok((TestIo { io, reads_left, closed: false, splices: self.splices, remote: self.remote }, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.kernel.local_addr()
    }
}

/// A socket of a [`TestNet`].
pub struct TestIo {
    io: TcpStream,
    reads_left: Arc<AtomicU32>,
    closed: bool,
    splices: bool,
    remote: bool,
}

impl Transport for TestIo {
    fn abort(&mut self) {
        self.io.abort();
    }

    fn behind_fin(&self) -> AfterFin {
        match self.io.behind_fin() {
            // A connection that is there has two ends.
            _ if self.remote && self.io.peer_addr().is_ok() => AfterFin::Unknown,
            known => known,
        }
    }
}

impl AsyncRead for TestIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.reads_left.load(Ordering::Relaxed) {
            NO_LIMIT => {}
            0 => self.closed = true,
            n => self.reads_left.store(n - 1, Ordering::Relaxed),
        }
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TestIo {
    proxy::write_through! { write, flush, shutdown }
}

/// One side of a sidecar that runs.
pub struct Side {
    /// Where it listens.
    pub at: SocketAddr,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Its configuration in force.
    pub table: Arc<ArcSwap<Table>>,
    /// Closes its idle connections to endpoints.
    pub clear: Box<dyn Fn()>,
    drain: drain::Signal,
}

impl Side {
    /// A client's connection to it.
    pub async fn client(&self) -> Wire {
        Wire::connect(self.at).await
    }

    /// The sum of a metric over the label sets that hold all of `labels`.
    pub fn count(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.metrics.text();
        let lines = text.lines().filter(|l| l.split(['{', ' ']).next() == Some(name));
        let lines = lines.filter(|l| labels.iter().all(|label| l.contains(label)));
        lines.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Learns endpoints from where `config` says, as the control thread does.
    pub fn discover(&self, net: TestNet, config: &str) -> Arc<EndpointStore> {
        let snapshot = Arc::new(proxy::config::parse("sidecar.toml", config).unwrap());
        let store = Arc::new(EndpointStore::default());
        store.want(&snapshot, &self.metrics);
        let (table, metrics, filled) = (self.table.clone(), self.metrics.clone(), store.clone());
        let world = World::new(net, SystemWall, RngTree::new(3));
        spawn(proxy::discovery::run(world, store.clone(), move || {
            let known = filled.fill(&snapshot);
            table.store(Arc::new(Table::new(known, Some(&table.load()), &metrics, Instant::now())));
        }));
        store
    }

    /// Puts another configuration in force.
    pub fn reload(&self, config: &str) {
        let snapshot = Arc::new(proxy::config::parse("sidecar.toml", config).unwrap());
        let table = Table::new(snapshot, Some(&self.table.load()), &self.metrics, Instant::now());
        table.put_in_force(&self.table);
    }

    /// Drains it with a deadline that no test should reach; how many connections were cut.
    pub async fn drain(&self) -> usize {
        self.drain.drain(Instant::now() + PATIENCE).await
    }

    /// [`Side::at_rest`], once this client has gone.
    pub async fn at_rest_without(&self, client: impl Sized) {
        drop(client);
        self.at_rest().await;
    }

    /// Waits until nothing is open or active any more and every request is accounted for.
    pub async fn at_rest(&self) {
        (self.clear)();
        until("its connections are closed", || self.count("proxy_connections_open", &[]) == 0).await;
        (self.clear)();
        until("its connections to endpoints are closed", || {
            (self.clear)();
            self.count("proxy_upstream_connections_open", &[]) == 0
        })
        .await;
        let pending: u32 =
            self.table.load().clusters.iter().flat_map(|c| c.endpoints.iter()).map(|e| e.pending()).sum();
        assert_eq!(pending, 0, "requests in hand");
        for gauge in ["connections_open", "connections_idle", "requests_pending", "requests_waiting"] {
            let name = format!("proxy_endpoint_{gauge}");
            assert_eq!(self.count(&name, &[]), 0, "{}", self.metrics.text());
        }
        let answered = self.count("proxy_responses_total", &[]) + self.count("proxy_abandoned_total", &[]);
        assert_eq!(self.count("proxy_requests_total", &[]), answered, "{}", self.metrics.text());
    }
}

/// A configuration with one cluster behind [`SERVICE`].
pub fn cluster(protocol: &str, endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    format!(
        "service = 'web'\ninstance = 'web-1'\n{more}\n[[cluster]]\nname = 'orders'\naddresses = ['{SERVICE}']\n\
         protocol = '{protocol}'\nendpoints = {endpoints:?}\n"
    )
}

fn table(config: &str) -> (Arc<ArcSwap<Table>>, Arc<Metrics>) {
    let snapshot = proxy::config::parse("sidecar.toml", config).unwrap();
    let metrics = Arc::new(Metrics::default());
    let table = Table::new(Arc::new(snapshot), None, &metrics, Instant::now());
    (Arc::new(ArcSwap::from_pointee(table)), metrics)
}

async fn listen(net: &TestNet) -> (TestListener, SocketAddr) {
    let listener = net.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// Starts the outbound side of a sidecar.
pub async fn outbound(net: TestNet, config: &str) -> Side {
    outbound_of(None, net, config).await
}

/// The same of a workload that may have an identity.
pub async fn outbound_of(tls: Option<Arc<TlsStore>>, net: TestNet, config: &str) -> Side {
    let (table, metrics) = table(config);
    let world = World::new(net.clone(), SystemWall, RngTree::new(1));
    let worker = Outbound::new(&world, tls, table.clone(), metrics.clone());
    log_to(&net, &table, &metrics, &worker.side);
    let (listener, at) = listen(&net).await;
    let (drain, watch) = drain::channel();
    let each = worker.clone();
    let serve = move |io, peer, drain| outbound::carry(each.clone(), io, peer, drain);
    spawn(accept(net, listener, watch, "outbound", serve));
    let watching = worker.clone();
    spawn(async move { watching.side.follow_trust().await });
    Side { at, metrics, table, clear: Box::new(move || worker.side.pool.clear()), drain }
}

/// Starts the inbound side of a sidecar.
pub async fn inbound(net: TestNet, config: &str) -> Side {
    inbound_of(None, net, config).await
}

/// The same of a workload that may have an identity.
pub async fn inbound_of(tls: Option<Arc<TlsStore>>, net: TestNet, config: &str) -> Side {
    let (table, metrics) = table(config);
    let world = World::new(net.clone(), SystemWall, RngTree::new(2));
    let worker = Inbound::new(&world, tls, table.clone(), metrics.clone());
    log_to(&net, &table, &metrics, &worker.side);
    if let Some(config) = table.load().snapshot.audit.clone() {
        let world = World::new(net.clone(), SystemWall, RngTree::new(3));
        let world = world.with_disk(KernelDisk::open(&config.directory).unwrap());
        let (log, queue) = audit::channel(config);
        worker.audit_to(log);
        spawn(audit::writer::run(world, queue, metrics.audit()));
    }
    let (listener, at) = listen(&net).await;
    let (drain, watch) = drain::channel();
    let each = worker.clone();
    let serve = move |io, peer, drain| inbound::carry(each.clone(), io, peer, drain);
    spawn(accept(net, listener, watch, "inbound", serve));
    let watching = worker.clone();
    spawn(async move { tokio::join!(watching.follow_policies(), watching.side.follow_trust()).0 });
    Side { at, metrics, table, clear: Box::new(move || worker.side.pool.clear()), drain }
}

/// Starts the access log of a side, if it is to have one.
fn log_to(net: &TestNet, table: &ArcSwap<Table>, metrics: &Metrics, side: &proxy::side::Side<TestNet>) {
    let Some(config) = table.load().snapshot.access_log.clone() else { return };
    let LogTarget::File(path) = &config.target else { panic!("tests read a file") };
    let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap().to_owned());
    let file = LogFile { disk: Arc::new(KernelDisk::open(folder).unwrap()), name };
    let world = World::new(net.clone(), SystemWall, RngTree::new(4)).with_log(file);
    let (log, queue) = access::channel(config);
    side.log_to(Arc::new(log));
    spawn(proxy::access_log::run(world, queue, metrics.access_log()));
}

/// Two sidecars between a client and the app at `app`: the client's, and the app's.
pub async fn pair(app: SocketAddr) -> (Side, Side) {
    let port = app.port();
    let config =
        format!("service = 'orders'\ninstance = 'orders-1'\n[[inbound]]\nport = {port}\nconnect = true");
    let far = inbound(TestNet::to(&app.to_string()), &config).await;
    let net = TestNet::to(SERVICE).redirect(app, far.at);
    (outbound(net, &cluster("detect", &[app], "")).await, far)
}

/// An app that answers every request with `answer` and remembers requests and connections.
#[derive(Clone, Default)]
pub struct Seen {
    requests: Rc<RefCell<Vec<Message>>>,
    connections: Rc<Cell<usize>>,
}

impl Seen {
    /// Starts it.
    pub async fn app(&self, answer: &'static str) -> SocketAddr {
        let seen = self.clone();
        app(move |n, mut wire| {
            let seen = seen.clone();
            async move {
                seen.connections.set(n + 1);
                while let Some(request) = wire.request().await {
                    seen.requests.borrow_mut().push(request);
                    wire.send(answer).await;
                }
            }
        })
        .await
    }

    /// Remembers a request.
    pub fn note(&self, request: Message) {
        self.requests.borrow_mut().push(request);
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.requests.borrow().len()
    }

    /// The last request.
    pub fn last(&self) -> Message {
        self.requests.borrow().last().cloned().expect("a request reached the app")
    }
}
