//! The way out: a connection that the local app opened and that was redirected here.
//!
//! [`carry`] asks in turn: where did the app want to go, which cluster is that, what does it speak.

mod attempts;
mod exchange;
mod http;
mod mirror;
mod route;
mod tcp;

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::balance::{Cluster, Table};
use crate::connection::{Connection, WireProtocol};
use crate::detect::Prefixed;
use crate::drain;
use crate::error::{Error, Kind};
use crate::http::serve;
use crate::side::{Begun, OpaqueBegun, Side, Stage};
use crate::telemetry::{Direction, Metrics, Open, SingleEndpointMetrics};
use crate::tls::{Io, Stream, TlsStore};
use crate::world::{Net, World};

/// The outbound side of one worker.
pub struct Outbound<N: Net> {
    /// What it has in common with the inbound one. Its pool connects to endpoints.
    pub side: Side<N>,
    passed_through: OnceCell<SingleEndpointMetrics>,
    /// Held by each copy of a request that is under way.
    mirrors: Rc<()>,
    /// Requests that were numbered.
    requests: Cell<u64>,
}

/// A connection of which is known where it goes and what it speaks.
struct Accepted<N: Net> {
    connection: Connection,
    kind: AcceptedKind<N>,
    /// It counts as open, and among those that there may be, until this is dropped.
    _counted: (Open, Open),
}

enum AcceptedKind<N: Net> {
    /// To an address of no cluster.
    Unknown(Arc<Table>, Io<N>),
    Opaque((Arc<Table>, Arc<Cluster>), Box<OpaqueBegun<Io<N>, tcp::Held>>),
    Http(Prefixed<Io<N>>, serve::Settings),
}

impl<N: Net> Accepted<N> {
    /// What carries it on, and what is to be kept meanwhile.
    fn carry(self, outbound: &Rc<Outbound<N>>, drain: drain::Watch) -> ((Open, Open), Stage<'_>) {
        let Accepted { connection, kind, _counted } = self;
        let stage: Stage<'_> = match kind {
            AcceptedKind::Unknown(table, io) => Box::pin(tcp::pass_through(outbound, table, io, connection)),
            AcceptedKind::Opaque(to, begun) => Box::pin(tcp::forward(outbound, to, connection, begun)),
            AcceptedKind::Http(io, settings) => {
                Box::pin(serve_http(outbound, connection, (io, settings), drain))
            }
        };
        (_counted, stage)
    }
}

/// Carries one connection to its end. Each stage has a box of its own, which is gone with the
/// stage: an idle connection keeps only what it carries with.
pub async fn carry<N: Net>(outbound: Rc<Outbound<N>>, io: N::Io, peer: SocketAddr, drain: drain::Watch) {
    let Some(accepted) = Box::pin(accept(&outbound, io, peer, drain.clone())).await else { return };
    let (_counted, stage) = accepted.carry(&outbound, drain);
    stage.await;
}

/// Answers the requests of a connection. The snapshot must not outlive its time because a client
/// keeps its connection: each request takes its own.
async fn serve_http<N: Net>(
    outbound: &Rc<Outbound<N>>,
    connection: Connection,
    (io, settings): (Prefixed<Io<N>>, serve::Settings),
    drain: drain::Watch,
) {
    let handle =
        |request, client| Box::pin(http::handle(outbound.clone(), connection.clone(), request, client));
    let side = &outbound.side;
    let refuse = |error: &Error| side.refusal(&connection, error);
    serve::connection(&side.net, &connection, io, &settings, drain, refuse, handle).await;
}

/// Finds out where a connection goes and what it speaks. `None`: it is gone, or was refused.
async fn accept<N: Net>(
    outbound: &Outbound<N>,
    mut io: N::Io,
    peer: SocketAddr,
    drain: drain::Watch,
) -> Option<Accepted<N>> {
    let side = &outbound.side;
    side.metrics.connections.inc();
    let open = Open::new(&side.metrics.open);
    let refuse = |kind, dst| {
        side.refuse(kind, peer, dst);
        None
    };
    let Some(dst) = side.net.orig_dst(&mut io).await else { return refuse(Kind::NotIntercepted, None) };
    if side.net.is_own(peer, dst) {
        outbound.refuse_own(dst);
        return None;
    }
    let table = side.table.load_full();
    let snapshot = &table.snapshot;
    let permit = match table.load.connection(Direction::Outbound, &snapshot.limits) {
        Ok(permit) => permit,
        Err(kind) => return refuse(kind, Some(dst)),
    };
    let io = Stream::Plain(io);
    let (protocol, kind) = match table.cluster_at(dst).cloned() {
        None => {
            let listen = &snapshot.listen;
            if dst.ip().is_loopback() && [listen.outbound, listen.inbound].contains(&dst.port()) {
                return refuse(Kind::Loop, Some(dst));
            }
            (WireProtocol::Opaque, AcceptedKind::Unknown(table, io))
        }
        Some(cluster) => {
            let protocol = cluster.config.protocol_at(dst.port());
            let dial =
                || async { tcp::dial(outbound, &cluster, (peer.ip(), dst), &snapshot.timeouts).await.ok() };
            match side.begin(protocol, dst, io, &snapshot.timeouts, drain, dial).await? {
                Begun::Http { is_http2, client } => {
                    let (http1, ages) = (snapshot.http1, &mut side.ages.borrow_mut());
                    let settings =
                        serve::Settings::of(snapshot, table.load.parked(Direction::Outbound), http1, ages);
                    (WireProtocol::http(is_http2), AcceptedKind::Http(client, settings))
                }
                Begun::Opaque(opaque) => {
                    (WireProtocol::Opaque, AcceptedKind::Opaque((table, cluster), opaque))
                }
            }
        }
    };
    let connection = Connection::unauthenticated(peer, dst, protocol);
    Some(Accepted { connection, kind, _counted: (open, permit) })
}

impl<N: Net> Outbound<N> {
    /// A side with an empty pool.
    pub fn new(
        world: &World<N>,
        tls: Option<Arc<TlsStore>>,
        table: Arc<ArcSwap<Table>>,
        all_metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        Rc::new(Outbound {
            side: Side::new(world, Direction::Outbound, |_| None, tls, table, all_metrics),
            passed_through: OnceCell::new(),
            mirrors: Rc::new(()),
            requests: Cell::new(0),
        })
    }

    /// The number of the next request.
    fn number(&self) -> u64 {
        self.requests.set(self.requests.get() + 1);
        self.requests.get()
    }

    /// The metrics of connections to addresses of no cluster, which appear with the first of them.
    fn passed_through(&self) -> &SingleEndpointMetrics {
        self.passed_through.get_or_init(|| self.side.all_metrics.single("outbound", "passthrough", "any"))
    }

    /// Carried on, such a connection would come back again and again, until there is no descriptor
    /// left.
    fn refuse_own(&self, dst: SocketAddr) {
        self.side.metrics.refused(Kind::Loop);
        if let Some(withheld) = self.side.failures.admit(Kind::Loop.label(), Instant::now()) {
            tracing::error!(
                %dst,
                withheld,
                "a connection of this sidecar's own was redirected to itself: no rule exempts it; run it as the user \
                 or group that the rules exempt, or with the mark that they do"
            );
        }
    }
}

#[cfg(test)]
mod tests;
