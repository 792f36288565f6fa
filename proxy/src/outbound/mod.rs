//! The way out: a connection that the local app opened and that was redirected here.
//!
//! [`carry`] reads as the story goes: where did the app want to go, which cluster is that,
//! what does it speak.

mod attempts;
mod exchange;
mod http;
mod mirror;
mod route;
mod tcp;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use ::http::Response;
use arc_swap::ArcSwap;
use bytes::Bytes;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::balance::Table;
use crate::config::Protocol;
use crate::connect::Connector;
use crate::connection::{Connection, WireProtocol};
use crate::detect::race::Races;
use crate::detect::{Detected, Detection, Prefixed, Sniffed};
use crate::drain;
use crate::endpoint::Pools;
use crate::error::{Error, Kind};
use crate::http::{reply, serve, version};
use crate::telemetry::{Direction, Metrics, Open, SideMetrics, SingleEndpointMetrics, Throttle};
use crate::world::{Net, World};

/// The outbound side of one worker.
pub struct Outbound<N: Net> {
    net: N,
    connector: Connector<N>,
    table: Arc<ArcSwap<Table>>,
    /// Connections to endpoints.
    pub pool: Pools<N>,
    rng: Rc<RefCell<StdRng>>,
    metrics: SideMetrics,
    all_metrics: Arc<Metrics>,
    passed_through: OnceCell<SingleEndpointMetrics>,
    races: Races,
    /// Held by each copy of a request that is under way.
    mirrors: Rc<()>,
    /// Spreads the ends of accepted connections.
    ages: RefCell<StdRng>,
    failures: Throttle,
    /// Requests that were numbered.
    requests: Cell<u64>,
}

impl<N: Net> Outbound<N> {
    /// A side with an empty pool.
    pub fn new(world: &World<N>, table: Arc<ArcSwap<Table>>, all_metrics: Arc<Metrics>) -> Rc<Self> {
        let connector = Connector::new(world.net.clone(), |_| None);
        let pool = Pools::new(connector.clone(), world.rng.child("outbound pool", 0));
        let rng = Rc::new(RefCell::new(world.rng.child("outbound", 0).rng()));
        Rc::new(Outbound {
            net: world.net.clone(),
            connector,
            table,
            pool,
            rng,
            metrics: all_metrics.side("outbound"),
            all_metrics,
            passed_through: OnceCell::new(),
            races: Races::default(),
            mirrors: Rc::new(()),
            ages: RefCell::new(world.rng.child("outbound ages", 0).rng()),
            failures: Throttle::default(),
            requests: Cell::new(0),
        })
    }

    /// The number of the next request.
    fn number(&self) -> u64 {
        self.requests.set(self.requests.get() + 1);
        self.requests.get()
    }
}

/// Carries one connection to its end. What it does not always need is boxed: an idle connection
/// keeps room for the largest of all that it might do.
pub async fn carry<N: Net>(side: Rc<Outbound<N>>, mut io: N::Io, peer: SocketAddr, drain: drain::Watch) {
    side.metrics.connections.inc();
    let _open = Open::new(&side.metrics.open);
    let Some(dst) = side.net.orig_dst(&mut io).await else {
        return side.refuse(Kind::NotIntercepted, peer, None);
    };
    if side.net.is_own(peer, dst) {
        return side.refuse_own(dst);
    }
    let table = side.table.load_full();
    let _permit = match table.load.connection(Direction::Outbound, &table.snapshot.limits) {
        Ok(permit) => permit,
        Err(kind) => return side.refuse(kind, peer, Some(dst)),
    };
    let Some(cluster) = table.cluster_at(dst).cloned() else {
        let listen = &table.snapshot.listen;
        if dst.ip().is_loopback() && [listen.outbound, listen.inbound].contains(&dst.port()) {
            return side.refuse(Kind::Loop, peer, Some(dst));
        }
        return Box::pin(tcp::pass_through(&side, table, io, dst, peer)).await;
    };
    let timeouts = &table.snapshot.timeouts;
    let accepted = |protocol| Connection { peer, original_dst: dst, protocol };
    let (is_http2, client) = match cluster.config.protocol_at(dst.port()) {
        Protocol::Tcp => {
            let io = Prefixed::new(Bytes::new(), io);
            let connection = accepted(WireProtocol::Opaque);
            return Box::pin(tcp::forward(&side, (table, cluster), connection, io, None, None)).await;
        }
        Protocol::Http => match version::is_http2(io, timeouts.request_headers, drain.clone()).await {
            Some(begun) => begun,
            None => return,
        },
        Protocol::Detect => {
            let opening = Box::pin(tcp::opening(&side, &cluster, (dst, peer), io, timeouts)).await;
            let Ok((Detected { outcome, client, .. }, fresh)) = opening else { return };
            match outcome {
                Detection::Sniffed(Sniffed::Http1) => (false, client),
                Detection::Sniffed(Sniffed::Http2) => (true, client),
                Detection::Closed => return,
                _ => {
                    let connection = accepted(WireProtocol::Opaque);
                    let forward =
                        tcp::forward(&side, (table, cluster), connection, client, fresh, Some(outcome));
                    return Box::pin(forward).await;
                }
            }
        }
    };
    // The snapshot must not outlive its time because a client keeps its connection: each request
    // takes its own.
    let settings = serve::Settings::of(&table.snapshot, table.snapshot.http1, &mut side.ages.borrow_mut());
    drop((table, cluster));
    let connection = accepted(WireProtocol::http(is_http2));
    let handle = |request, client| Box::pin(http::handle(side.clone(), connection, request, client));
    let refuse = |error: &Error| side.refusal(error);
    serve::connection(&side.net, connection, client, settings, drain, refuse, handle).await;
}

impl<N: Net> Outbound<N> {
    /// The metrics of connections to addresses of no cluster, which appear with the first of them.
    fn passed_through(&self) -> &SingleEndpointMetrics {
        self.passed_through.get_or_init(|| self.all_metrics.single("outbound", "passthrough", "any"))
    }

    /// Carried on, such a connection would come back again and again, until there is no descriptor
    /// left.
    fn refuse_own(&self, dst: SocketAddr) {
        self.metrics.refused(Kind::Loop);
        if let Some(withheld) = self.failures.admit(Instant::now()) {
            tracing::error!(
                %dst,
                withheld,
                "a connection of this sidecar's own was redirected to itself: no rule exempts it; run it as the user \
                 or group that the rules exempt, or with the mark that they do"
            );
        }
    }

    /// The answer to what is no HTTP.
    fn refusal(&self, error: &Error) -> Response<Bytes> {
        self.metrics.refused(error.kind);
        reply::failure(error, &self.table.load().snapshot.instance, false)
    }

    fn refuse(&self, kind: Kind, peer: SocketAddr, dst: Option<SocketAddr>) {
        self.metrics.refused(kind);
        if let Some(withheld) = self.failures.admit(Instant::now()) {
            tracing::warn!(%peer, ?dst, reason = kind.label(), withheld, "outbound connection refused");
        }
    }
}

#[cfg(test)]
mod tests;
