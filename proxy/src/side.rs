//! What the way in and the way out of a worker have in common: connections begin, are refused and
//! fail to be carried on alike.

mod live;

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Response, Version};
use arc_swap::ArcSwap;
use bytes::Bytes;
pub use live::{LiveConnections, Registered};
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep_until};

use crate::balance::Table;
use crate::config::{Protocol, Timeouts};
use crate::connect::Connector;
use crate::connection::Connection;
use crate::detect::race::{self, Races};
use crate::detect::{Detected, Detection, Prefixed, Reader, Sniffed};
use crate::drain;
use crate::endpoint::{Pools, ResponseBody};
use crate::error::{Error, Kind};
use crate::http::tunnel::{TunnelSlot, UpgradeRequest};
use crate::http::{forward, reply, version};
use crate::tcp::{CopyTimeouts, FreshConnection, Guard};
use crate::telemetry::access::{AccessEntry, AccessEvent, AccessLog};
use crate::telemetry::{
    ClusterMetrics, Direction, Metrics, RequestLog, SideMetrics, SingleEndpointMetrics, Throttle,
};
use crate::tls::{self, Alpn, Io, Peer, TlsStore};
use crate::world::{Net, Wall, World};

/// One of the two directions of one worker.
pub struct Side<N: Net> {
    /// Which one.
    direction: Direction,
    /// The network.
    pub net: N,
    /// Opens connections to servers.
    pub connector: Connector<N>,
    /// This workload's certificate; `None` if it has no identity.
    pub tls: Option<Arc<TlsStore>>,
    /// The clusters in force.
    pub table: Arc<ArcSwap<Table>>,
    /// Connections to servers that carry requests.
    pub pool: Pools<N>,
    /// What is left to chance in a request.
    pub rng: Rc<RefCell<StdRng>>,
    /// What is counted of its connections.
    pub metrics: SideMetrics,
    /// Where further metrics are made.
    pub all_metrics: Arc<Metrics>,
    /// Thins out what the log says of failures.
    pub failures: Throttle,
    /// Connections that are open, and may have to end.
    pub live: LiveConnections,
    /// Spreads the ends of accepted connections.
    pub ages: RefCell<StdRng>,
    races: Races,
    access: OnceCell<Arc<AccessLog>>,
    /// Which of its lines are chosen by chance.
    access_rng: RefCell<StdRng>,
    wall: Arc<dyn Wall>,
}

/// A stage in the life of a connection, in a box of its own.
pub type Stage<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// What a client turned out to speak.
pub enum Begun<I, G> {
    /// HTTP, on which requests are served.
    Http {
        /// Whether it is HTTP/2.
        is_http2: bool,
        /// The client.
        client: Prefixed<I>,
    },
    /// Bytes that the sidecar does not look into. Boxed: an idle connection of HTTP keeps room for
    /// it otherwise.
    Opaque(Box<OpaqueBegun<I, G>>),
}

/// An opaque connection that has just begun.
pub struct OpaqueBegun<I, G> {
    /// The client.
    pub client: Prefixed<I>,
    /// The connection that was opened to hear whether the server speaks first, if one was.
    pub fresh: Option<FreshConnection<I, G>>,
    /// Whether the server spoke first.
    pub server_first: bool,
}

impl<I, G> OpaqueBegun<I, G> {
    /// One of which nothing was read yet.
    pub fn unread(client: I) -> Self {
        OpaqueBegun { client: Prefixed::unread(client), fresh: None, server_first: false }
    }
}

/// What was heard of a client, and the connection that was opened to hear its server.
pub type Heard<I, G> = (Detected<I>, Option<FreshConnection<I, G>>);

/// What a client speaks of which this was heard. `None`: it is gone.
pub fn begun<I, G>(found: Detected<I>, fresh: Option<FreshConnection<I, G>>) -> Option<Begun<I, G>> {
    let Detected { outcome, client, .. } = found;
    Some(match outcome {
        Detection::Sniffed(Sniffed::Http1) => Begun::Http { is_http2: false, client },
        Detection::Sniffed(Sniffed::Http2) => Begun::Http { is_http2: true, client },
        Detection::Closed => return None,
        _ => {
            let server_first = outcome == Detection::ServerFirst;
            Begun::Opaque(Box::new(OpaqueBegun { client, fresh, server_first }))
        }
    })
}

