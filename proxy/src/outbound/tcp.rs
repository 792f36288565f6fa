//! Opaque connections on their way out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Outbound;
use super::attempts::afford;
use crate::balance::{Attempted, Cluster, Table};
use crate::config::Timeouts;
use crate::connection::Connection;
use crate::detect::{Detection, Reader, detect};
use crate::endpoint::{ActiveRequest, Attempt, Outcome};
use crate::error::{Error, Kind};
use crate::limit::concurrency::RetrySlot;
use crate::lines::Lines;
use crate::retry::AttemptOutcome;
use crate::retry::backoff::{self, RetryAfter};
use crate::retry::condition::reason;
use crate::side::{OpaqueBegun, Registered};
use crate::tcp::{self, CopyTimeouts, FreshConnection, Guard};
use crate::telemetry::access::{AccessEvent, fail};
use crate::telemetry::{LimitReason, OpenConnection, RetryDenied};
use crate::tls::Io;
use crate::world::{Net, Transport};

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

type Dialled<N> = (Io<N>, Guard<Held>);

/// Carries bytes between the app and an endpoint of `cluster`: over the fresh connection if there
/// is one.
pub(super) async fn forward<N: Net>(
    outbound: &Outbound<N>,
    to: (Arc<Table>, Arc<Cluster>),
    connection: Connection,
    begun: Box<OpaqueBegun<Io<N>, Held>>,
) {
    let Some((live, carrying)) = Box::pin(open(outbound, to, connection, begun)).await else { return };
    tokio::select! {
        biased;
        () = live.refused() => {}
        () = carrying => {}
    }
}

/// Connects it to an endpoint. `None`: there is none, and the client knows.
async fn open<N: Net>(
    outbound: &Outbound<N>,
    (table, cluster): (Arc<Table>, Arc<Cluster>),
    connection: Connection,
    begun: Box<OpaqueBegun<Io<N>, Held>>,
) -> Option<(Registered<'_>, impl Future<Output = ()>)> {
    let timeouts = &table.snapshot.timeouts;
    let access = outbound.side.access(AccessEvent::Connection, &connection);
    let access = access.map(|access| access.routed(&cluster.config, None));
    let OpaqueBegun { mut client, fresh, server_first } = *begun;
    let fresh = match fresh {
        Some(fresh) => Ok(fresh.take_into_use(server_first)),
        None => {
            let to = (connection.peer.ip(), connection.original_dst);
            Box::pin(dial(outbound, &cluster, to, timeouts)).await.map(FreshConnection::new)
        }
    };
    let fresh = match fresh {
        Ok(fresh) => fresh,
        Err(kind) => {
            fail(access, kind);
            // Directly it would have been refused.
            client.abort();
            return None;
        }
    };
    let (metrics, timeouts) = (cluster.metrics.opaque(), CopyTimeouts::of(timeouts));
    // It may last for days, and must not keep what a reload replaces.
    drop((table, cluster));
    let live = outbound.side.live.register(connection.clone(), fresh.stream().peer().cloned());
    let carrying =
        tcp::carry::<N, _>(connection, client, fresh, timeouts, metrics, Lines { audit: None, access });
    Some((live, carrying))
}

/// Connects to an endpoint of `cluster`, and to another one if that fails: under the conditions of
/// retries, as many times and after the same waits. Nothing has been sent while connecting, so the
/// budget is not asked, as for any other attempt of which that is certain.
pub(super) async fn dial<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    (peer, destination): (IpAddr, SocketAddr),
    timeouts: &Timeouts,
) -> Result<Dialled<N>, Kind> {
    let retry = &cluster.config.retry;
    let mut attempted = Attempted::default();
    let mut slot = None;
    for nth in 1.. {
        let now = Instant::now();
        let picked =
            cluster.pick(now, &mut *outbound.side.rng.borrow_mut(), cluster.context(None, peer), attempted);
        let Some(picked) = picked else {
            cluster.metrics.failed(Kind::NoEndpoint);
            return Err(Kind::NoEndpoint);
        };
        cluster.count(picked);
        attempted.insert(picked.position);
        let error = match attempt(outbound, cluster, picked.position, destination, timeouts).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => error,
        };
        cluster.metrics.failed(error.kind);
        if let Some(withheld) = outbound.side.failures.admit(error.kind.label(), Instant::now()) {
            tracing::warn!(cluster = %cluster.config.name, %error, withheld, "cannot connect");
        }
        let ended = AttemptOutcome::Failed { kind: error.kind, unsent: true };
        let reason = reason(retry, ended).ok_or(error.kind)?;
        // The permit of the attempt before, if that was a retry too, is free again.
        drop(slot.take());
        match again(outbound, cluster, nth, ended) {
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
                return Err(error.kind);
            }
        }
    }
    Err(Kind::NoEndpoint)
}

