//! The way in: a connection that somebody opened to the local app and that was redirected here.

mod authorize;
mod caller;
mod client_cert;
mod http;
mod secure;
mod tcp;

use std::cell::{OnceCell, RefCell};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use caller::Callers;
use client_cert::ClientCert;
use tokio::time::Instant;

use crate::audit::{AuditEntry, AuditEvent, AuditLog};
use crate::authz::Facts;
use crate::authz::external::Authorizers;
use crate::authz::jwt::Remembered;
use crate::balance::Table;
use crate::capture::rules::{INBOUND_SOURCE_V4, INBOUND_SOURCE_V6};
use crate::config::{Retry, RetryCondition, RetryConditions, TlsMode, defaults};
use crate::connection::{Connection, WireProtocol};
use crate::detect::Prefixed;
use crate::drain;
use crate::error::{Error, Kind};
use crate::http::serve;
use crate::limit::client::{ClientConnection, share_of};
use crate::limit::slots::ConnectionSlots;
use crate::mutant::Mutant;
use crate::side::{Begun, OpaqueBegun, Side, Stage};
use crate::telemetry::{Direction, Metrics, Open, SingleEndpointMetrics};
use crate::tls::{Io, Peer, Stream, TlsStore};
use crate::world::{Net, Transport, Wall, World};

/// The inbound side of one worker.
pub struct Inbound<N: Net> {
    /// What it has in common with the outbound one. Its pool connects to the app.
    pub side: Side<N>,
    app: RefCell<Option<(String, Rc<SingleEndpointMetrics>)>>,
    callers: Callers,
    retry: Arc<Retry>,
    /// Tokens that were verified.
    tokens: RefCell<Remembered>,
    /// Connections to external authorizers.
    authorizers: Authorizers,
    /// What tokens' times are compared with.
    wall: Arc<dyn Wall>,
    /// Handshakes of TLS that are under way.
    handshakes: RefCell<ConnectionSlots>,
    audit: OnceCell<Arc<AuditLog>>,
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
    on: RetryConditions::of(&[
        RetryCondition::ResetBeforeRequest,
        RetryCondition::Reset,
        RetryCondition::RefusedStream,
    ]),
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
    pub fn new(
        world: &World<N>,
        tls: Option<Arc<TlsStore>>,
        table: Arc<ArcSwap<Table>>,
        all_metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        Rc::new(Inbound {
            handshakes: RefCell::default(),
            audit: OnceCell::new(),
            side: Side::new(world, Direction::Inbound, source_for, tls, table, all_metrics),
            app: RefCell::default(),
            callers: Callers::default(),
            retry: Arc::new(RETRY),
            tokens: RefCell::default(),
            authorizers: Authorizers::default(),
            wall: world.wall.clone(),
        })
    }

    /// Writes what comes in from now on to an audit log.
    pub fn audit_to(&self, log: Arc<AuditLog>) {
        let _ = self.audit.set(log);
    }

    /// Begins a line of the audit log, if there is one; waits for its place there if it is to.
    async fn audited(&self, event: AuditEvent, connection: &Connection) -> Option<AuditEntry> {
        let log = self.audit.get()?;
        let ends = (connection.peer, connection.original_dst);
        let entry = log.begin(event, ends, self.wall.now()).await;
        Some(entry.of(connection))
    }

    /// Refuses a connection that `began` then, of somebody who cannot prove who it is.
    async fn refuse_unproved(
        &self,
        connection: &Connection,
        began: (Instant, SystemTime),
        why: &impl Display,
    ) {
        self.side.refuse_because(Kind::NotSecured, connection.peer, Some(connection.original_dst), why);
        if let Some(entry) = self.audited(AuditEvent::Handshake, connection).await {
            let mut entry = entry.since(began.0, began.1);
            entry.refused(Kind::NotSecured);
            entry.record().explain(why);
        }
    }

    /// Notes a request that was refused with `status` because two readers could take it for two
    /// things. It waits for nothing: it has its answer, and what waits without a connection could
    /// be any number.
    fn audit_unreadable(&self, connection: &Connection, why: Kind, status: u16) {
        let Some(log) = self.audit.get() else { return };
        let ends = (connection.peer, connection.original_dst);
        let entry = log.begin_refused(AuditEvent::Request, ends, self.wall.now());
        if let Some(entry) = entry {
            let mut entry = entry.of(connection);
            entry.refused(why);
            entry.record().status = Some(status);
        }
    }