impl<N: Net> Side<N> {
    /// A side with an empty pool, which connects from the addresses that `from` gives.
    pub fn new(
        world: &World<N>,
        direction: Direction,
        from: fn(SocketAddr) -> Option<IpAddr>,
        tls: Option<Arc<TlsStore>>,
        table: Arc<ArcSwap<Table>>,
        all_metrics: Arc<Metrics>,
    ) -> Self {
        let name = direction.label();
        let metrics = all_metrics.side(name);
        let connector = Connector::new(world.net.clone(), from).with_tls(tls.clone(), &metrics.handshakes);
        Side {
            direction,
            net: world.net.clone(),
            pool: Pools::new(connector.clone(), world.rng.child(&format!("{name} pool"), 0)),
            connector,
            tls,
            table,
            rng: Rc::new(RefCell::new(world.rng.child(name, 0).rng())),
            metrics,
            all_metrics,
            failures: Throttle::default(),
            live: LiveConnections::default(),
            ages: RefCell::new(world.rng.child(&format!("{name} ages"), 0).rng()),
            races: Races::default(),
            access: OnceCell::new(),
            access_rng: RefCell::new(world.rng.child(&format!("{name} access log"), 0).rng()),
            wall: world.wall.clone(),
        }
    }

    /// Writes what is carried from now on to an access log.
    pub fn log_to(&self, log: Arc<AccessLog>) {
        let _ = self.access.set(log);
    }

    /// Begins a line of the access log, if there is to be one.
    pub fn access(&self, event: AccessEvent, connection: &Connection) -> Option<AccessEntry> {
        let log = self.access.get()?;
        let from = (connection.peer, connection.peer_identity.as_ref());
        let rng = &mut *self.access_rng.borrow_mut();
        let entry = log.begin(event, self.direction, from, connection.original_dst, self.wall.now(), rng)?;
        Some(entry.cut_with(connection))
    }

    /// Closes open connections whose peer is not trusted any more: at once if its certificate was
    /// revoked, and otherwise when a drain's time is over, in which requests that are under way are
    /// answered. Runs for ever.
    pub async fn follow_trust(&self) {
        let Some(tls) = &self.tls else { return std::future::pending().await };
        let mut judgements = tls.judgements();
        let mut ends = VecDeque::new();
        loop {
            let next = ends.front().copied();
            tokio::select! {
                biased;
                _ = judgements.changed() => {
                    ends.push_back(Instant::now() + self.table.load().snapshot.timeouts.drain);
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    ends.pop_front();
                }
            }
            let (now, grace) = (Instant::now(), self.table.load().snapshot.timeouts.drain);
            let is_over =
                |peer: &Peer| peer.is_revoked() || peer.distrusted_at().is_some_and(|at| at + grace <= now);
            let why = match self.direction {
                Direction::Inbound => Kind::NotSecured,
                Direction::Outbound => Kind::Handshake,
            };
            let closed = self.live.refuse(|_, peer| peer.is_some_and(is_over).then_some(why));
            if closed > 0 {
                tracing::info!(closed, "connections closed whose peers are not trusted any more");
            }
        }
    }

    /// Counts a connection that is not carried, and logs it.
    pub fn refuse(&self, kind: Kind, peer: SocketAddr, dst: Option<SocketAddr>) {
        self.refuse_because(kind, peer, dst, &kind.words());
    }

    /// The same with the cause.
    pub fn refuse_because(
        &self,
        kind: Kind,
        peer: SocketAddr,
        dst: Option<SocketAddr>,
        cause: &dyn std::fmt::Display,
    ) {
        self.metrics.refused(kind);
        if let Some(withheld) = self.failures.admit(kind.label(), Instant::now()) {
            let (direction, reason) = (self.direction.label(), kind.label());
            tracing::warn!(%peer, ?dst, reason, %cause, withheld, "{direction} connection refused");
        }
    }

    /// The answer to what is no HTTP, which is counted and logged.
    pub fn refusal(&self, connection: &Connection, error: &Error) -> Response<Bytes> {
        self.metrics.refused(error.kind);
        if let Some(withheld) = self.failures.admit(error.kind.label(), Instant::now()) {
            let (peer, dst) = (connection.peer, connection.original_dst);
            tracing::warn!(%peer, %dst, %error, withheld, "request refused");
        }
        let response = reply::failure(error, &self.table.load().snapshot.instance, false);
        if let Some(mut access) = self.access(AccessEvent::Request, connection) {
            access.refused(error.kind, response.status(), response.body().len());
        }
        response
    }

