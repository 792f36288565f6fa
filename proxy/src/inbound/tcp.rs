//! Opaque connections on their way in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::Inbound;
use crate::balance::Table;
use crate::config::Snapshot;
use crate::connection::Connection;
use crate::detect::{Detected, Detection, Prefixed, Sniffed, race};
use crate::endpoint::ActiveRequest;
use crate::tcp::{self, CopyTimeouts, Guard};
use crate::telemetry::OpenConnection;
use crate::world::{Abort, Net};

/// What lasts as long as a connection to the app.
type Held = (OpenConnection, ActiveRequest);

/// A connection to the app that has not carried anything yet.
pub(super) type FreshConnection<N> = tcp::FreshConnection<<N as Net>::Io, Held>;

/// Looks at the first bytes of a client of the app at `dst`, and listens to the app too. A
/// connection that was opened to hear the app is given back; if it is dropped, that is counted.
///
/// # Errors
/// If reading from the client fails.
pub(super) async fn opening<N: Net>(
    side: &Inbound<N>,
    snapshot: &Snapshot,
    dst: SocketAddr,
    io: N::Io,
) -> io::Result<(Detected<N::Io>, Option<FreshConnection<N>>)> {
    let dial = || async {
        let (app, guard) = dial(side, snapshot, dst).await?;
        Some((app, guard.of_race(&side.metrics)))
    };
    let (found, dialled) = race::detect_both(io, snapshot.timeouts.detect, &side.races, dst, dial).await?;
    side.metrics.detected(found.outcome.result());
    if found.outcome == Detection::Sniffed(Sniffed::Tls) {
        side.metrics.greeted(found.hello.as_ref().map(|hello| hello.server_name.is_some()));
        let name = found.hello.as_ref().and_then(|hello| hello.server_name.as_deref());
        tracing::debug!(%dst, server_name = name, "TLS for the app is passed through");
    }
    Ok((found, dialled.map(FreshConnection::<N>::of_race)))
}

/// Carries opaque bytes to the app: over `fresh` if there is such a connection.
pub(super) async fn forward<N: Net>(
    side: &Inbound<N>,
    table: Arc<Table>,
    connection: Connection,
    mut client: Prefixed<N::Io>,
    fresh: Option<FreshConnection<N>>,
    found: Option<Detection>,
) {
    let snapshot = &table.snapshot;
    let fresh = match fresh {
        Some(fresh) => fresh.take_into_use(found == Some(Detection::ServerFirst)),
        None => match dial(side, snapshot, connection.original_dst).await {
            Some(dialled) => FreshConnection::<N>::new(dialled),
            // Directly it would have been refused.
            None => return client.abort(),
        },
    };
    let metrics = side.app(&snapshot.service).cluster.opaque();
    let timeouts = CopyTimeouts::of(&snapshot.timeouts);
    // It may last for days, and must not keep what a reload replaces.
    drop(table);
    tcp::carry::<N, _>(connection, client, fresh, timeouts, metrics).await;
}

/// Connects to the app.
async fn dial<N: Net>(
    side: &Inbound<N>,
    snapshot: &Snapshot,
    dst: SocketAddr,
) -> Option<(N::Io, Guard<Held>)> {
    let metrics = &side.app(&snapshot.service).endpoint;
    match side.connector.connect_within(dst, snapshot.timeouts.connect).await {
        Ok(app) => Some((app, Guard::new((metrics.connected(), ActiveRequest::of(metrics))))),
        Err(error) => {
            metrics.connect_failed();
            side.metrics.refused(error.kind);
            if let Some(withheld) = side.failures.admit(Instant::now()) {
                tracing::warn!(%error, withheld, "the app cannot be reached");
            }
            None
        }
    }
}
