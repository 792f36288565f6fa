//! The story of an outbound request.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::route::Way;
use super::{Outbound, mirror, tries};
use crate::endpoint::pool::Limits;
use crate::endpoint::{Call, Place, ResponseBody};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::patience::Patience;
use crate::http::serve::Client;
use crate::http::tunnel::Ask;
use crate::http::{bridge, deadline, forward, header_limits, headers, reply};
use crate::tcp;
use crate::telemetry::Direction;
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
    let deadline = deadline::of(request.headers(), is_grpc);
    let asked = cluster.metrics.asked();
    let number = side.number();
    tracing::debug!(request = number, cluster = %cluster.config.name, %peer, "request begins");
    // Only another sidecar may say what a request was.
    bridge::take_marker(request.headers_mut());
    let was_http1 = request.version() != Version::HTTP_2;
    let (ask, version) = (Ask::of(&mut request), request.version());
    let place = table.load.request(Direction::Outbound, &table.snapshot.limits).map_err(Error::new);
    let place = place.and_then(|all| Ok(Place::new(all, Some(cluster.take(Instant::now())?))));
    let admitted = place.and_then(|place| {
        let mut request = forward::request(request, dst, &mut *side.rng.borrow_mut())?;
        headers::forwarded(table.snapshot.forwarded, peer.ip(), request.headers_mut());
        way.change(&mut request)?;
        header_limits::request(&request, table.snapshot.http1)?;
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
                    let limits =
                        Limits::of(&table.snapshot).within(cluster.config.limits, cluster.config.bridge);
                    let interim = client.interim;
                    let (tries, retry) = (way.timeouts.tries, way.retry.clone());
                    let place = Rc::new(place);
                    let call = Call {
                        number,
                        aim,
                        place,
                        limits,
                        patience,
                        is_grpc,
                        deadline,
                        retry,
                        tries,
                        interim,
                        client: client.end,
                    };
                    let sending = pin!(tries::send(&side, cluster, &call, request));
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
        tracing::debug!(request = number, error = error.kind.label(), "no answer");
        cluster.metrics.failed(error.kind);
        refuse(error)
    });
    way.change_answer(&mut response);
    let silence = tcp::Limits { half_close: timeouts.half_close, idle: timeouts.tunnel_idle };
    let held = (ResponseBody::take_passing, ResponseBody::end_tunnel);
    ask.answer(&mut response, held, &client.tunnel, silence, &cluster.metrics);
    forward::to_client(version, &mut response, || ResponseBody::NotModified);
    tracing::debug!(request = number, status = response.status().as_u16(), "request answered");
    asked.answered(response.status());
    response
}
