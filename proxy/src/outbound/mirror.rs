//! A copy of a request, for a cluster whose answers nobody reads: to try a new version on real requests.
//!
//! Fire and forget. The copy is sent once the original's body has passed by whole, so it never holds the original up; a
//! body that is longer than [`defaults::MIRROR_BYTES`] is not copied, nor are trailers and tunnels. It is sent once, and
//! counts as a request of its own in limits and metrics. At most [`defaults::MIRRORS`] of one worker are under way.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response, Version};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::Outbound;
use super::route::Way;
use super::tries::send;
use crate::balance::Table;
use crate::config::{Retry, defaults};
use crate::endpoint::pool::Limits;
use crate::endpoint::{Aim, Call, Place, ResponseBody};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::patience::Patience;
use crate::http::{Copied, RequestBody, Upload, bridge, deadline};
use crate::route::mirror::become_copy;
use crate::telemetry::{Direction, MirrorEnd, RouteMetrics};
use crate::world::Net;

/// Copies a request in the form of HTTP/1 if its way says so.
pub(super) fn copy<N: Net>(
    side: &Rc<Outbound<N>>,
    table: &Arc<Table>,
    way: &Way<'_>,
    dst: SocketAddr,
    peer: IpAddr,
    was_http1: bool,
    request: &Request<RequestBody>,
) {
    let Some(route) = way.route else { return };
    let Some(position) = route.mirror(&mut *side.rng.borrow_mut()) else { return };
    let metrics = route.metrics.clone();
    let may = Rc::strong_count(&side.mirrors) <= defaults::MIRRORS;
    let all = table.load.request(Direction::Outbound, &table.snapshot.limits).ok().filter(|_| may);
    let place = all.zip(table.clusters[position].take(Instant::now()).ok());
    let Some((all, of_cluster)) = place else { return metrics.mirrored(MirrorEnd::TooMany) };
    let place = Place::new(all, Some(of_cluster));
    let aim = table.clusters[position].aim(Some(request.headers()), peer);
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = Version::HTTP_11;
    *head.headers_mut() = request.headers().clone();
    become_copy(head.headers_mut());
    let body = request.body().copy(defaults::MIRROR_BYTES);
    let (side, table, counted) = (side.clone(), table.clone(), side.mirrors.clone());
    side.net.clone().spawn("mirror", async move {
        let body = match body {
            None => RequestBody::Empty,
            Some(body) => match body.await {
                Ok(Copied::Whole(bytes)) => RequestBody::Whole(bytes),
                Ok(Copied::TooLong) => return metrics.mirrored(MirrorEnd::TooLong),
                Err(_) => return metrics.mirrored(MirrorEnd::Incomplete),
            },
        };
        let mirror = Mirror { side, table, position, aim, dst, was_http1 };
        mirror.send(place, head.map(|()| body), &metrics).await;
        drop(counted);
    });
}

struct Mirror<N: Net> {
    side: Rc<Outbound<N>>,
    table: Arc<Table>,
    /// Of its cluster.
    position: usize,
    aim: Aim,
    dst: SocketAddr,
    was_http1: bool,
}

impl<N: Net> Mirror<N> {
    async fn send(self, place: Place, mut request: Request<RequestBody>, metrics: &RouteMetrics) {
        let cluster = &self.table.clusters[self.position];
        let asked = cluster.metrics.asked();
        let is_grpc = grpc::is_grpc(request.headers());
        let deadline = deadline::of(request.headers(), is_grpc);
        if !self.was_http1 || cluster.config.bridge {
            bridge::to_http2(&mut request, self.dst, self.was_http1);
        }
        let now = Instant::now();
        let limit = cluster.config.timeouts.request.unwrap_or(defaults::MIRROR_TIMEOUT);
        let patience = Patience::new(now, self.table.snapshot.timeouts.stream_idle, Upload::default())
            .until(Some(now + limit), Kind::RequestTimeout)
            .until(deadline, Kind::Deadline);
        let call = Call {
            client: None,
            number: self.side.number(),
            aim: self.aim,
            place: Rc::new(place),
            limits: Limits::of(&self.table.snapshot).within(cluster.config.limits, cluster.config.bridge),
            patience,
            is_grpc,
            deadline,
            tries: cluster.config.timeouts.tries,
            interim: None,
            // A copy is sent once.
            retry: Arc::new(Retry { attempts: 0, hedge: None, ..(*cluster.config.retry).clone() }),
        };
        let sending = pin!(send(&self.side, cluster, &call, request));
        let result = call.patience.wait(sending).await;
        call.place.ended(&result);
        let end = match result {
            Ok(response) => {
                asked.answered(response.status());
                read_to_end(response).await
            }
            Err(error) => {
                cluster.metrics.failed(error.kind);
                asked.answered(error.kind.status());
                Err(error)
            }
        };
        metrics.mirrored(if end.is_ok() { MirrorEnd::Answered } else { MirrorEnd::Failed });
    }
}

/// Reads an answer, so that its connection can be used again.
async fn read_to_end<N: Net>(response: Response<ResponseBody<N>>) -> Result<(), Error> {
    let mut body = pin!(response.into_body());
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}
