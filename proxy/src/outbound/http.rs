//! The story of an outbound request.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Outbound;
use crate::balance::{Cluster, Tried};
use crate::endpoint::pool::Limits;
use crate::error::{Error, Kind};
use crate::http::{RequestBody, ResponseBody, headers, reply};
use crate::retry::Attempts;
use crate::world::Net;

/// Sends a request of the app to an endpoint of the cluster at `dst`, and to another one if that fails and it is safe.
pub(super) async fn handle<N: Net>(
    side: Rc<Outbound<N>>,
    dst: SocketAddr,
    request: Request<Incoming>,
) -> Response<ResponseBody<N>> {
    let begun = Instant::now();
    let table = side.table.load_full();
    let Some(cluster) = table.cluster_at(dst) else {
        return reply::failure(&Error::new(Kind::NoRoute), &table.snapshot.instance);
    };
    let timeouts = &table.snapshot.timeouts;
    let limits = Limits { connect: timeouts.connect, max_idle: timeouts.pool_idle };
    cluster.metrics.requests.inc();

    let mut request = prepare(request, &side);
    let mut attempts = Attempts::new(cluster.config.retry, &request);
    let mut tried = Tried::default();
    let response = loop {
        let picked = cluster.pick(Instant::now(), &mut *side.rng.borrow_mut(), tried);
        let Some(position) = picked else {
            break reply::failure(&Error::new(Kind::NoEndpoint), &table.snapshot.instance);
        };
        tried.insert(position);
        match attempt(&side, cluster, position, limits, request).await {
            Ok(response) => break response,
            Err((error, unsent)) => {
                cluster.metrics.failed(error.kind);
                match attempts.next(&error, unsent) {
                    Some(again) => {
                        tracing::debug!(cluster = %cluster.config.name, %error, "trying again");
                        cluster.metrics.retries.inc();
                        request = again;
                    }
                    None => {
                        tracing::warn!(cluster = %cluster.config.name, %error, "request failed");
                        break reply::failure(&error, &table.snapshot.instance);
                    }
                }
            }
        }
    };
    cluster.metrics.responded(response.status());
    cluster.metrics.duration.observe(begun.elapsed().as_secs_f64());
    response
}

/// Makes the app's request fit for the next hop.
fn prepare<N: Net>(request: Request<Incoming>, side: &Outbound<N>) -> Request<RequestBody> {
    let mut request = request.map(|body| match body.is_end_stream() {
        true => RequestBody::Empty,
        false => RequestBody::Client(body),
    });
    *request.version_mut() = Version::HTTP_11;
    headers::remove_hop_by_hop(request.headers_mut());
    headers::ensure_request_id(request.headers_mut(), &mut *side.rng.borrow_mut());
    request
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
            cluster.on_failure(position, Instant::now());
            return Err((error, Some(request)));
        }
    };
    let (response, exchange) = match checkout.send(request).await {
        Ok(answered) => answered,
        Err((error, unsent)) => {
            // A kept connection that the endpoint closed in the meantime says nothing about its health.
            if error.kind != Kind::Client && !(error.reused && unsent.is_some()) {
                cluster.on_failure(position, Instant::now());
            }
            return Err((error, unsent.map(|request| *request)));
        }
    };
    let now = Instant::now();
    let failed_there = |kind, detail: &str| Error::at(kind, endpoint.address, detail);
    if let Some(kind) = reply::not_delivered(response.headers()) {
        cluster.on_failure(position, now);
        return Err((failed_there(kind, "its sidecar could not reach the app"), None));
    }
    if reply::terminated(response.headers()) {
        cluster.on_failure(position, now);
        return Err((failed_there(Kind::Terminated, "the app closed without an answer"), None));
    }
    if response.status().is_server_error() {
        cluster.on_failure(position, now);
    } else {
        cluster.on_success(position, now, now - begun);
    }
    let mut response = response.map(|body| ResponseBody::endpoint(body, exchange, Some(in_hand)));
    headers::remove_hop_by_hop(response.headers_mut());
    Ok(response)
}