    /// Why a connection is refused that began before what is in force now. Whoever carries it on
    /// registers it first of all, so what comes into force later finds it there.
    fn overtaken(&self, accepted: &Accepted<N>) -> Option<&'static str> {
        let port = accepted.connection.original_dst.port();
        match &accepted.peer {
            Some(peer) if !peer.is_trusted() => Some("the certificate is not trusted any more"),
            None if self.side.table.load().snapshot.inbound_tls(port) == TlsMode::Strict
                && !Mutant::TakesPlaintext.is_planted() =>
            {
                Some("the port takes nothing but the mesh's TLS (tls = \"strict\") by now")
            }
            _ => None,
        }
    }

    /// Closes open connections that other policies do not allow, or that prove nothing on a port
    /// that is strict now, whenever such come into force.
    /// Runs for ever.
    pub async fn follow_policies(&self) {
        let mut changes = self.side.table.load().authorization.watch();
        while changes.changed().await.is_ok() {
            let table = self.side.table.load_full();
            let authorization = &table.authorization;
            let is_allowed = |connection: &Connection| match connection.protocol {
                WireProtocol::Opaque => authorize::may_be_opaque(&table, connection),
                WireProtocol::Http1 | WireProtocol::Http2 => {
                    authorization.policies.may_live(&Facts::of(connection)).allowed
                }
            };
            let closed = self.side.live.refuse(|connection, peer| {
                let mode = table.snapshot.inbound_tls(connection.original_dst.port());
                match peer.is_some() || mode != TlsMode::Strict {
                    true => (!is_allowed(connection)).then_some(Kind::Denied),
                    false => Some(Kind::NotSecured),
                }
            });
            if closed > 0 {
                authorization.metrics.closed.inc_by(closed);
                tracing::info!(closed, "connections closed that the new configuration does not allow");
            }
        }
        std::future::pending().await
    }

    /// The metrics of the app under its name in force.
    fn app(&self, service: &str) -> Rc<SingleEndpointMetrics> {
        let mut app = self.app.borrow_mut();
        match &*app {
            Some((name, metrics)) if name == service => metrics.clone(),
            _ => {
                let metrics = Rc::new(self.side.all_metrics.single("inbound", service, "app"));
                *app = Some((service.to_owned(), metrics.clone()));
                metrics
            }
        }
    }
}

/// A connection of which is known what it is.
struct Accepted<N: Net> {
    connection: Connection,
    /// Who has proved to be on the other end, if anybody has.
    peer: Option<Arc<Peer>>,
    kind: AcceptedKind<N>,
    /// It counts as open, and among those that there may be, until this is dropped.
    _counted: (Open, Open),
    /// So it does among its client's.
    client: ClientConnection,
}

enum AcceptedKind<N: Net> {
    Opaque(Box<OpaqueBegun<Io<N>, tcp::Held>>),
    Http(Prefixed<Io<N>>, serve::Settings),
}

impl<N: Net> Accepted<N> {
    /// Resets it.
    fn abort(self) {
        match self.kind {
            AcceptedKind::Opaque(mut begun) => begun.client.abort(),
            AcceptedKind::Http(mut client, _) => client.abort(),
        }
    }

    /// What carries it on, and what is to be kept meanwhile.
    fn carry(
        self,
        inbound: &Rc<Inbound<N>>,
        drain: drain::Watch,
    ) -> ((Open, Open), Option<ClientConnection>, Stage<'_>) {
        let Accepted { connection, peer, kind, _counted, client } = self;
        match kind {
            AcceptedKind::Opaque(begun) => {
                let stage = Box::pin(tcp::forward(inbound, connection, peer, begun));
                (_counted, Some(client), stage)
            }
            AcceptedKind::Http(io, settings) => {
                let stage = serve_http(inbound, (connection, peer), client, (io, settings), drain);
                (_counted, None, Box::pin(stage))
            }
        }
    }
}

/// Carries one connection to its end. Each stage has a box of its own, which is gone with the
/// stage: an idle connection keeps only what it carries with.
pub async fn carry<N: Net>(inbound: Rc<Inbound<N>>, io: N::Io, peer: SocketAddr, drain: drain::Watch) {
    let Some(accepted) = Box::pin(accept(&inbound, io, peer, drain.clone())).await else { return };
    let (_counted, _client, stage) = accepted.carry(&inbound, drain);
    stage.await;
}

