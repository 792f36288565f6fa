//! The way in: a connection that somebody opened to the local app and that was redirected here.

mod http;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::balance::Table;
use crate::capture::rules::{INBOUND_SOURCE_V4, INBOUND_SOURCE_V6};
use crate::config::Protocol;
use crate::config::defaults::HALF_CLOSE_TIMEOUT;
use crate::detect::{Outcome, Sniffed, detect};
use crate::drain;
use crate::endpoint::Pools;
use crate::error::{Error, Kind};
use crate::http::tunnel::Slot;
use crate::http::{serve, serve_h2, version};
use crate::tcp::both_ways;
use crate::telemetry::{ClusterMetrics, Metrics, Open, SideMetrics, Throttle};
use crate::world::{Net, World};

/// The inbound side of one worker.
pub struct Inbound<N: Net> {
    net: N,
    table: Arc<ArcSwap<Table>>,
    /// Connections to the app.
    pub pool: Pools<N>,
    rng: RefCell<StdRng>,
    metrics: SideMetrics,
    all_metrics: Arc<Metrics>,
    app: RefCell<Option<(String, Rc<ClusterMetrics>)>>,
    failures: Throttle,
}

/// Where connections to the app come from. The rules let these through to the app; from any other address of this
/// sidecar a connection to the instance's own address is taken for one that goes out and comes in again. IPv4 is as in
/// Istio; for IPv6 the loopback address serves, which needs no set-up, and the rule asks for the sidecar's user as well.
pub fn source_for(app: SocketAddr) -> Option<IpAddr> {
    Some(match app {
        SocketAddr::V4(_) => INBOUND_SOURCE_V4.into(),
        SocketAddr::V6(_) => INBOUND_SOURCE_V6.into(),
    })
}

impl<N: Net> Inbound<N> {
    /// A side with an empty pool.
    pub fn new(world: &World<N>, table: Arc<ArcSwap<Table>>, all_metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Inbound {
            net: world.net.clone(),
            table,
            pool: Pools::new(world.net.clone(), source_for),
            rng: RefCell::new(world.rng.child("inbound", 0).rng()),
            metrics: all_metrics.side("inbound"),
            all_metrics,
            app: RefCell::default(),
            failures: Throttle::default(),
        })
    }

    /// The metrics of the app under its name in force.
    fn app(&self, service: &str) -> Rc<ClusterMetrics> {
        let mut app = self.app.borrow_mut();
        match &*app {
            Some((name, metrics)) if name == service => metrics.clone(),
            _ => {
                let metrics = Rc::new(self.all_metrics.cluster("inbound", service));
                *app = Some((service.to_owned(), metrics.clone()));
                metrics
            }
        }
    }

    fn refuse(&self, kind: Kind, peer: SocketAddr, dst: Option<SocketAddr>) {
        self.metrics.refused(kind);
        if let Some(withheld) = self.failures.admit(Instant::now()) {
            tracing::warn!(%peer, ?dst, reason = kind.label(), withheld, "inbound connection refused");
        }
    }
}

/// Carries one connection to its end.
pub async fn connection<N: Net>(side: Rc<Inbound<N>>, mut io: N::Io, peer: SocketAddr, drain: drain::Watch) {
    side.metrics.connections.inc();
    let _open = Open::new(&side.metrics.open);
    let Some(dst) = side.net.orig_dst(&mut io).await else {
        return side.refuse(Kind::NotIntercepted, peer, None);
    };
    let table = side.table.load_full();
    let _place = match table.load.connection(&table.snapshot.limits) {
        Ok(place) => place,
        Err(kind) => return side.refuse(kind, peer, Some(dst)),
    };
    let listen = &table.snapshot.listen;
    // Going on to one of the sidecar's own ports would come back here, or open the admin port to the outside.
    if [listen.outbound, listen.inbound, listen.admin].contains(&dst.port()) {
        return side.refuse(Kind::Loop, peer, Some(dst));
    }
    let (is_http2, io) = match table.snapshot.inbound.get(&dst.port()).copied().unwrap_or_default() {
        Protocol::Tcp => return forward(&side, io, dst).await,
        Protocol::Http => match version::is_http2(io, drain.clone()).await {
            Some(begun) => begun,
            None => return,
        },
        Protocol::Detect => {
            let Ok((outcome, io)) = detect(io, table.snapshot.timeouts.detect).await else { return };
            side.metrics.detected(outcome);
            match outcome {
                Outcome::Sniffed(Sniffed::Http1) => (false, io),
                Outcome::Sniffed(Sniffed::Http2) => (true, io),
                Outcome::Closed => return,
                _ => return forward(&side, io, dst).await,
            }
        }
    };
    let http1 = table.snapshot.http1;
    drop(table);
    let tunnel = Slot::default();
    let handle = |request| http::handle(side.clone(), dst, request, tunnel.clone());
    // A tunnel holds the drain as well.
    let served = if is_http2 {
        serve_h2::http2(side.net.clone(), io, drain.clone(), handle).await
    } else {
        serve::http1(io, http1, drain.clone(), handle).await
    };
    if let Err(error) = served {
        if error.is_parse() || error.is_parse_too_large() {
            side.metrics.refused(Kind::Malformed);
        }
        tracing::debug!(%peer, %dst, %error, "client connection ended");
    }
    tunnel.run().await;
}

/// Carries opaque bytes to the app.
async fn forward<N: Net, I: AsyncRead + AsyncWrite + Unpin>(side: &Inbound<N>, io: I, dst: SocketAddr) {
    let limit = side.table.load().snapshot.timeouts.connect;
    let error = match timeout(limit, side.net.connect(dst, source_for(dst))).await {
        Ok(Ok(app)) => {
            if let Err(error) = both_ways(io, app, HALF_CLOSE_TIMEOUT).await {
                tracing::debug!(%dst, %error, "connection ended");
            }
            return;
        }
        Ok(Err(cause)) => Error::at(Kind::Connect, dst, cause),
        Err(_) => Error::at(Kind::ConnectTimeout, dst, format!("no answer within {limit:?}")),
    };
    side.metrics.refused(error.kind);
    if let Some(withheld) = side.failures.admit(Instant::now()) {
        tracing::warn!(%error, withheld, "the app cannot be reached");
    }
}
