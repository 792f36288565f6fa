//! Opaque connections on their way out.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::Outbound;
use super::attempts::afford;
use crate::balance::{Attempted, Cluster, Table};
use crate::config::Timeouts;
use crate::connection::{Connection, WireProtocol};
use crate::detect::{Detected, Detection, Prefixed, Sniffed, detect, race};
use crate::endpoint::{ActiveRequest, Attempt, Outcome};
use crate::error::{Error, Kind};
use crate::limit::concurrency::RetrySlot;
use crate::retry::AttemptOutcome;
use crate::retry::backoff::{self, RetryAfter};
use crate::retry::condition::reason;
use crate::tcp::{self, CopyTimeouts, Guard};
use crate::telemetry::{LimitReason, OpenConnection, RetryDenied};
use crate::world::{Abort, Net};

/// What lasts as long as a connection to a server.
pub(super) struct Held {
    _open: OpenConnection,
    _active: Active,
}

/// How it counts as active.
enum Active {
    /// At an endpoint of a cluster.
    Attempt { _attempt: Attempt },
    /// At an address of no cluster.
    Request { _request: ActiveRequest },
}

/// A connection to a server that has not carried anything yet.
pub(super) type FreshConnection<N> = tcp::FreshConnection<<N as Net>::Io, Held>;

type Dialled<N> = Option<(<N as Net>::Io, Guard<Held>)>;

/// Looks at the first bytes of `peer`, a client of `cluster` at `dst`, and listens to the server
/// too. A connection that was opened to hear the server is given back; if it is dropped, that is
/// counted.
///
/// # Errors
/// If reading from the client fails.
pub(super) async fn opening<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    (dst, peer): (SocketAddr, SocketAddr),
    io: N::Io,
    timeouts: &Timeouts,
) -> io::Result<(Detected<N::Io>, Option<FreshConnection<N>>)> {
    race_with(side, dst, io, timeouts, || dial(side, cluster, peer.ip(), timeouts)).await
}

async fn race_with<N: Net, D>(
    side: &Outbound<N>,
    dst: SocketAddr,
    io: N::Io,
    timeouts: &Timeouts,
    dial: impl FnOnce() -> D,
) -> io::Result<(Detected<N::Io>, Option<FreshConnection<N>>)>
where
    D: Future<Output = Dialled<N>>,
{
    let dial = || async {
        let (server, guard) = dial().await?;
        Some((server, guard.of_race(&side.metrics)))
    };
    let (found, dialled) = race::detect_both(io, timeouts.detect, &side.races, dst, dial).await?;
    side.metrics.detected(found.outcome.result());
    greeted(side, dst, &found);
    Ok((found, dialled.map(FreshConnection::<N>::of_race)))
}

/// Counts and logs what an app's own TLS tells.
fn greeted<N: Net>(side: &Outbound<N>, dst: SocketAddr, found: &Detected<N::Io>) {
    if found.outcome == Detection::Sniffed(Sniffed::Tls) {
        side.metrics.greeted(found.hello.as_ref().map(|hello| hello.server_name.is_some()));
        let name = found.hello.as_ref().and_then(|hello| hello.server_name.as_deref());
        tracing::debug!(%dst, server_name = name, "TLS of the app is passed through");
    }
}

/// Carries bytes between the app and an endpoint of `cluster`: over `fresh` if there is such a
/// connection.
pub(super) async fn forward<N: Net>(
    side: &Outbound<N>,
    (table, cluster): (Arc<Table>, Arc<Cluster>),
    connection: Connection,
    mut client: Prefixed<N::Io>,
    fresh: Option<FreshConnection<N>>,
    found: Option<Detection>,
) {
    let timeouts = &table.snapshot.timeouts;
    let fresh = match fresh {
        Some(fresh) => Some(fresh.take_into_use(found == Some(Detection::ServerFirst))),
        None => dial(side, &cluster, connection.peer.ip(), timeouts).await.map(FreshConnection::<N>::new),
    };
    // Directly it would have been refused.
    let Some(fresh) = fresh else { return client.abort() };
    let (metrics, timeouts) = (cluster.metrics.opaque(), CopyTimeouts::of(timeouts));
    // It may last for days, and must not keep what a reload replaces.
    drop((table, cluster));
    tcp::carry::<N, _>(connection, client, fresh, timeouts, metrics).await;
}

/// Connects to an endpoint of `cluster`, and to another one if that fails: under the conditions of
/// retries, as many times and after the same waits. Nothing has been sent while connecting, so the
/// budget is not asked, as for any other attempt of which that is certain.
async fn dial<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    peer: IpAddr,
    timeouts: &Timeouts,
) -> Dialled<N> {
    let retry = &cluster.config.retry;
    let mut attempted = Attempted::default();
    let mut slot = None;
    for nth in 1.. {
        let now = Instant::now();
        let picked = cluster.pick(now, &mut *side.rng.borrow_mut(), cluster.context(None, peer), attempted);
        let Some(picked) = picked else {
            cluster.metrics.failed(Kind::NoEndpoint);
            return None;
        };
        cluster.count(picked);
        attempted.insert(picked.position);
        let error = match attempt(side, cluster, picked.position, timeouts).await {
            Ok(dialled) => return Some(dialled),
            Err(error) => error,
        };
        cluster.metrics.failed(error.kind);
        if let Some(withheld) = side.failures.admit(Instant::now()) {
            tracing::warn!(cluster = %cluster.config.name, %error, withheld, "cannot connect");
        }
        let ended = AttemptOutcome::Failed { kind: error.kind, unsent: true };
        let reason = reason(retry, ended)?;
        // The permit of the attempt before, if that was a retry too, is free again.
        drop(slot.take());
        match again(side, cluster, nth, ended) {
            Ok((wait, taken)) => {
                slot = Some(taken);
                cluster.metrics.retried(reason);
                if !wait.is_zero() {
                    sleep(wait).await;
                }
            }
            Err(denied) => {
                if retry.attempts > 0 {
                    cluster.metrics.denied(denied);
                }
                return None;
            }
        }
    }
    None
}

