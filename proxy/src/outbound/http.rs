//! The story of an outbound request.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::route::Way;
use super::{Outbound, mirror};
use crate::balance::{Cluster, Tried};
use crate::endpoint::pool::Limits;
use crate::endpoint::{Call, Failed, Held, Outcome, Place, ResponseBody};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::patience::Patience;
use crate::http::serve::Client;
use crate::http::tunnel::Ask;
use crate::http::{RequestBody, bridge, forward, headers, reply};
use crate::retry::Attempts;
use crate::tcp;
use crate::world::Net;

/// Answers a request of the app: from an endpoint of the cluster at `dst`, or with the reason why none could.
pub(super) async fn handle<N: Net>(
    side: Rc<Outbound<N>>,
    dst: SocketAddr,
    peer: SocketAddr,
    mut request: Request<Incoming>,
    client: Client,
) -> Response<ResponseBody<N>> {
    let table = side.table.load_full();
    let is_grpc = grpc::is_grpc(request.headers());
    let instance = table.snapshot.instance.as_str();
    let refuse = |error| reply::failure(&error, instance, is_grpc).map(ResponseBody::own);
    let Some(dialled) = table.cluster_at(dst) else {
        // A reload took the cluster away. A new connection is judged anew, so this one ends.
        side.metrics.refused(Kind::NoRoute);
        let mut response = refuse(Error::new(Kind::NoRoute));
        if request.version() != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        return response;
    };
    let way = Way::of(&table, dialled, &request, &mut *side.rng.borrow_mut());
    let (cluster, timeouts) = (way.cluster, &table.snapshot.timeouts);
    let aim = cluster.aim(Some(request.headers()), peer.ip());
    let deadline = grpc::deadline(request.headers(), is_grpc);
    let asked = cluster.metrics.asked();
    // Only another sidecar may say what a request was.
    bridge::take_marker(request.headers_mut());
    let was_http1 = request.version() != Version::HTTP_2;
    let (ask, version) = (Ask::of(&mut request), request.version());
    let place = table.load.request(&table.snapshot.limits).map_err(Error::new);
    let place = place.and_then(|all| Ok(Place::new(all, Some(cluster.take(Instant::now())?))));
    let admitted = place.and_then(|place| {
        let mut request = forward::request(request, dst, &mut *side.rng.borrow_mut())?;
        headers::forwarded(table.snapshot.forwarded, peer.ip(), request.headers_mut());
        way.change(&mut request)?;
        Ok((place, request))
    });
    let result = match admitted {
        Ok((_, request)) if way.ends_here() => way.answer(&request, dst, instance, is_grpc),
        Ok((place, mut request)) => {
            let now = Instant::now();
            let patience = Patience::new(now, timeouts.stream_idle, request.body().upload())
                .until(way.timeouts.request.map(|limit| now + limit), Kind::RequestTimeout)
                .until(deadline, Kind::Deadline);
            match way.strike(&side, &patience, instance, is_grpc).await {
                Ok(None) => {
                    if !ask.is_for_a_tunnel() {
                        mirror::copy(&side, &table, &way, dst, peer.ip(), was_http1, &request);
                    }
                    if !was_http1 || cluster.config.bridge && !ask.is_for_a_tunnel() {
                        bridge::to_http2(&mut request, dst, was_http1);
                    }
                    let limits = Limits::of(&table.snapshot).within(cluster.config.limits);
                    let interim = client.interim;
                    let (tries, retry) = (way.timeouts.tries, way.retry.clone());
                    let place = Rc::new(place);
                    let call =
                        Call { aim, place, limits, patience, is_grpc, deadline, retry, tries, interim };
                    let sending = pin!(send(&side, cluster, &call, request));
                    let result = call.patience.wait(sending).await;
                    call.place.ended(&result);
                    result
                }
                Ok(Some(failure)) => Ok(failure.map(ResponseBody::own)),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    let mut response = result.unwrap_or_else(|error| {
        if let Some(withheld) = side.failures.admit(Instant::now()) {
            tracing::warn!(cluster = %cluster.config.name, %error, withheld, "request failed");
        }
        cluster.metrics.failed(error.kind);
        refuse(error)
    });
    way.change_answer(&mut response);
    let silence = tcp::Limits { half_close: timeouts.half_close, idle: timeouts.tunnel_idle };
    ask.answer(&mut response, ResponseBody::take_passing, &client.tunnel, silence, &cluster.metrics);
    forward::to_client(version, &mut response, || ResponseBody::NotModified);
    asked.answered(response.status());
    response
}

/// Sends a request to an endpoint, and to another one if that fails and it is safe. The last failure is the caller's to
/// count.
pub(super) async fn send<N: Net>(
    side: &Outbound<N>,
    cluster: &Cluster,
    call: &Call,
    mut request: Request<RequestBody>,
) -> Result<Response<ResponseBody<N>>, Error> {
    let mut attempts = Attempts::new(&call.retry, &request);
    let mut tried = Tried::default();
    let mut slot = None;
    loop {
        let picked = cluster.pick(Instant::now(), &mut *side.rng.borrow_mut(), call.aim, tried);
        let position = picked.ok_or_else(|| Error::new(Kind::NoEndpoint))?;
        tried.insert(position);
        let (error, unsent) = match attempt(side, cluster, position, call, request).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        match attempts.next(&error, unsent.map(|request| *request)) {
            Some(again) => request = again,
            None => return Err(error),
        }
        // The place of the try before it, if that was a retry too, is free again.
        drop(slot.take());
        slot = cluster.try_retry_slot();
        if slot.is_none() {
            return Err(error);
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
    call: &Call,
    mut request: Request<RequestBody>,
) -> Result<Response<ResponseBody<N>>, Failed> {
    let endpoint = &cluster.endpoints[position];
    let begun = Instant::now();
    let mut trial = cluster.outliers.begin(position, begun, call.patience.end(), &side.rng);
    if let Some(deadline) = call.deadline {
        grpc::forward_timeout(request.headers_mut(), deadline - begun);
    }
    let sending = pin!(side.pool.send(endpoint.address, call, &endpoint.metrics, request));
    let sent = call.patience.wait_for_try(begun, call.tries, sending).await;
    let sent = sent.unwrap_or_else(|kind| {
        let error = Error { endpoint: Some(endpoint.address), ..Error::new(kind) };
        Err((error, None))
    });
    let (response, carrier) = match sent {
        Ok(answered) => answered,
        Err((error, unsent)) => {
            trial.tell(Outcome::of_error(&error, unsent.is_some()), Instant::now());
            return Err((error, unsent));
        }
    };
    let now = Instant::now();
    let failed_there = |kind, detail: &str| Error::at(kind, endpoint.address, detail);
    if let Some(kind) = reply::not_delivered(response.headers()) {
        trial.tell(Outcome::of_refusal(kind, response.headers()), now);
        return Err((failed_there(kind, "its sidecar could not reach the app"), None));
    }
    if reply::terminated(response.headers()) {
        trial.tell(Outcome::Failure(None), now);
        return Err((failed_there(Kind::Terminated, "the app closed without an answer"), None));
    }
    let outcome = Outcome::of_head(response.status(), response.headers(), call.is_grpc);
    // A failure is often quick, and must not attract load.
    if matches!(outcome, None | Some(Outcome::Success)) {
        trial.answered(now);
    }
    if let Some(outcome) = outcome {
        trial.tell(outcome, now);
    }
    let held = Held::new(call.place.clone(), Some(trial));
    let (failures, patience) = (cluster.metrics.failures(), call.patience.clone());
    let mut response =
        response.map(|body| ResponseBody::endpoint(body, carrier, held, failures, patience, call.is_grpc));
    forward::response(&mut response);
    Ok(response)
}