/// Answers the requests of a connection.
async fn serve_http<N: Net>(
    inbound: &Rc<Inbound<N>>,
    (connection, proved): (Connection, Option<Arc<Peer>>),
    client: ClientConnection,
    (io, settings): (Prefixed<Io<N>>, serve::Settings),
    drain: drain::Watch,
) {
    let side = &inbound.side;
    // The snapshot must not outlive its time because a client keeps its connection.
    let permits = {
        let limits = &side.table.load().snapshot.limits;
        share_of(limits.endpoint_connections, limits.client_share)
    };
    let certified = side.tls.as_ref().map(|tls| ClientCert::of(proved.as_deref(), tls));
    let caller = Rc::new(inbound.callers.caller(client, connection.peer.ip(), permits, certified));
    let drain = match &proved {
        Some(peer) => drain.or(peer.ending()),
        None => drain,
    };
    let live = side.live.register(connection.clone(), proved);
    let handle = |request, client| {
        Box::pin(http::handle(inbound.clone(), connection.clone(), caller.clone(), request, client))
    };
    let refuse = |error: &Error| {
        let response = side.refusal(&connection, error);
        inbound.audit_unreadable(&connection, error.kind, response.status().as_u16());
        response
    };
    tokio::select! {
        biased;
        () = live.refused() => {}
        () = serve::connection(&side.net, &connection, io, &settings, drain, refuse, handle) => {}
    }
}

/// Finds out what a connection is. `None`: it is gone, or was refused.
async fn accept<N: Net>(
    inbound: &Inbound<N>,
    mut io: N::Io,
    peer: SocketAddr,
    drain: drain::Watch,
) -> Option<Accepted<N>> {
    let side = &inbound.side;
    side.metrics.connections.inc();
    let open = Open::new(&side.metrics.open);
    let refuse = |kind, dst| {
        side.refuse(kind, peer, dst);
        None
    };
    let Some(dst) = side.net.orig_dst(&mut io).await else { return refuse(Kind::NotIntercepted, None) };
    let began = (Instant::now(), inbound.wall.now());
    let table = side.table.load_full();
    let snapshot = &table.snapshot;
    let limits = &snapshot.limits;
    let permit = match table.load.connection(Direction::Inbound, limits) {
        Ok(permit) => permit,
        Err(kind) => return refuse(kind, Some(dst)),
    };
    let most = share_of(table.load.connection_limit(Direction::Inbound, limits), limits.client_share);
    let client = match table.load.clients.connection(peer.ip(), most) {
        Ok(client) => client,
        Err(kind) => return refuse(kind, Some(dst)),
    };
    let listen = &snapshot.listen;
    // Going on to one of the sidecar's own ports would come back here, or open the admin port to
    // the outside.
    if [listen.outbound, listen.inbound, listen.admin].contains(&dst.port()) {
        return refuse(Kind::Loop, Some(dst));
    }
    let (begun, proved) =
        secure::begin(inbound, &table, (peer, dst, began), Stream::Plain(io), drain).await?;
    let (protocol, kind) = match begun {
        Begun::Opaque(opaque) => (WireProtocol::Opaque, AcceptedKind::Opaque(opaque)),
        Begun::Http { is_http2, client } => {
            let http1 = snapshot.http1.with_added();
            let ages = &mut side.ages.borrow_mut();
            let settings =
                serve::Settings::of_remote(snapshot, table.load.parked(Direction::Inbound), http1, ages);
            (WireProtocol::http(is_http2), AcceptedKind::Http(client, settings))
        }
    };
    let peer_identity = proved.as_ref().map(|peer| peer.identity.clone());
    let unknown = Connection::unauthenticated(peer, dst, protocol);
    let connection = Connection { peer_identity, ..unknown };
    let accepted = Accepted { connection, peer: proved, kind, _counted: (open, permit), client };
    match inbound.overtaken(&accepted) {
        None => Some(accepted),
        Some(why) => {
            inbound.refuse_unproved(&accepted.connection, began, &why).await;
            accepted.abort();
            None
        }
    }
}
