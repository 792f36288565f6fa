//! What both sides do with an opaque connection.

use std::cell::RefCell;

use super::CopyTimeouts;
use super::copy::{Aborting, relay};
use crate::connection::Connection;
use crate::detect::Prefixed;
use crate::error::Kind;
use crate::lines::Lines;
use crate::telemetry::{OpaqueMetrics, RaceMetrics, RaceOutcome};
use crate::tls::Io;
use crate::world::Net;

/// What lasts as long as a connection to a server: `G`, and the question whether it was of use.
pub struct Guard<G> {
    _held: G,
    /// Set while nobody uses the connection: who is told if that stays so.
    unused: Option<RaceMetrics>,
}

impl<G> Guard<G> {
    /// Of a connection that was opened because it is needed.
    pub fn new(held: G) -> Self {
        Guard { _held: held, unused: None }
    }

    /// The same for one that was opened to hear whether the server speaks first. If it is dropped
    /// before it is used, `metrics` count that.
    pub fn of_race(mut self, metrics: &RaceMetrics) -> Self {
        self.unused = Some(metrics.clone());
        self
    }
}

impl<G> Drop for Guard<G> {
    fn drop(&mut self) {
        if let Some(metrics) = &self.unused {
            metrics.ended(RaceOutcome::Unused);
        }
    }
}

/// A connection to a server that has not carried anything yet.
pub struct FreshConnection<I, G> {
    server: Prefixed<I>,
    guard: Guard<G>,
}

impl<I, G> FreshConnection<I, G> {
    /// One that was opened to hear whether the server speaks first.
    pub fn of_race((server, guard): (Prefixed<I>, Guard<G>)) -> Self {
        FreshConnection { server, guard }
    }

    /// One that was opened because it is needed.
    pub fn new((server, guard): (I, Guard<G>)) -> Self {
        FreshConnection { server: Prefixed::unread(server), guard }
    }

    /// The stream to the server.
    pub fn stream(&self) -> &I {
        self.server.get_ref()
    }

    /// Notes that it is used; `server_first` says whether its server spoke first.
    pub fn take_into_use(mut self, server_first: bool) -> Self {
        if let Some(metrics) = self.guard.unused.take() {
            metrics.ended(if server_first { RaceOutcome::ServerFirst } else { RaceOutcome::ClientFirst });
        }
        self
    }
}

/// Carries bytes between a client and a server until both have closed, and counts them, also in its
/// lines. What it is given is moved once, into the future, which an idle connection keeps.
pub fn carry<N: Net, G>(
    connection: Connection,
    client: Prefixed<Io<N>>,
    server: FreshConnection<Io<N>, G>,
    timeouts: CopyTimeouts,
    metrics: OpaqueMetrics,
    lines: Lines,
) -> impl Future<Output = ()> {
    let FreshConnection { server, guard } = server;
    let lines = RefCell::new(lines);
    let (mut client, mut server) = (Aborting::new(client), Aborting::new(server));
    async move {
        let count = |moved: super::BytesCopied| {
            metrics.moved(moved.forth, moved.back, moved.spliced);
            lines.borrow_mut().carried(moved.forth, moved.back);
        };
        let ended = relay::<N>(&mut client, &mut server, timeouts, count).await;
        let mut lines = lines.into_inner();
        if let Err(error) = &ended {
            if let Some(kind) = error.kind() {
                metrics.failed(kind);
            }
            lines.failed(error.reason(Kind::Terminated));
            let Connection { peer, original_dst: dst, .. } = &connection;
            tracing::debug!(%peer, %dst, %error, "connection ended");
        }
        lines.ended();
        // The connection to the server counts as open until here.
        drop(guard);
    }
}
