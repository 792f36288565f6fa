//! Opaque connections on their way out.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use super::Outbound;
use crate::balance::{Cluster, Tried};
use crate::config::defaults::HALF_CLOSE_TIMEOUT;
use crate::error::{Error, Kind};
use crate::tcp::both_ways;
use crate::world::Net;

/// Carries bytes between the app and an endpoint of `cluster`. Nothing has been sent while connecting, so another
/// endpoint may always be tried.
pub(super) async fn forward<N: Net, I>(side: &Outbound<N>, cluster: &Cluster, io: I, limit: Duration)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut tried = Tried::default();
    for attempt in 0..=cluster.config.retry.attempts {
        if attempt > 0 {
            cluster.metrics.retries.inc();
        }
        let now = Instant::now();
        let picked = cluster.pick(now, &mut *side.rng.borrow_mut(), tried);
        let Some(position) = picked else {
            cluster.metrics.failed(Kind::NoEndpoint);
            return;
        };
        tried.insert(position);
        let endpoint = &cluster.endpoints[position];
        let _in_hand = endpoint.begin(now);
        match connect(&side.net, endpoint.address, limit).await {
            Ok(upstream) => {
                cluster.on_success(position, now, Instant::now());
                cluster.metrics.connects.inc();
                let _open = crate::telemetry::Open::new(&cluster.metrics.open);
                if let Err(error) = both_ways(io, upstream, HALF_CLOSE_TIMEOUT).await {
                    tracing::debug!(cluster = %cluster.config.name, %error, "connection ended");
                }
                return;
            }
            Err(error) => {
                cluster.on_failure(position, now, Instant::now());
                cluster.metrics.connect_failures.inc();
                cluster.metrics.failed(error.kind);
                if let Some(withheld) = side.failures.admit(Instant::now()) {
                    tracing::warn!(cluster = %cluster.config.name, %error, withheld, "cannot connect");
                }
            }
        }
    }
}

/// Carries bytes to where the app wanted to go, which no cluster covers.
pub(super) async fn pass_through<N: Net>(side: &Outbound<N>, io: N::Io, dst: SocketAddr, limit: Duration) {
    match connect(&side.net, dst, limit).await {
        Ok(upstream) => {
            if let Err(error) = both_ways(io, upstream, HALF_CLOSE_TIMEOUT).await {
                tracing::debug!(%dst, %error, "connection ended");
            }
        }
        Err(error) => {
            side.metrics.refused(error.kind);
            if let Some(withheld) = side.failures.admit(Instant::now()) {
                tracing::warn!(%error, withheld, "cannot connect");
            }
        }
    }
}

async fn connect<N: Net>(net: &N, to: SocketAddr, limit: Duration) -> Result<N::Io, Error> {
    let connected = timeout(limit, net.connect(to, None)).await;
    match connected {
        Ok(result) => result.map_err(|e: io::Error| Error::at(Kind::Connect, to, e)),
        Err(_) => Err(Error::at(Kind::ConnectTimeout, to, format!("no answer within {limit:?}"))),
    }
}
