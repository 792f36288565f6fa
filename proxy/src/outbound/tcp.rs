//! Opaque connections on their way out.

use std::io;
use std::net::SocketAddr;

use tokio::time::{Instant, timeout};

use super::Outbound;
use crate::balance::{Cluster, Table, Tried};
use crate::config::{Condition, Timeouts};
use crate::detect::{Detected, Outcome, Prefixed, Sniffed, detect, race};
use crate::endpoint::{self, InHand, Trial};
use crate::error::{Error, Kind};
use crate::tcp::{Limits, relay};
use crate::telemetry::{ClusterMetrics, OpenConnection, RaceEnd, SideMetrics};
use crate::world::Net;

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
    side.metrics.detected(found.outcome);
    greeted(side, dst, &found);
    Ok((found, dialled.map(|(upstream, guard)| Dialled { upstream, guard })))
}

/// Counts and logs what an app's own TLS tells.
fn greeted<N: Net>(side: &Outbound<N>, dst: SocketAddr, found: &Detected<N::Io>) {
    if found.outcome == Outcome::Sniffed(Sniffed::Tls) {
        side.metrics.greeted(found.hello.as_ref());
        let name = found.hello.as_ref().and_then(|hello| hello.server_name.as_deref());
        tracing::debug!(%dst, server_name = name, "TLS of the app is passed through");
    }
}

/// Carries bytes between the app and an endpoint of `cluster`: over `dialled` if there is such a connection.
pub(super) async fn forward<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    peer: SocketAddr,
    client: Prefixed<N::Io>,
    dialled: Option<Dialled<N>>,
    found: Option<Outcome>,
    timeouts: &Timeouts,
) {
    let dialled = match dialled {
        Some(dialled) => Some(used(side, dialled, found)),
        None => dial(side, cluster, peer, timeouts)
            .await
            .map(|(io, guard)| Dialled { upstream: Prefixed::new(bytes::Bytes::new(), io), guard }),
    };
    if let Some(dialled) = dialled {
        carry(&cluster.metrics, &cluster.config.name, client, dialled, timeouts).await;
    }
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
    metrics: &ClusterMetrics,
    cluster: &str,
    client: Prefixed<N::Io>,
    dialled: Dialled<N>,
    timeouts: &Timeouts,
) {
    let Dialled { upstream, guard: _guard } = dialled;
    let limits = Limits { half_close: timeouts.half_close, idle: timeouts.tcp_idle };
    if let Err(error) = relay::<N>(client, upstream, limits, |moved| metrics.moved(moved)).await {
        if let Some(kind) = error.kind() {
            metrics.failed(kind);
        }
        tracing::debug!(%cluster, %error, "connection ended");
    }
}

/// Connects to an endpoint of `cluster`. Nothing has been sent while connecting, so another endpoint may always be tried.
async fn dial<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    peer: SocketAddr,
    timeouts: &Timeouts,
) -> Option<(N::Io, Guard)> {
    let mut tried = Tried::default();
    for attempt in 0..=cluster.config.retry.attempts {
        if attempt > 0 {
            cluster.metrics.retried(Condition::ConnectFailure);
        }
        let now = Instant::now();
        let picked = cluster.pick(now, &mut *side.rng.borrow_mut(), cluster.aim(None, peer.ip()), tried);
        let Some(picked) = picked else {
            cluster.metrics.failed(Kind::NoEndpoint);
            return None;
        };
        cluster.count(picked);
        let position = picked.position;
        tried.insert(position);
        let endpoint = &cluster.endpoints[position];
        let mut trial = cluster.outliers.begin(position, now, None, &side.rng);
        match connect(&side.net, endpoint.address, timeouts).await {
            Ok(upstream) => {
                let now = Instant::now();
                trial.answered(now);
                trial.tell(endpoint::Outcome::Success, now);
                let guard = Guard {
                    _open: endpoint.metrics.connected(),
                    _trial: Some(trial),
                    _in_hand: None,
                    spare: None,
                };
                return Some((upstream, guard));
            }
            Err(error) => {
                trial.tell(endpoint::Outcome::of_error(&error, true), Instant::now());
                endpoint.metrics.connect_failed();
                cluster.metrics.failed(error.kind);
                if let Some(withheld) = side.failures.admit(Instant::now()) {
                    tracing::warn!(cluster = %cluster.config.name, %error, withheld, "cannot connect");
                }
            }
        }
    }
    None
}

/// Carries a connection to an address that no cluster has: to the cluster of the server name if the app speaks TLS to
/// one, else to where the app wanted to go, or nowhere if that is not allowed.
pub(super) async fn pass_through<N: Net>(
    side: &Outbound<N>,
    table: &Table,
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
                side.metrics.detected(found.outcome);
                greeted(side, dst, &found);
                (found, None)
            })
        };
        let Ok((found, raced)) = detected else { return };
        let name = found.hello.and_then(|hello| hello.server_name);
        if let Some(cluster) = name.and_then(|name| table.cluster_named(&name)) {
            drop(raced);
            return forward(side, cluster, peer, found.client, None, None, timeouts).await;
        }
        if found.outcome == Outcome::Closed {
            return;
        }
        (client, dialled, outcome) = (found.client, raced, Some(found.outcome));
    }
    if !may_pass {
        return side.refuse(Kind::NoRoute, peer, Some(dst));
    }
    let dialled = match dialled {
        Some(dialled) => used(side, dialled, outcome),
        None => {
            let Some((io, guard)) = dial_direct(side, dst, timeouts).await else { return };
            Dialled { upstream: Prefixed::new(bytes::Bytes::new(), io), guard }
        }
    };
    carry(&side.passed_through().cluster, "passthrough", client, dialled, timeouts).await;
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
