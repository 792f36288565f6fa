//! The story of an inbound request.
//!
//! The phases are those of an outbound request ([`crate::outbound`]), without a choice: admit,
//! route (there is one app), authorize, limit, forward, attempt, respond, log. Authorization has
//! its place between route and limit, and lets everything pass as long as there is no policy.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Inbound;
use super::caller::Caller;
use crate::balance::Table;
use crate::config::AttemptTimeouts;
use crate::connection::Connection;
use crate::endpoint::pool::PoolLimits;
use crate::endpoint::{ActiveRequest, Call, PickContext, RequestGuard, RequestPermit, ResponseBody};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::serve::Client;
use crate::http::timer::RequestTimer;
use crate::http::tunnel::UpgradeRequest;
use crate::http::{RequestBody, bridge, deadline, forward, header_limits, reply};
use crate::limit::client::share_of;
use crate::mutant::Mutant;
use crate::retry::{AttemptOutcome, Attempts, condition};
use crate::tcp::CopyTimeouts;
use crate::telemetry::{Direction, SingleEndpointMetrics};
use crate::world::Net;

/// Answers a request for the local app.
pub(super) async fn handle<N: Net>(
    side: Rc<Inbound<N>>,
    connection: Connection,
    caller: Rc<Caller>,
    mut request: Request<Incoming>,
    client: Client,
) -> Response<ResponseBody<N>> {
    let (table, dst) = (side.table.load_full(), connection.original_dst);
    let app = side.app(&table.snapshot.service);
    let is_grpc = grpc::is_grpc(request.headers());
    let deadline = deadline::of(request.headers(), is_grpc);
    let log = app.cluster.request_log(0);
    let version = request.version();
    let is_bridged = bridge::take_marker(request.headers_mut()) && version == Version::HTTP_2;
    let restored = if is_bridged { bridge::restore(&mut request) } else { Ok(()) };
    let upgrade = UpgradeRequest::of(&mut request);
    let forwarded = limit(&table, dst, &caller, &app).and_then(|permit| {
        restored.map_err(|wrong| Error { cause: Some(wrong.into()), ..Error::new(Kind::Malformed) })?;
        Ok((permit, forward(&side, &table, dst, request)?))
    });
    let result = match forwarded {
        Ok((permit, mut request)) => {
            if version == Version::HTTP_2 && !is_bridged {
                bridge::to_http2(&mut request, dst, false);
            }
            let now = Instant::now();
            let limit = table.snapshot.inbound_request_timeout(dst.port());
            let idle = table.snapshot.timeouts.stream_idle;
            let call = Call {
                number: 0,
                context: PickContext::default(),
                permit: Rc::new(permit),
                limits: PoolLimits::of(&table.snapshot),
                timer: RequestTimer::new(now, idle, request.body().upload())
                    .until(limit.map(|limit| now + limit), Kind::RequestTimeout)
                    .until(deadline, Kind::Deadline),
                is_grpc,
                deadline,
                retry: side.retry.clone(),
                attempt_timeouts: AttemptTimeouts::default(),
                interim: client.interim,
                client: client.end,
            };
            let sending = pin!(send(&side, dst, &caller, &call, &app, request));
            let result = call.timer.wait(sending).await;
            call.permit.ended(&result);
            result
        }
        Err(error) => Err(error),
    };
    let mut response = result.unwrap_or_else(|error| {
        if let Some(withheld) = side.failures.admit(Instant::now()) {
            tracing::warn!(%error, withheld, "request failed");
        }
        log.failed(error.kind);
        reply::failure(&error, &table.snapshot.instance, is_grpc).map(ResponseBody::own)
    });
    let timeouts = CopyTimeouts::of_tunnel(&table.snapshot.timeouts);
    let held = (ResponseBody::take_passing, ResponseBody::end_tunnel);
    upgrade.answer(&mut response, held, &client.tunnel, timeouts, &app.cluster);
    forward::to_client(version, &mut response, || ResponseBody::NotModified);
    log.answered(response.status());
    response
}

/// Takes a permit of the client's share, of the sidecar, and of the app.
fn limit(
    table: &Table,
    dst: SocketAddr,
    caller: &Caller,
    app: &SingleEndpointMetrics,
) -> Result<RequestPermit, Error> {
    let limits = &table.snapshot.limits;
    let of_client = caller.request(share_of(limits.requests, limits.client_share)).map_err(Error::new)?;
    let all = table.load.request(Direction::Inbound, limits).map_err(Error::new)?;
    Ok(RequestPermit::new(all, table.take_for_app(dst.port(), &app.cluster)?).of_client(of_client))
}

/// Makes the request fit for the app.
fn forward<N: Net>(
    side: &Inbound<N>,
    table: &Table,
    dst: SocketAddr,
    request: Request<Incoming>,
) -> Result<Request<RequestBody>, Error> {
    let request = forward::request(request, dst, &mut *side.rng.borrow_mut())?;
    header_limits::request(&request, table.snapshot.http1)?;
    Ok(request)
}

/// Sends a request to the app. The last failure is the caller's to count.
async fn send<N: Net>(
    side: &Inbound<N>,
    dst: SocketAddr,
    caller: &Caller,
    call: &Call,
    app: &SingleEndpointMetrics,
    mut request: Request<RequestBody>,
) -> Result<Response<ResponseBody<N>>, Error> {
    let mut turn = None;
    if request.version() != Version::HTTP_2 {
        turn = caller.permit(call.limits.connect).await;
        if turn.is_none() {
            let cause = "its client has as many requests at the app as one client may (limits.client_share)";
            return Err(Error::at(Kind::PoolFull, dst, cause));
        }
    }
    let mut attempts = Attempts::new(&call.retry, &mut request, false);
    loop {
        let active = ActiveRequest::of(&app.endpoint);
        let (error, unsent) = match side.pool.send(dst, None, call, &app.endpoint, request).await {
            Ok((response, lease)) => {
                let held = RequestGuard::at_app(call.permit.clone(), active, turn);
                let (failures, timer) = (app.cluster.failures(), call.timer.clone());
                let mut response = response
                    .map(|body| ResponseBody::endpoint(body, lease, held, failures, timer, call.is_grpc));
                forward::response(&mut response);
                reply::remove_forged(response.headers_mut());
                return Ok(response);
            }
            Err(failed) => failed,
        };
        let ended = AttemptOutcome::Failed { kind: error.kind, unsent: unsent.is_some() };
        // An answer that is no HTTP is one all the same: the app has had the request. A reset is
        // one, too.
        let stale =
            error.reused && error.reset.is_none() && (unsent.is_some() || error.kind == Kind::Terminated);
        let refused = error.kind == Kind::Refused && !Mutant::RepeatsNothingRefused.is_planted();
        let reason = condition::reason(&call.retry, ended).filter(|_| stale || refused);
        let reason = reason.filter(|_| attempts.permit(ended, false).is_ok());
        let again = reason.and_then(|_| attempts.again(unsent.map(|request| *request)));
        let (Some(reason), Some(again)) = (reason, again) else { return Err(error) };
        app.cluster.failed(error.kind);
        app.cluster.retried(reason);
        request = again;
    }
}
