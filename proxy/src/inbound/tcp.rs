//! Opaque connections on their way in.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Inbound, authorize};
use crate::audit::AuditEvent;
use crate::config::Snapshot;
use crate::connection::Connection;
use crate::endpoint::ActiveRequest;
use crate::side::OpaqueBegun;
use crate::tcp::{self, CopyTimeouts, FreshConnection, Guard};
use crate::telemetry::OpenConnection;
use crate::tls::{Io, Peer};
use crate::world::{Abort, Net};

/// What lasts as long as a connection to the app.
pub(super) type Held = (OpenConnection, ActiveRequest);

/// Carries opaque bytes to the app: over the fresh connection if there is one.
pub(super) async fn forward<N: Net>(
    inbound: &Inbound<N>,
    connection: Connection,
    peer: Option<Arc<Peer>>,
    OpaqueBegun { mut client, fresh, server_first }: OpaqueBegun<Io<N>, Held>,
) {
    let live = inbound.side.live.register(connection.clone(), peer);
    // Loaded after that, or a change of policies could be missed.
    let table = inbound.side.table.load_full();
    let snapshot = &table.snapshot;
    let mut audit = inbound.audited(AuditEvent::Connection, &connection).await;
    let decided = authorize::opaque(inbound, &table.authorization, &connection);
    if let Some(audit) = &mut audit {
        audit.record().decide(decided.allowed, decided.rule.as_ref());
    }
    if !decided.allowed {
        return client.abort();
    }
    let fresh = match fresh {
        Some(fresh) => fresh.take_into_use(server_first),
        None => match dial(inbound, snapshot, connection.original_dst).await {
            Some(dialled) => FreshConnection::new(dialled),
            // Directly it would have been refused.
            None => return client.abort(),
        },
    };
    let metrics = inbound.app(&snapshot.service).cluster.opaque();
    let timeouts = CopyTimeouts::of(&snapshot.timeouts);
    // It may last for days, and must not keep what a reload replaces.
    drop(table);
    tokio::select! {
        biased;
        () = live.refused() => {}
        () = tcp::carry::<N, _>(connection, client, fresh, timeouts, metrics, audit) => {}
    }
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
