//! The story of an inbound request.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Inbound;
use super::caller::Caller;
use crate::config::TryTimeouts;
use crate::endpoint::pool::Limits;
use crate::endpoint::{Aim, Call, Held, InHand, Place, ResponseBody};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::patience::Patience;
use crate::http::serve::Client;
use crate::http::tunnel::Ask;
use crate::http::{RequestBody, bridge, deadline, forward, header_limits, reply};
use crate::limit::client::share_of;
use crate::mutant;
use crate::retry::{Attempts, Ended, condition};
use crate::tcp;
use crate::telemetry::{Direction, Single};
use crate::world::Net;

/// Answers a request for the local app.
pub(super) async fn handle<N: Net>(
    side: Rc<Inbound<N>>,
    dst: SocketAddr,
    caller: Rc<Caller>,
    mut request: Request<Incoming>,
    client: Client,
) -> Response<ResponseBody<N>> {
    let table = side.table.load_full();
    let app = side.app(&table.snapshot.service);
    let metrics = &app.cluster;
    let timeouts = &table.snapshot.timeouts;
    let limits = Limits::of(&table.snapshot);
    let is_grpc = grpc::is_grpc(request.headers());
    let deadline = deadline::of(request.headers(), is_grpc);
    let asked = metrics.asked();
    let version = request.version();
    let is_bridged = bridge::take_marker(request.headers_mut()) && version == Version::HTTP_2;
    let restored = if is_bridged { bridge::restore(&mut request) } else { Ok(()) };
    let ask = Ask::of(&mut request);
    let (load, most) = (&table.load, &table.snapshot.limits);
    let of_client = caller.request(share_of(most.requests, most.client_share)).map_err(Error::new);
    let place = of_client.and_then(|of_client| {
        let all = load.request(Direction::Inbound, most).map_err(Error::new)?;
        Ok(Place::new(all, table.take_for_app(dst.port(), metrics)?).of_client(of_client))
    });
    let forwarded = place.and_then(|place| {
        restored.map_err(|wrong| Error { cause: Some(wrong.into()), ..Error::new(Kind::Malformed) })?;
        let request = forward::request(request, dst, &mut *side.rng.borrow_mut())?;
        header_limits::request(&request, table.snapshot.http1)?;
        Ok((place, request))
    });
    let result = match forwarded {
        Ok((place, mut request)) => {
            if version == Version::HTTP_2 && !is_bridged {
                bridge::to_http2(&mut request, dst, false);
            }
            let now = Instant::now();
            let limit = table.snapshot.inbound_request_timeout(dst.port());
            let patience = Patience::new(now, timeouts.stream_idle, request.body().upload())
                .until(limit.map(|limit| now + limit), Kind::RequestTimeout)
                .until(deadline, Kind::Deadline);
            let (retry, tries) = (side.retry.clone(), TryTimeouts::default());
            let call = Call {
                number: 0,
                aim: Aim::default(),
                place: Rc::new(place),
                limits,
                patience,
                is_grpc,
                deadline,
                retry,
                tries,
                interim: client.interim,
                client: client.end,
            };
            let sending = pin!(send(&side, dst, &caller, &call, &app, request));
            let result = call.patience.wait(sending).await;
            call.place.ended(&result);
            result
        }
        Err(error) => Err(error),
    };
    let mut response = result.unwrap_or_else(|error| {
        if let Some(withheld) = side.failures.admit(Instant::now()) {
            tracing::warn!(%error, withheld, "request failed");
        }
        metrics.failed(error.kind);
        reply::failure(&error, &table.snapshot.instance, is_grpc).map(ResponseBody::own)
    });
    let silence = tcp::Limits { half_close: timeouts.half_close, idle: timeouts.tunnel_idle };
    let held = (ResponseBody::take_passing, ResponseBody::end_tunnel);
    ask.answer(&mut response, held, &client.tunnel, silence, metrics);
    forward::to_client(version, &mut response, || ResponseBody::NotModified);
    asked.answered(response.status());
    response
}

/// Sends a request to the app. The last failure is the caller's to count.
async fn send<N: Net>(
    side: &Inbound<N>,
    dst: SocketAddr,
    caller: &Caller,
    call: &Call,
    app: &Single,
    mut request: Request<RequestBody>,
) -> Result<Response<ResponseBody<N>>, Error> {
    let mut turn = None;
    if request.version() != Version::HTTP_2 {
        turn = caller.place(call.limits.connect).await;
        if turn.is_none() {
            let cause = "its client has as many requests at the app as one client may (limits.client_share)";
            return Err(Error::at(Kind::PoolFull, dst, cause));
        }
    }
    let mut attempts = Attempts::new(&call.retry, &mut request, false);
    loop {
        let in_hand = InHand::of(&app.endpoint);
        let (error, unsent) = match side.pool.send(dst, None, call, &app.endpoint, request).await {
            Ok((response, carrier)) => {
                let held = Held::at_app(call.place.clone(), in_hand, turn);
                let (failures, patience) = (app.cluster.failures(), call.patience.clone());
                let mut response = response.map(|body| {
                    ResponseBody::endpoint(body, carrier, held, failures, patience, call.is_grpc)
                });
                forward::response(&mut response);
                reply::remove_forged(response.headers_mut());
                return Ok(response);
            }
            Err(failed) => failed,
        };
        let ended = Ended::Failed { kind: error.kind, unsent: unsent.is_some() };
        // An answer that is no HTTP is one all the same: the app has had the request. A reset is one, too.
        let stale =
            error.reused && error.reset.is_none() && (unsent.is_some() || error.kind == Kind::Terminated);
        let refused = error.kind == Kind::Refused && !mutant::is_planted("repeats-nothing-refused");
        let reason = condition::reason(&call.retry, ended).filter(|_| stale || refused);
        let reason = reason.filter(|_| attempts.permit(ended, false).is_ok());
        let again = reason.and_then(|_| attempts.again(unsent.map(|request| *request)));
        let (Some(reason), Some(again)) = (reason, again) else { return Err(error) };
        app.cluster.failed(error.kind);
        app.cluster.retried(reason);
        request = again;
    }
}
