//! The story of an inbound request.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Inbound;
use crate::endpoint::pool::Limits;
use crate::http::{RequestBody, ResponseBody, headers, reply};
use crate::retry::Attempts;
use crate::world::Net;

/// Sends a request to the local app. It is tried again only to hide the race in which the app closes a kept connection
/// just as the request is sent on it, as Istio does with `reset-before-request`; an app that is down is the caller's
/// business, who has other replicas.
pub(super) async fn handle<N: Net>(
    side: Rc<Inbound<N>>,
    dst: SocketAddr,
    request: Request<Incoming>,
) -> Response<ResponseBody<N>> {
    let begun = Instant::now();
    let table = side.table.load_full();
    let app = side.app(dst, &table.snapshot.service);
    let timeouts = &table.snapshot.timeouts;
    let limits = Limits { connect: timeouts.connect, max_idle: timeouts.pool_idle };
    app.metrics.requests.inc();

    let mut request = request.map(|body| match body.is_end_stream() {
        true => RequestBody::Empty,
        false => RequestBody::Client(body),
    });
    *request.version_mut() = Version::HTTP_11;
    headers::remove_hop_by_hop(request.headers_mut());
    headers::ensure_request_id(request.headers_mut(), &mut *side.rng.borrow_mut());
    let mut attempts = Attempts::new(app.config.retry, &request);
    let in_hand = app.endpoints[0].begin(begun);
    let failed = loop {
        let checkout = match side.pool.checkout(dst, limits, &app.metrics).await {
            Ok(checkout) => checkout,
            Err(error) => break error,
        };
        match checkout.send(request).await {
            Ok((response, exchange)) => {
                let body = |body| ResponseBody::endpoint(body, exchange, Some(in_hand));
                let mut response = response.map(body);
                headers::remove_hop_by_hop(response.headers_mut());
                reply::remove_forged(response.headers_mut());
                app.metrics.responded(response.status());
                app.metrics.duration.observe(begun.elapsed().as_secs_f64());
                return response;
            }
            Err((error, unsent)) => {
                let again = error.reused.then(|| attempts.next(&error, unsent.map(|r| *r))).flatten();
                let Some(again) = again else { break error };
                app.metrics.failed(error.kind);
                app.metrics.retries.inc();
                request = again;
            }
        }
    };
    tracing::warn!(error = %failed, "request failed");
    app.metrics.failed(failed.kind);
    app.metrics.responded(failed.kind.status());
    reply::failure(&failed, &table.snapshot.instance)
}
