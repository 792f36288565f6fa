//! The way out: a connection that the local app opened and that was redirected here.
//!
//! [`carry`] asks in turn: where did the app want to go, which cluster is that,
//! what does it speak.

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

use crate::balance::Table;
use crate::connection::{Connection, WireProtocol};
use crate::drain;
use crate::error::{Error, Kind};
use crate::http::serve;
use crate::side::{Begun, Side};
use crate::telemetry::{Direction, Metrics, Open, SingleEndpointMetrics};
use crate::tls::{Stream, TlsStore};
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

/// Carries one connection to its end. What it does not always need is boxed: an idle connection
/// keeps room for the largest of all that it might do.
pub async fn carry<N: Net>(outbound: Rc<Outbound<N>>, mut io: N::Io, peer: SocketAddr, drain: drain::Watch) {
    let side = &outbound.side;
    side.metrics.connections.inc();
    let _open = Open::new(&side.metrics.open);
    let Some(dst) = side.net.orig_dst(&mut io).await else {
        return side.refuse(Kind::NotIntercepted, peer, None);
    };
    if side.net.is_own(peer, dst) {
        return outbound.refuse_own(dst);
    }
    let table = side.table.load_full();
    let snapshot = &table.snapshot;
    let _permit = match table.load.connection(Direction::Outbound, &snapshot.limits) {
        Ok(permit) => permit,
        Err(kind) => return side.refuse(kind, peer, Some(dst)),
    };
    let io = Stream::Plain(io);
    let Some(cluster) = table.cluster_at(dst).cloned() else {
        let listen = &snapshot.listen;
        if dst.ip().is_loopback() && [listen.outbound, listen.inbound].contains(&dst.port()) {
            return side.refuse(Kind::Loop, peer, Some(dst));
        }
        return Box::pin(tcp::pass_through(&outbound, table, io, dst, peer)).await;
    };
    let protocol = cluster.config.protocol_at(dst.port());
    let dial = || tcp::dial(&outbound, &cluster, (peer.ip(), dst), &snapshot.timeouts);
    let begun = side.begin(protocol, dst, io, &snapshot.timeouts, drain.clone(), dial).await;
    let accepted = |protocol| Connection::unauthenticated(peer, dst, protocol);
    let (is_http2, client) = match begun {
        Some(Begun::Http { is_http2, client }) => (is_http2, client),
        Some(Begun::Opaque(opaque)) => {
            let connection = accepted(WireProtocol::Opaque);
            return Box::pin(tcp::forward(&outbound, (table, cluster), connection, *opaque)).await;
        }
        None => return,
    };
    // The snapshot must not outlive its time because a client keeps its connection: each request
    // takes its own.
    let settings = serve::Settings::of(snapshot, snapshot.http1, &mut side.ages.borrow_mut());
    drop((table, cluster));
    let connection = accepted(WireProtocol::http(is_http2));
    let handle =
        |request, client| Box::pin(http::handle(outbound.clone(), connection.clone(), request, client));
    let refuse = |error: &Error| side.refusal(error);
    serve::connection(&side.net, &connection, client, settings, drain, refuse, handle).await;
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
        if let Some(withheld) = self.side.failures.admit(Instant::now()) {
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
