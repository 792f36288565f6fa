//! Opaque connections on their way in.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Inbound, authorize};
use crate::audit::AuditEvent;
use crate::config::Snapshot;
use crate::connection::Connection;
use crate::detect::Prefixed;
use crate::endpoint::ActiveRequest;
use crate::error::Kind;
use crate::lines::Lines;
use crate::side::OpaqueBegun;
use crate::tcp::{self, CopyTimeouts, FreshConnection, Guard};
use crate::telemetry::access::AccessEvent;
use crate::telemetry::{OpaqueMetrics, OpenConnection};
use crate::tls::{Io, Peer};
use crate::world::{Net, Transport};

/// What lasts as long as a connection to the app.
pub(super) type Held = (OpenConnection, ActiveRequest);

/// Carries opaque bytes to the app: over the fresh connection if there is one.
pub(super) async fn forward<N: Net>(
    inbound: &Inbound<N>,
    connection: Connection,
    peer: Option<Arc<Peer>>,
    begun: Box<OpaqueBegun<Io<N>, Held>>,
) {
    let live = inbound.side.live.register(connection.clone(), peer);
    let Some(opened) = Box::pin(open(inbound, &connection, *begun)).await else { return };
    // Handed on as a whole: what is taken apart here would take room for as long as it is carried.
    let carrying = opened.carry(connection);
    tokio::select! {
        biased;
        () = live.refused() => {}
        () = carrying => {}
    }
}

/// What a connection is carried with.
struct Opened<N: Net> {
    client: Prefixed<Io<N>>,
    server: FreshConnection<Io<N>, Held>,
    timeouts: CopyTimeouts,
    metrics: OpaqueMetrics,
    lines: Lines,
}

impl<N: Net> Opened<N> {
    fn carry(self, connection: Connection) -> impl Future<Output = ()> {
        let Opened { client, server, timeouts, metrics, lines } = self;
        tcp::carry::<N, _>(connection, client, server, timeouts, metrics, lines)
    }
}

/// Lets a connection that is registered already through to the app. `None`: it was refused.
async fn open<N: Net>(
    inbound: &Inbound<N>,
    connection: &Connection,
    OpaqueBegun { mut client, fresh, server_first }: OpaqueBegun<Io<N>, Held>,
) -> Option<Opened<N>> {
    // Loaded after the registration, or a change of policies could be missed.
    let table = inbound.side.table.load_full();
    let snapshot = &table.snapshot;
    let mut audit = inbound.audited(AuditEvent::Connection, connection).await;
    let access = inbound.side.access(AccessEvent::Connection, connection);
    let access = access.map(|access| access.to(connection.original_dst));
    let decided = authorize::opaque(inbound, &table, connection, &mut audit);
    if let Some(audit) = &mut audit {
        audit.record().decide(decided.allowed, decided.rule.as_ref());
    }
    let mut lines = Lines { audit, access };
    if !decided.allowed {
        lines.failed(Kind::Denied);
        client.abort();
        return None;
    }
    let server = match fresh {
        Some(fresh) => fresh.take_into_use(server_first),
        None => match dial(inbound, snapshot, connection.original_dst).await {
            Some(dialled) => FreshConnection::new(dialled),
            // Directly it would have been refused.
            None => {
                lines.failed(Kind::Connect);
                client.abort();
                return None;
            }
        },
    };
    let metrics = inbound.app(&snapshot.service).cluster.opaque();
    let timeouts = CopyTimeouts::of(&snapshot.timeouts);
    Some(Opened { client, server, timeouts, metrics, lines })
}

/// Connects to the app.
pub(super) async fn dial<N: Net>(
    inbound: &Inbound<N>,
    snapshot: &Snapshot,
    dst: SocketAddr,
) -> Option<(Io<N>, Guard<Held>)> {
    let app = inbound.app(&snapshot.service);
    let io = inbound.side.dial(&app, dst, &snapshot.timeouts).await?;
    Some((io, Guard::new((app.endpoint.connected(), ActiveRequest::of(&app.endpoint)))))
}