/// How long to wait before the retry that is the `nth`, and its place among the cluster's.
fn again<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    nth: u32,
    ended: AttemptOutcome,
) -> Result<(Duration, RetrySlot), RetryDenied> {
    let retry = &cluster.config.retry;
    if nth > retry.attempts {
        return Err(RetryDenied::Attempts);
    }
    let others = cluster.endpoints.len() > nth as usize;
    let wait = backoff::wait(retry, nth, others, RetryAfter::Nothing, &mut *side.rng.borrow_mut());
    Ok((wait.ok_or(RetryDenied::Wait)?, afford(cluster, ended)?))
}

/// One attempt at one endpoint.
async fn attempt<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    position: usize,
    timeouts: &Timeouts,
) -> Result<(N::Io, Guard<Held>), Error> {
    let endpoint = &cluster.endpoints[position];
    let metrics = &endpoint.metrics;
    // As of the connections of requests: an endpoint without any gets one, or it would never be
    // served.
    if metrics.pending_now() > 0 && metrics.open_in_cluster() >= cluster.config.limits.connections.into() {
        metrics.limited(LimitReason::Connections);
        let cause = "the cluster has as many connections as it may (limits.connections)";
        return Err(Error::at(Kind::PoolFull, endpoint.address, cause));
    }
    let mut attempt = cluster.outliers.begin(position, Instant::now(), None, &side.rng);
    let connected = side.connector.connect_within(endpoint.address, timeouts.connect).await;
    let now = Instant::now();
    match connected {
        Ok(upstream) => {
            attempt.answered(now);
            attempt.tell(Outcome::Success, now);
            let active = Active::Attempt { _attempt: attempt };
            Ok((upstream, Guard::new(Held { _open: metrics.connected(), _active: active })))
        }
        Err(error) => {
            attempt.tell(Outcome::of_error(&error, true), now);
            metrics.connect_failed();
            Err(error)
        }
    }
}

/// Carries a connection to an address that no cluster has: to the cluster of the server name if the
/// app speaks TLS to one, else to where the app wanted to go, or nowhere if that is not allowed.
pub(super) async fn pass_through<N: Net>(
    side: &Outbound<N>,
    table: Arc<Table>,
    io: N::Io,
    dst: SocketAddr,
    peer: SocketAddr,
) {
    let connection = Connection { peer, original_dst: dst, protocol: WireProtocol::Opaque };
    let timeouts = &table.snapshot.timeouts;
    let may_pass = table.snapshot.passthrough;
    let mut client = Prefixed::new(Bytes::new(), io);
    let mut fresh = None;
    if table.has_names() && !table.snapshot.opaque_ports.contains(&dst.port()) {
        let Ok(io) = client.into_bare() else { return };
        let detected = if may_pass {
            race_with(side, dst, io, timeouts, || dial_direct(side, dst, timeouts)).await
        } else {
            detect(io, timeouts.detect).await.map(|found| {
                side.metrics.detected(found.outcome.result());
                greeted(side, dst, &found);
                (found, None)
            })
        };
        let Ok((found, raced)) = detected else { return };
        let name = found.hello.and_then(|hello| hello.server_name);
        if let Some(cluster) = name.and_then(|name| table.cluster_named(&name)).cloned() {
            drop(raced);
            return forward(side, (table, cluster), connection, found.client, None, None).await;
        }
        if found.outcome == Detection::Closed {
            return;
        }
        let server_first = found.outcome == Detection::ServerFirst;
        (client, fresh) = (found.client, raced.map(|fresh| (fresh, server_first)));
    }
    if !may_pass {
        client.abort();
        return side.refuse(Kind::NoRoute, peer, Some(dst));
    }
    let fresh = match fresh {
        Some((fresh, server_first)) => fresh.take_into_use(server_first),
        None => match dial_direct(side, dst, timeouts).await {
            Some(dialled) => FreshConnection::<N>::new(dialled),
            None => return client.abort(),
        },
    };
    let timeouts = CopyTimeouts::of(timeouts);
    drop(table);
    tcp::carry::<N, _>(connection, client, fresh, timeouts, side.passed_through().cluster.opaque()).await;
}

async fn dial_direct<N: Net>(side: &Outbound<N>, dst: SocketAddr, timeouts: &Timeouts) -> Dialled<N> {
    let metrics = &side.passed_through().endpoint;
    match side.connector.connect_within(dst, timeouts.connect).await {
        Ok(server) => {
            let active = Active::Request { _request: ActiveRequest::of(metrics) };
            Some((server, Guard::new(Held { _open: metrics.connected(), _active: active })))
        }
        Err(error) => {
            metrics.connect_failed();
            side.metrics.refused(error.kind);
            if let Some(withheld) = side.failures.admit(Instant::now()) {
                tracing::warn!(%error, withheld, "cannot connect");
            }
            None
        }
    }
}