/// How long to wait before the retry that is the `nth`, and its place among the cluster's.
fn again<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    nth: u32,
    ended: AttemptOutcome,
) -> Result<(Duration, RetrySlot), RetryDenied> {
    let retry = &cluster.config.retry;
    if nth > retry.attempts {
        return Err(RetryDenied::Attempts);
    }
    let others = cluster.endpoints.len() > nth as usize;
    let wait = backoff::wait(retry, nth, others, RetryAfter::Nothing, &mut *outbound.side.rng.borrow_mut());
    Ok((wait.ok_or(RetryDenied::Wait)?, afford(cluster, ended)?))
}

/// One attempt at one endpoint.
async fn attempt<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    position: usize,
    destination: SocketAddr,
    timeouts: &Timeouts,
) -> Result<Dialled<N>, Error> {
    let endpoint = &cluster.endpoints[position];
    let metrics = &endpoint.metrics;
    // As of the connections of requests: an endpoint without any gets one, or it would never be
    // served.
    if metrics.pending_now() > 0 && metrics.open_in_cluster() >= cluster.config.limits.connections.into() {
        metrics.limited(LimitReason::Connections);
        let cause = "the cluster has as many connections as it may (limits.connections)";
        return Err(Error::at(Kind::PoolFull, endpoint.address(), cause));
    }
    let mut attempt = cluster.outliers.begin(position, Instant::now(), None, &outbound.side.rng);
    let connector = &outbound.side.connector;
    let connected = connector.connect_opaque_within(&endpoint.target, destination, timeouts.connect).await;
    let now = Instant::now();
    match connected {
        Ok(upstream) => {
            attempt.answered(now);
            attempt.tell(Outcome::Success, now);
            let active = Active::Attempt { _attempt: attempt };
            Ok((upstream, Guard::new(Held { _open: metrics.connected(), _active: active })))
        }
        Err(error) => {
            attempt.tell(Outcome::of_connect(&error), now);
            metrics.connect_failed();
            Err(error)
        }
    }
}

/// Carries a connection to an address that no cluster has: to the cluster of the server name if the
/// app speaks TLS to one, else to where the app wanted to go, or nowhere if that is not allowed.
pub(super) async fn pass_through<N: Net>(
    outbound: &Outbound<N>,
    table: Arc<Table>,
    io: Io<N>,
    connection: Connection,
) {
    let side = &outbound.side;
    let Connection { peer, original_dst: dst, .. } = connection;
    let timeouts = &table.snapshot.timeouts;
    let may_pass = table.snapshot.passthrough;
    let mut begun = OpaqueBegun::unread(io);
    if table.has_names() && !table.snapshot.opaque_ports.contains(&dst.port()) {
        let Ok(io) = begun.client.into_bare() else { return };
        let heard = if may_pass {
            Box::pin(
                side.detect(dst, Reader::new(io), timeouts.detect, || dial_direct(outbound, dst, timeouts)),
            )
            .await
        } else {
            let found = detect(io, timeouts.detect).await.ok();
            found.inspect(|found| side.detected(dst, found)).map(|found| (found, None))
        };
        let Some((found, fresh)) = heard else { return };
        let name = found.hello.and_then(|hello| hello.server_name);
        if let Some(cluster) = name.and_then(|name| table.cluster_named(&name)).cloned() {
            let begun = OpaqueBegun { client: found.client, fresh: None, server_first: false };
            drop(fresh);
            return Box::pin(forward(outbound, (table, cluster), connection, Box::new(begun))).await;
        }
        if found.outcome == Detection::Closed {
            return;
        }
        let server_first = found.outcome == Detection::ServerFirst;
        begun = OpaqueBegun { client: found.client, fresh, server_first };
    }
    let OpaqueBegun { mut client, fresh, server_first } = begun;
    if !may_pass {
        client.abort();
        return side.refuse(Kind::NoRoute, peer, Some(dst));
    }
    let access = side.access(AccessEvent::Connection, &connection).map(|access| access.to(dst));
    let fresh = match fresh {
        Some(fresh) => fresh.take_into_use(server_first),
        None => match dial_direct(outbound, dst, timeouts).await {
            Some(dialled) => FreshConnection::new(dialled),
            None => {
                fail(access, Kind::Connect);
                return client.abort();
            }
        },
    };
    let timeouts = CopyTimeouts::of(timeouts);
    drop(table);
    let metrics = outbound.passed_through().cluster.opaque();
    tcp::carry::<N, _>(connection, client, fresh, timeouts, metrics, Lines { audit: None, access }).await;
}

async fn dial_direct<N: Net>(
    outbound: &Outbound<N>,
    dst: SocketAddr,
    timeouts: &Timeouts,
) -> Option<Dialled<N>> {
    let to = outbound.passed_through();
    let io = outbound.side.dial(to, dst, timeouts).await?;
    let active = Active::Request { _request: ActiveRequest::of(&to.endpoint) };
    Some((io, Guard::new(Held { _open: to.endpoint.connected(), _active: active })))
}
