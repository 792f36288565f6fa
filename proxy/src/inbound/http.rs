//! The story of an inbound request.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Inbound;
use crate::config::Retry;
use crate::endpoint::pool::Limits;
use crate::error::{Error, Kind};
use crate::http::tunnel::{Ask, Slot};
use crate::http::{RequestBody, ResponseBody, forward, reply};
use crate::retry::Attempts;
use crate::telemetry::ClusterMetrics;
use crate::world::Net;

/// A request is tried again only to hide the race in which the app closes a kept connection just as the request is sent
/// on it, as Istio does with `reset-before-request`; an app that is down is the caller's business, who has other
/// replicas.
const RETRY: Retry = Retry { attempts: 1 };

/// Answers a request for the local app.
pub(super) async fn handle<N: Net>(
    side: Rc<Inbound<N>>,
    dst: SocketAddr,
    mut request: Request<Incoming>,
    tunnel: Slot,
) -> Response<ResponseBody<N>> {
    let table = side.table.load_full();
    let metrics = side.app(&table.snapshot.service);
    let timeouts = &table.snapshot.timeouts;
    let limits =
        Limits { connect: timeouts.connect, max_idle: timeouts.pool_idle, http1: table.snapshot.http1 };
    let asked = metrics.asked();
    let (ask, version) = (Ask::of(&mut request), request.version());
    let forwarded = forward::request(request, dst, &mut *side.rng.borrow_mut());
    let result = match forwarded {
        Ok(request) => send(&side, dst, limits, &metrics, request).await,
        Err(error) => Err(error),
    };
    let mut response = result.unwrap_or_else(|error| {
        if let Some(withheld) = side.failures.admit(Instant::now()) {
            tracing::warn!(%error, withheld, "request failed");
        }
        metrics.failed(error.kind);
        reply::failure(&error, &table.snapshot.instance)
    });
    ask.answer(&mut response, &tunnel, timeouts.tunnel_idle, &metrics);
    forward::to_client(version, &mut response);
    asked.answered(response.status());
    response
}

/// Sends a request to the app. The last failure is the caller's to count.
async fn send<N: Net>(
    side: &Inbound<N>,
    dst: SocketAddr,
    limits: Limits,
    metrics: &ClusterMetrics,
    mut request: Request<RequestBody>,
) -> Result<Response<ResponseBody<N>>, Error> {
    let mut attempts = Attempts::new(RETRY, &request);
    loop {
        let checkout = side.pool.checkout(dst, limits, metrics).await?;
        let (error, unsent) = match checkout.send(request).await {
            Ok((response, exchange)) => {
                let broken = metrics.failures(Kind::Incomplete);
                let mut response = response.map(|body| ResponseBody::endpoint(body, exchange, None, broken));
                forward::response(&mut response);
                reply::remove_forged(response.headers_mut());
                return Ok(response);
            }
            Err(failed) => failed,
        };
        let again = error.reused.then(|| attempts.next(&error, unsent.map(|request| *request))).flatten();
        let Some(again) = again else { return Err(error) };
        metrics.failed(error.kind);
        metrics.retries.inc();
        request = again;
    }
}
