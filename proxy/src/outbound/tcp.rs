//! Opaque connections on their way out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Outbound;
use super::tries::afford;
use crate::balance::{Cluster, Table, Tried};
use crate::config::Timeouts;
use crate::detect::{Detected, Outcome, Prefixed, Sniffed, detect, race};
use crate::endpoint::{self, InHand, Trial};
use crate::error::{Error, Kind};
use crate::limit::concurrency::RetrySlot;
use crate::retry::Ended;
use crate::retry::backoff::{self, Asked};
use crate::retry::condition::reason;
use crate::tcp::{Limits, relay};
use crate::telemetry::{Carried, Limited, OpenConnection, RaceEnd, RetryDenied, SideMetrics};
use crate::world::{Abort, Net};

/// A connection to an endpoint that has not carried anything yet.
pub(super) struct Dialled<N: Net> {
    upstream: Prefixed<N::Io>,
    guard: Guard,
}

/// What lasts as long as a connection to an endpoint.
struct Guard {
    _open: OpenConnection,
    /// Of an endpoint; where there is none, what is in hand is only counted.
    _trial: Option<Trial>,
    _in_hand: Option<InHand>,
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

/// Looks at the first bytes of `peer`, a client of `cluster` at `dst`, and listens to the server too. A connection that was
/// opened to hear the server is given back; if it is dropped, that is counted.
///
/// # Errors
/// If reading from the client fails.
pub(super) async fn opening<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    (dst, peer): (SocketAddr, SocketAddr),
    io: N::Io,
    timeouts: &Timeouts,
) -> io::Result<(Detected<N::Io>, Option<Dialled<N>>)> {
    race_with(side, dst, io, timeouts, || dial(side, cluster, peer, timeouts)).await
}

async fn race_with<N: Net, D>(
    side: &Outbound<N>,
    dst: SocketAddr,
    io: N::Io,
    timeouts: &Timeouts,
    dial: impl FnOnce() -> D,
) -> io::Result<(Detected<N::Io>, Option<Dialled<N>>)>
where
    D: Future<Output = Option<(N::Io, Guard)>>,
{
    let spare = || async {
        let (upstream, mut guard) = dial().await?;
        guard.spare = Some(side.metrics.clone());
        Some((upstream, guard))
    };
    let (found, dialled) = race::detect_both(io, timeouts.detect, &side.races, dst, spare).await?;
    side.metrics.detected(found.outcome.result());
    greeted(side, dst, &found);
    Ok((found, dialled.map(|(upstream, guard)| Dialled { upstream, guard })))
}

/// Counts and logs what an app's own TLS tells.
fn greeted<N: Net>(side: &Outbound<N>, dst: SocketAddr, found: &Detected<N::Io>) {
    if found.outcome == Outcome::Sniffed(Sniffed::Tls) {
        side.metrics.greeted(found.hello.as_ref().map(|hello| hello.server_name.is_some()));
        let name = found.hello.as_ref().and_then(|hello| hello.server_name.as_deref());
        tracing::debug!(%dst, server_name = name, "TLS of the app is passed through");
    }
}

/// Carries bytes between the app and an endpoint of `cluster`: over `dialled` if there is such a connection.
pub(super) async fn forward<N: Net>(
    side: &Outbound<N>,
    (table, cluster): (Arc<Table>, Arc<Cluster>),
    peer: SocketAddr,
    mut client: Prefixed<N::Io>,
    dialled: Option<Dialled<N>>,
    found: Option<Outcome>,
) {
    let timeouts = &table.snapshot.timeouts;
    let dialled = match dialled {
        Some(dialled) => Some(used(side, dialled, found)),
        None => dial(side, &cluster, peer, timeouts)
            .await
            .map(|(io, guard)| Dialled { upstream: Prefixed::new(bytes::Bytes::new(), io), guard }),
    };
    // Directly it would have been refused.
    let Some(dialled) = dialled else { return client.abort() };
    let (metrics, limits) = (cluster.metrics.carried(), limits(timeouts));
    // It may last for days, and must not keep what a reload replaces.
    drop((table, cluster));
    carry(metrics, limits, peer, client, dialled).await;
}

fn limits(timeouts: &Timeouts) -> Limits {
    Limits { half_close: timeouts.half_close, idle: timeouts.tcp_idle }
}

/// Takes a connection that was opened to hear the server into use.
fn used<N: Net>(side: &Outbound<N>, mut dialled: Dialled<N>, found: Option<Outcome>) -> Dialled<N> {
    if dialled.guard.spare.take().is_some() {
        let server_first = found == Some(Outcome::ServerFirst);
        side.metrics.raced(if server_first { RaceEnd::ServerFirst } else { RaceEnd::ClientFirst });
    }
    dialled
}

