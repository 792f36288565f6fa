//! The story of an outbound request.

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Outbound;
use crate::balance::{Cluster, Tried};
use crate::endpoint::pool::Limits;
use crate::error::{Error, Kind};
use crate::http::tunnel::{Ask, Slot};
use crate::http::{RequestBody, ResponseBody, forward, headers, reply};
use crate::retry::Attempts;
use crate::world::Net;

/// Answers a request of the app: from an endpoint of the cluster at `dst`, or with the reason why none could.
pub(super) async fn handle<N: Net>(
    side: Rc<Outbound<N>>,
    dst: SocketAddr,
    peer: SocketAddr,
    mut request: Request<Incoming>,
    tunnel: Slot,
) -> Response<ResponseBody<N>> {
    let table = side.table.load_full();
    let Some(cluster) = table.cluster_at(dst) else {
        // A reload took the cluster away. A new connection is judged anew, so this one ends.
        side.metrics.refused(Kind::NoRoute);
        let mut response = reply::failure(&Error::new(Kind::NoRoute), &table.snapshot.instance);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let timeouts = &table.snapshot.timeouts;
    let limits =
        Limits { connect: timeouts.connect, max_idle: timeouts.pool_idle, http1: table.snapshot.http1 };
    let asked = cluster.metrics.asked();
    let (ask, version) = (Ask::of(&mut request), request.version());
    let forwarded = forward::request(request, dst, &mut *side.rng.borrow_mut());
    let result = match forwarded {
        Ok(mut request) => {
            headers::forwarded(table.snapshot.forwarded, peer.ip(), request.headers_mut());
            send(&side, cluster, limits, request).await
        }
        Err(error) => Err(error),
    };
    let mut response = result.unwrap_or_else(|error| {
        if let Some(withheld) = side.failures.admit(Instant::now()) {
            tracing::warn!(cluster = %cluster.config.name, %error, withheld, "request failed");
        }
        cluster.metrics.failed(error.kind);
        reply::failure(&error, &table.snapshot.instance)
    });
    ask.answer(&mut response, &tunnel, timeouts.tunnel_idle, &cluster.metrics);
    forward::to_client(version, &mut response);
    asked.answered(response.status());
    response
}

/// Sends a request to an endpoint, and to another one if that fails and it is safe. The last failure is the caller's to
/// count.
async fn send<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    limits: Limits,
    mut request: Request<RequestBody>,
) -> Result<Response<ResponseBody<N>>, Error> {
    let mut attempts = Attempts::new(cluster.config.retry, &request);
    let mut tried = Tried::default();
    loop {
        let picked = cluster.pick(Instant::now(), &mut *side.rng.borrow_mut(), tried);
        let position = picked.ok_or_else(|| Error::new(Kind::NoEndpoint))?;
        tried.insert(position);
        let (error, unsent) = match attempt(side, cluster, position, limits, request).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        match attempts.next(&error, unsent) {
            Some(again) => request = again,
            None => return Err(error),
        }
        tracing::debug!(cluster = %cluster.config.name, %error, "trying again");
        cluster.metrics.failed(error.kind);
        cluster.metrics.retries.inc();
    }
}

/// One try at one endpoint. On failure gives the request back if not a byte of it can have reached the app.
async fn attempt<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    position: usize,
    limits: Limits,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody<N>>, (Error, Option<Request<RequestBody>>)> {
    let endpoint = &cluster.endpoints[position];
    let begun = Instant::now();
    let in_hand = endpoint.begin(begun);
    let checkout = match side.pool.checkout(endpoint.address, limits, &cluster.metrics).await {
        Ok(checkout) => checkout,
        Err(error) => {
            cluster.on_failure(position, begun, Instant::now());
            return Err((error, Some(request)));
        }
    };
    let (response, exchange) = match checkout.send(request).await {
        Ok(answered) => answered,
        Err((error, unsent)) => {
            // A kept connection that the endpoint closed in the meantime says nothing about its health.
            if error.kind != Kind::Client && !(error.reused && unsent.is_some()) {
                cluster.on_failure(position, begun, Instant::now());
            }
            return Err((error, unsent.map(|request| *request)));
        }
    };
    let now = Instant::now();
    let failed_there = |kind, detail: &str| Error::at(kind, endpoint.address, detail);
    if let Some(kind) = reply::not_delivered(response.headers()) {
        cluster.on_failure(position, begun, now);
        return Err((failed_there(kind, "its sidecar could not reach the app"), None));
    }
    if reply::terminated(response.headers()) {
        cluster.on_failure(position, begun, now);
        return Err((failed_there(Kind::Terminated, "the app closed without an answer"), None));
    }
    if response.status().is_server_error() {
        cluster.on_failure(position, begun, now);
    } else {
        cluster.on_success(position, begun, now);
    }
    let broken = cluster.metrics.failures(Kind::Incomplete);
    let mut response = response.map(|body| ResponseBody::endpoint(body, exchange, Some(in_hand), broken));
    forward::response(&mut response);
    Ok(response)
}
