//! A copy of a request, for a cluster whose answers nobody reads: to try a new version on real
//! requests.
//!
//! Fire and forget. The copy is sent once the original's body has passed by whole, so it never
//! holds the original up; a body that is longer than [`defaults::MIRROR_BYTES`] is not copied, nor
//! are trailers and tunnels. It is sent once, and counts as a request of its own in limits and
//! metrics. At most [`defaults::MIRRORS`] of one worker are under way.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response, Version};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::Outbound;
use super::exchange::exchange;
use super::route::ResolvedRoute;
use crate::balance::Table;
use crate::config::{Retry, defaults};
use crate::connection::Connection;
use crate::endpoint::pool::PoolLimits;
use crate::endpoint::{Call, PickContext, RequestPermit, ResponseBody};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::timer::RequestTimer;
use crate::http::{Copied, RequestBody, Upload, bridge, deadline};
use crate::route::mirror::become_copy;
use crate::telemetry::{Direction, MirrorOutcome, RouteMetrics};
use crate::world::Net;

/// Copies a request in the form of HTTP/1 if its way says so.
pub(super) fn copy<N: Net>(
    outbound: &Rc<Outbound<N>>,
    table: &Arc<Table>,
    resolved: &ResolvedRoute<'_>,
    connection: &Connection,
    was_http1: bool,
    request: &Request<RequestBody>,
) {
    let Some(route) = resolved.route else { return };
    let Some(position) = route.mirror(&mut *outbound.side.rng.borrow_mut()) else { return };
    let metrics = route.metrics.clone();
    let may = Rc::strong_count(&outbound.mirrors) <= defaults::MIRRORS;
    let all = table.load.request(Direction::Outbound, &table.snapshot.limits).ok().filter(|_| may);
    let permit = all.zip(table.clusters[position].take(Instant::now()).ok());
    let Some((all, of_cluster)) = permit else { return metrics.mirrored(MirrorOutcome::TooMany) };
    let permit = RequestPermit::new(all, Some(of_cluster));
    let context = table.clusters[position].context(Some(request.headers()), connection.peer.ip());
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = Version::HTTP_11;
    *head.headers_mut() = request.headers().clone();
    become_copy(head.headers_mut());
    let body = request.body().copy(defaults::MIRROR_BYTES);
    let (outbound, table, counted) = (outbound.clone(), table.clone(), outbound.mirrors.clone());
    let dst = connection.original_dst;
    outbound.side.net.clone().spawn("mirror", async move {
        let body = match body {
            None => RequestBody::Empty,
            Some(body) => match body.await {
                Ok(Copied::Whole(bytes)) => RequestBody::Whole(bytes),
                Ok(Copied::TooLong) => return metrics.mirrored(MirrorOutcome::TooLong),
                Err(_) => return metrics.mirrored(MirrorOutcome::Incomplete),
            },
        };
        let mirror = Mirror { outbound, table, position, context, dst, was_http1 };
        mirror.send(permit, head.map(|()| body), &metrics).await;
        drop(counted);
    });
}

struct Mirror<N: Net> {
    outbound: Rc<Outbound<N>>,
    table: Arc<Table>,
    /// Of its cluster.
    position: usize,
    context: PickContext,
    dst: SocketAddr,
    was_http1: bool,
}

impl<N: Net> Mirror<N> {
    async fn send(self, permit: RequestPermit, mut request: Request<RequestBody>, metrics: &RouteMetrics) {
        let cluster = &self.table.clusters[self.position];
        let log = cluster.metrics.request_log(0);
        let is_grpc = grpc::is_grpc(request.headers());
        let deadline = deadline::of(request.headers(), is_grpc);
        if !self.was_http1 || cluster.bridge {
            bridge::to_http2(&mut request, self.dst, self.was_http1);
        }
        let now = Instant::now();
        let limit = cluster.config.timeouts.request.unwrap_or(defaults::MIRROR_TIMEOUT);
        let timer = RequestTimer::new(now, self.table.snapshot.timeouts.stream_idle, Upload::default())
            .until(Some(now + limit), Kind::RequestTimeout)
            .until(deadline, Kind::Deadline);
        let call = Call {
            log: &log,
            client: None,
            number: self.outbound.number(),
            context: self.context,
            permit: Rc::new(permit),
            limits: PoolLimits::of(&self.table.snapshot).within(cluster.config.limits, cluster.bridge),
            timer,
            is_grpc,
            deadline,
            attempt_timeouts: cluster.config.timeouts.attempt_timeouts,
            interim: None,
            // A copy is sent once.
            retry: Arc::new(Retry { attempts: 0, hedge: None, ..(*cluster.config.retry).clone() }),
        };
        let end = match exchange(&self.outbound, cluster, &call, request).await {
            Ok(response) => {
                log.answered(response.status());
                read_to_end(response).await
            }
            Err(error) => {
                log.failed(error.kind);
                log.answered(error.kind.status());
                Err(error)
            }
        };
        metrics.mirrored(if end.is_ok() { MirrorOutcome::Answered } else { MirrorOutcome::Failed });
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