    /// Finds out what a client of `dst` speaks, if `protocol` does not say so. `dial` opens a
    /// connection to its server, to hear whether that speaks first. `None`: the client is gone.
    ///
    /// What it does not always need is boxed: an idle connection keeps room for the largest of all
    /// that it might do.
    pub async fn begin<G, D>(
        &self,
        protocol: Protocol,
        dst: SocketAddr,
        io: Io<N>,
        timeouts: &Timeouts,
        drain: drain::Watch,
        dial: impl FnOnce() -> D,
    ) -> Option<Begun<Io<N>, G>>
    where
        D: Future<Output = Option<(Io<N>, Guard<G>)>>,
    {
        match protocol {
            Protocol::Tcp => Some(Begun::Opaque(Box::new(OpaqueBegun::unread(io)))),
            Protocol::Http => {
                let (is_http2, client) = version::is_http2(io, timeouts.request_headers, drain).await?;
                Some(Begun::Http { is_http2, client })
            }
            Protocol::Detect => {
                let (found, fresh) =
                    Box::pin(self.detect(dst, Reader::new(io), timeouts.detect, dial)).await?;
                begun(found, fresh)
            }
        }
    }

    /// Looks at the first bytes of a client of `dst`, and listens to the server too. A connection
    /// that was opened to hear the server is given back; if it is dropped, that is counted. `None`:
    /// reading from the client failed.
    pub async fn detect<G, D>(
        &self,
        dst: SocketAddr,
        client: Reader<Io<N>>,
        limit: Duration,
        dial: impl FnOnce() -> D,
    ) -> Option<Heard<Io<N>, G>>
    where
        D: Future<Output = Option<(Io<N>, Guard<G>)>>,
    {
        let dial = || async {
            let (server, guard) = dial().await?;
            Some((server, guard.of_race(&self.metrics.races)))
        };
        let (found, dialled) = race::detect_both(client, limit, &self.races, dst, dial).await.ok()?;
        self.detected(dst, &found);
        Some((found, dialled.map(FreshConnection::of_race)))
    }

    /// Counts what was detected, and logs what an app's own TLS tells.
    pub fn detected(&self, dst: SocketAddr, found: &Detected<Io<N>>) {
        self.metrics.detected(found.outcome.result());
        let is_mesh = found.hello.as_ref().is_some_and(tls::is_of_the_mesh);
        if found.outcome == Detection::Sniffed(Sniffed::Tls) && !is_mesh {
            self.metrics.greeted(found.hello.as_ref().map(|hello| hello.server_name.is_some()));
            let name = found.hello.as_ref().and_then(|hello| hello.server_name.as_deref());
            let direction = self.direction.label();
            tracing::debug!(%dst, direction, server_name = name, "TLS of the app is passed through");
        }
    }

    /// Connects to the one endpoint of `to` at `address`; a failure is counted and logged.
    pub async fn dial(
        &self,
        to: &SingleEndpointMetrics,
        address: SocketAddr,
        timeouts: &Timeouts,
    ) -> Option<Io<N>> {
        match self.connector.connect_within(&address.into(), Alpn::Opaque, timeouts.connect).await {
            Ok(server) => Some(server),
            Err(error) => {
                to.endpoint.connect_failed();
                self.metrics.refused(error.kind);
                if let Some(withheld) = self.failures.admit(error.kind.label(), Instant::now()) {
                    tracing::warn!(%error, withheld, "cannot connect");
                }
                None
            }
        }
    }
}

/// The last phases of a request, respond and log: what both sides do with an answer on its way to
/// the client, wherever it comes from.
pub fn respond<N: Net>(
    mut response: Response<ResponseBody<N>>,
    upgrade: UpgradeRequest,
    version: Version,
    tunnel: &TunnelSlot,
    timeouts: &Timeouts,
    (metrics, log): (&ClusterMetrics, RequestLog<'_>),
) -> Response<ResponseBody<N>> {
    if let Some(access) = log.access(&response) {
        response.body_mut().log_to(access);
    }
    let held = (ResponseBody::take_passing, ResponseBody::tunnelled, ResponseBody::end_tunnel);
    upgrade.answer(&mut response, held, tunnel, CopyTimeouts::of_tunnel(timeouts), metrics);
    forward::to_client(version, &mut response, || ResponseBody::NotModified);
    log.answered(response.status());
    response
}
