//! The way in: a connection that somebody opened to the local app and that was redirected here.

mod caller;
mod http;
mod tcp;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::Response;
use arc_swap::ArcSwap;
use bytes::Bytes;
use caller::Callers;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::balance::Table;
use crate::capture::rules::{INBOUND_SOURCE_V4, INBOUND_SOURCE_V6};
use crate::config::{Condition, Conditions, Protocol, Retry, defaults};
use crate::connect::Connector;
use crate::connection::{Connection, WireProtocol};
use crate::detect::race::Races;
use crate::detect::{Detected, Detection, Prefixed, Sniffed};
use crate::drain;
use crate::endpoint::Pools;
use crate::error::{Error, Kind};
use crate::http::{reply, serve, version};
use crate::limit::client::share_of;
use crate::telemetry::{Direction, Metrics, Open, SideMetrics, SingleEndpointMetrics, Throttle};
use crate::world::{Net, World};

/// The inbound side of one worker.
pub struct Inbound<N: Net> {
    net: N,
    connector: Connector<N>,
    table: Arc<ArcSwap<Table>>,
    /// Connections to the app.
    pub pool: Pools<N>,
    rng: RefCell<StdRng>,
    metrics: SideMetrics,
    all_metrics: Arc<Metrics>,
    app: RefCell<Option<(String, Rc<SingleEndpointMetrics>)>>,
    races: Races,
    /// Spreads the ends of accepted connections.
    ages: RefCell<StdRng>,
    callers: Callers,
    failures: Throttle,
    retry: Arc<Retry>,
}

/// A request is tried again only to hide the race in which the app closes a kept connection just as
/// the request is sent on it, as Istio does with `reset-before-request`, and once if the app has
/// refused it unprocessed (REFUSED_STREAM, or GOAWAY); an app that is down, or refuses again, is
/// the business of the caller, which has other replicas.
///
/// Such a retry has no back-off and no mark: the app has seen nothing, and nobody else repeats it
/// for that.
const RETRY: Retry = Retry {
    attempts: 1,
    on: Conditions::of(&[Condition::ResetBeforeRequest, Condition::Reset, Condition::RefusedStream]),
    status_codes: Vec::new(),
    unsafe_methods: false,
    base: Duration::ZERO,
    max: Duration::ZERO,
    retry_after: Duration::ZERO,
    body: defaults::RETRY_BODY,
    hedge: None,
};

/// Where connections to the app come from. The rules let these through to the app; from any other
/// address of this sidecar a connection to the instance's own address is taken for one that goes
/// out and comes in again. As in Istio.
pub fn source_for(app: SocketAddr) -> Option<IpAddr> {
    Some(match app {
        SocketAddr::V4(_) => INBOUND_SOURCE_V4.into(),
        SocketAddr::V6(_) => INBOUND_SOURCE_V6.into(),
    })
}

impl<N: Net> Inbound<N> {
    /// A side with an empty pool.
    pub fn new(world: &World<N>, table: Arc<ArcSwap<Table>>, all_metrics: Arc<Metrics>) -> Rc<Self> {
        let connector = Connector::new(world.net.clone(), source_for);
        Rc::new(Inbound {
            net: world.net.clone(),
            table,
            pool: Pools::new(connector.clone(), world.rng.child("inbound pool", 0)),
            connector,
            rng: RefCell::new(world.rng.child("inbound", 0).rng()),
            metrics: all_metrics.side("inbound"),
            all_metrics,
            app: RefCell::default(),
            races: Races::default(),
            ages: RefCell::new(world.rng.child("inbound ages", 0).rng()),
            callers: Callers::default(),
            failures: Throttle::default(),
            retry: Arc::new(RETRY),
        })
    }

    /// The metrics of the app under its name in force.
    fn app(&self, service: &str) -> Rc<SingleEndpointMetrics> {
        let mut app = self.app.borrow_mut();
        match &*app {
            Some((name, metrics)) if name == service => metrics.clone(),
            _ => {
                let metrics = Rc::new(self.all_metrics.single("inbound", service, "app"));
                *app = Some((service.to_owned(), metrics.clone()));
                metrics
            }
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
            tracing::warn!(%peer, ?dst, reason = kind.label(), withheld, "inbound connection refused");
        }
    }
}

/// Carries one connection to its end. What it does not always need is boxed: an idle connection
/// keeps room for the largest of all that it might do.
pub async fn carry<N: Net>(side: Rc<Inbound<N>>, mut io: N::Io, peer: SocketAddr, drain: drain::Watch) {
    side.metrics.connections.inc();
    let _open = Open::new(&side.metrics.open);
    let Some(dst) = side.net.orig_dst(&mut io).await else {
        return side.refuse(Kind::NotIntercepted, peer, None);
    };
    let table = side.table.load_full();
    let _permit = match table.load.connection(Direction::Inbound, &table.snapshot.limits) {
        Ok(permit) => permit,
        Err(kind) => return side.refuse(kind, peer, Some(dst)),
    };
    let limits = &table.snapshot.limits;
    let most = share_of(table.load.connection_limit(Direction::Inbound, limits), limits.client_share);
    let client = match table.load.clients.connection(peer.ip(), most) {
        Ok(client) => client,
        Err(kind) => return side.refuse(kind, peer, Some(dst)),
    };
    let listen = &table.snapshot.listen;
    // Going on to one of the sidecar's own ports would come back here, or open the admin port to
    // the outside.
    if [listen.outbound, listen.inbound, listen.admin].contains(&dst.port()) {
        return side.refuse(Kind::Loop, peer, Some(dst));
    }
    let snapshot = &table.snapshot;
    let accepted = |protocol| Connection { peer, original_dst: dst, protocol };
    let (is_http2, io) = match snapshot.inbound_protocol(dst.port()) {
        Protocol::Tcp => {
            let io = Prefixed::new(Bytes::new(), io);
            return Box::pin(tcp::forward(&side, table, accepted(WireProtocol::Opaque), io, None, None))
                .await;
        }
        Protocol::Http => match version::is_http2(io, snapshot.timeouts.request_headers, drain.clone()).await
        {
            Some(begun) => begun,
            None => return,
        },
        Protocol::Detect => {
            let opening = Box::pin(tcp::opening(&side, snapshot, dst, io)).await;
            let Ok((Detected { outcome, client, .. }, fresh)) = opening else { return };
            match outcome {
                Detection::Sniffed(Sniffed::Http1) => (false, client),
                Detection::Sniffed(Sniffed::Http2) => (true, client),
                Detection::Closed => return,
                _ => {
                    let connection = accepted(WireProtocol::Opaque);
                    let forward = tcp::forward(&side, table, connection, client, fresh, Some(outcome));
                    return Box::pin(forward).await;
                }
            }
        }
    };
    let settings = serve::Settings::of_remote(
        &table.snapshot,
        table.snapshot.http1.with_added(),
        &mut side.ages.borrow_mut(),
    );
    let permits = share_of(limits.endpoint_connections, limits.client_share);
    let caller = Rc::new(side.callers.caller(client, peer.ip(), permits));
    drop(table);
    let connection = accepted(WireProtocol::http(is_http2));
    let handle =
        |request, client| Box::pin(http::handle(side.clone(), connection, caller.clone(), request, client));
    let refuse = |error: &Error| side.refusal(error);
    serve::connection(&side.net, connection, io, settings, drain, refuse, handle).await;
}