async fn carry<N: Net>(
    metrics: Carried,
    limits: Limits,
    peer: SocketAddr,
    client: Prefixed<N::Io>,
    dialled: Dialled<N>,
) {
    let Dialled { upstream, guard: _guard } = dialled;
    if let Err(error) =
        relay::<N>(client, upstream, limits, |moved| metrics.moved(moved.forth, moved.back, moved.spliced))
            .await
    {
        if let Some(kind) = error.kind() {
            metrics.failed(kind);
        }
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Connects to an endpoint of `cluster`, and to another one if that fails: under the conditions of retries, as many times and
/// after the same waits. Nothing has been sent while connecting, so the budget is not asked, as for any other try of which
/// that is certain.
async fn dial<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    peer: SocketAddr,
    timeouts: &Timeouts,
) -> Option<(N::Io, Guard)> {
    let retry = &cluster.config.retry;
    let mut tried = Tried::default();
    let mut slot = None;
    for nth in 1.. {
        let now = Instant::now();
        let picked = cluster.pick(now, &mut *side.rng.borrow_mut(), cluster.aim(None, peer.ip()), tried);
        let Some(picked) = picked else {
            cluster.metrics.failed(Kind::NoEndpoint);
            return None;
        };
        cluster.count(picked);
        tried.insert(picked.position);
        let error = match attempt(side, cluster, picked.position, timeouts).await {
            Ok(dialled) => return Some(dialled),
            Err(error) => error,
        };
        cluster.metrics.failed(error.kind);
        if let Some(withheld) = side.failures.admit(Instant::now()) {
            tracing::warn!(cluster = %cluster.config.name, %error, withheld, "cannot connect");
        }
        let ended = Ended::Failed { kind: error.kind, unsent: true };
        let reason = reason(retry, ended)?;
        // The place of the try before, if that was a retry too, is free again.
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
    ended: Ended,
) -> Result<(Duration, RetrySlot), RetryDenied> {
    let retry = &cluster.config.retry;
    if nth > retry.attempts {
        return Err(RetryDenied::Attempts);
    }
    let others = cluster.endpoints.len() > nth as usize;
    let wait = backoff::wait(retry, nth, others, Asked::Nothing, &mut *side.rng.borrow_mut());
    Ok((wait.ok_or(RetryDenied::Wait)?, afford(cluster, ended)?))
}

/// One try at one endpoint.
async fn attempt<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    position: usize,
    timeouts: &Timeouts,
) -> Result<(N::Io, Guard), Error> {
    let endpoint = &cluster.endpoints[position];
    let metrics = &endpoint.metrics;
    // As of the connections of requests: an endpoint without any gets one, or it would never be served.
    if metrics.pending_now() > 0 && metrics.open_in_cluster() >= cluster.config.limits.connections.into() {
        metrics.limited(Limited::Connections);
        let cause = "the cluster has as many connections as it may (limits.connections)";
        return Err(Error::at(Kind::PoolFull, endpoint.address, cause));
    }
    let mut trial = cluster.outliers.begin(position, Instant::now(), None, &side.rng);
    let connected = connect(&side.net, endpoint.address, timeouts).await;
    let now = Instant::now();
    match connected {
        Ok(upstream) => {
            trial.answered(now);
            trial.tell(endpoint::Outcome::Success, now);
            let _open = metrics.connected();
            Ok((upstream, Guard { _open, _trial: Some(trial), _in_hand: None, spare: None }))
        }
        Err(error) => {
            trial.tell(endpoint::Outcome::of_error(&error, true), now);
            metrics.connect_failed();
            Err(error)
        }
    }
}

/// Carries a connection to an address that no cluster has: to the cluster of the server name if the app speaks TLS to
/// one, else to where the app wanted to go, or nowhere if that is not allowed.
pub(super) async fn pass_through<N: Net>(
    side: &Outbound<N>,
    table: Arc<Table>,
    io: N::Io,
    dst: SocketAddr,
    peer: SocketAddr,
) {
    let timeouts = &table.snapshot.timeouts;
    let may_pass = table.snapshot.passthrough;
    let mut client = Prefixed::new(bytes::Bytes::new(), io);
    let mut dialled = None;
    let mut outcome = None;
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
            return forward(side, (table, cluster), peer, found.client, None, None).await;
        }
        if found.outcome == Outcome::Closed {
            return;
        }
        (client, dialled, outcome) = (found.client, raced, Some(found.outcome));
    }
    if !may_pass {
        client.abort();
        return side.refuse(Kind::NoRoute, peer, Some(dst));
    }
    let dialled = match dialled {
        Some(dialled) => used(side, dialled, outcome),
        None => {
            let dialled = dial_direct(side, dst, timeouts).await;
            let Some((io, guard)) = dialled else { return client.abort() };
            Dialled { upstream: Prefixed::new(bytes::Bytes::new(), io), guard }
        }
    };
    let limits = limits(timeouts);
    drop(table);
    carry(side.passed_through().cluster.carried(), limits, peer, client, dialled).await;
}

async fn dial_direct<N: Net>(
    side: &Outbound<N>,
    dst: SocketAddr,
    timeouts: &Timeouts,
) -> Option<(N::Io, Guard)> {
    let metrics = &side.passed_through().endpoint;
    match connect(&side.net, dst, timeouts).await {
        Ok(upstream) => {
            let guard = Guard {
                _open: metrics.connected(),
                _trial: None,
                _in_hand: Some(InHand::of(metrics)),
                spare: None,
            };
            Some((upstream, guard))
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

async fn connect<N: Net>(net: &N, to: SocketAddr, timeouts: &Timeouts) -> Result<N::Io, Error> {
    let limit = timeouts.connect;
    let connected = timeout(limit, net.connect(to, None)).await;
    match connected {
        Ok(result) => result.map_err(|e: io::Error| Error::at(Kind::of_connect(&e), to, e)),
        Err(_) => Err(Error::at(Kind::ConnectTimeout, to, format!("no answer within {limit:?}"))),
    }
}
