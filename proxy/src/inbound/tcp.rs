//! Opaque connections on their way in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::{Inbound, source_for};
use crate::balance::Table;
use crate::config::Snapshot;
use crate::detect::{Detected, Outcome, Prefixed, Sniffed, race};
use crate::endpoint::InHand;
use crate::error::{Error, Kind};
use crate::tcp::{Limits, relay};
use crate::telemetry::{OpenConnection, RaceEnd, SideMetrics};
use crate::world::{Abort, Net};

/// A connection to the app that has not carried anything yet.
pub(super) struct Dialled<N: Net> {
    app: Prefixed<N::Io>,
    guard: Guard,
}

/// What lasts as long as a connection to the app.
struct Guard {
    _open: OpenConnection,
    _in_hand: InHand,
    /// Set while the connection belongs to nobody: who is told when it is dropped.
    spare: Option<SideMetrics>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(metrics) = &self.spare {
            metrics.raced(RaceEnd::Unused);
        }
    }
}

/// Looks at the first bytes of a client of the app at `dst`, and listens to the app too. A connection that was opened to
/// hear the app is given back; if it is dropped, that is counted.
///
/// # Errors
/// If reading from the client fails.
pub(super) async fn opening<N: Net>(
    side: &Inbound<N>,
    snapshot: &Snapshot,
    dst: SocketAddr,
    io: N::Io,
) -> io::Result<(Detected<N::Io>, Option<Dialled<N>>)> {
    let spare = || async {
        let (app, mut guard) = dial(side, snapshot, dst).await?;
        guard.spare = Some(side.metrics.clone());
        Some((app, guard))
    };
    let (found, dialled) = race::detect_both(io, snapshot.timeouts.detect, &side.races, dst, spare).await?;
    side.metrics.detected(found.outcome.result());
    if found.outcome == Outcome::Sniffed(Sniffed::Tls) {
        side.metrics.greeted(found.hello.as_ref().map(|hello| hello.server_name.is_some()));
        let name = found.hello.as_ref().and_then(|hello| hello.server_name.as_deref());
        tracing::debug!(%dst, server_name = name, "TLS for the app is passed through");
    }
    Ok((found, dialled.map(|(app, guard)| Dialled { app, guard })))
}

/// Carries opaque bytes to the app: over `dialled` if there is such a connection.
pub(super) async fn forward<N: Net>(
    side: &Inbound<N>,
    table: Arc<Table>,
    dst: SocketAddr,
    mut client: Prefixed<N::Io>,
    dialled: Option<Dialled<N>>,
    found: Option<Outcome>,
) {
    let snapshot = &table.snapshot;
    let mut dialled = match dialled {
        Some(dialled) => dialled,
        None => match dial(side, snapshot, dst).await {
            Some((app, guard)) => Dialled { app: Prefixed::new(bytes::Bytes::new(), app), guard },
            // Directly it would have been refused.
            None => return client.abort(),
        },
    };
    if dialled.guard.spare.take().is_some() {
        let server_first = found == Some(Outcome::ServerFirst);
        side.metrics.raced(if server_first { RaceEnd::ServerFirst } else { RaceEnd::ClientFirst });
    }
    let Dialled { app, guard: _guard } = dialled;
    let metrics = side.app(&snapshot.service).cluster.carried();
    let timeouts = &snapshot.timeouts;
    let limits = Limits { half_close: timeouts.half_close, idle: timeouts.tcp_idle };
    // It may last for days, and must not keep what a reload replaces.
    drop(table);
    if let Err(error) =
        relay::<N>(client, app, limits, |moved| metrics.moved(moved.forth, moved.back, moved.spliced)).await
    {
        if let Some(kind) = error.kind() {
            metrics.failed(kind);
        }
        tracing::debug!(%dst, %error, "connection ended");
    }
}

/// Connects to the app.
async fn dial<N: Net>(side: &Inbound<N>, snapshot: &Snapshot, dst: SocketAddr) -> Option<(N::Io, Guard)> {
    let limit = snapshot.timeouts.connect;
    let metrics = &side.app(&snapshot.service).endpoint;
    let error = match timeout(limit, side.net.connect(dst, source_for(dst))).await {
        Ok(Ok(app)) => {
            let guard = Guard { _open: metrics.connected(), _in_hand: InHand::of(metrics), spare: None };
            return Some((app, guard));
        }
        Ok(Err(cause)) => Error::at(Kind::of_connect(&cause), dst, cause),
        Err(_) => Error::at(Kind::ConnectTimeout, dst, format!("no answer within {limit:?}")),
    };
    metrics.connect_failed();
    side.metrics.refused(error.kind);
    if let Some(withheld) = side.failures.admit(Instant::now()) {
        tracing::warn!(%error, withheld, "the app cannot be reached");
    }
    None
}
