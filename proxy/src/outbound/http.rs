//! How an outbound request is handled.
//!
//! A request goes through named phases, in this order: admit, route, authorize, limit, forward,
//! attempt, respond, log. [`handle`] has a line for each; authorization has its place between route
//! and limit, and lets everything pass as long as there is no policy.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::exchange::exchange;
use super::route::ResolvedRoute;
use super::{Outbound, mirror};
use crate::balance::{Cluster, Table};
use crate::connection::Connection;
use crate::endpoint::pool::PoolLimits;
use crate::endpoint::{Call, PickContext, RequestPermit, ResponseBody};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::closing::ClientEnd;
use crate::http::interim::InterimSender;
use crate::http::serve::Client;
use crate::http::timer::RequestTimer;
use crate::http::tunnel::UpgradeRequest;
use crate::http::{RequestBody, bridge, deadline, forward, header_limits, headers, reply};
use crate::side::respond;
use crate::telemetry::access::{AccessEntry, AccessEvent};
use crate::telemetry::{Direction, RequestLog, emit};
use crate::world::Net;

/// Answers a request of the app: from an endpoint of the cluster that it dialled or that a route
/// leads to, or with the reason why none could.
pub(super) async fn handle<N: Net>(
    outbound: Rc<Outbound<N>>,
    connection: Connection,
    mut request: Request<Incoming>,
    client: Client,
) -> Response<ResponseBody<N>> {
    let table = outbound.side.table.load_full();
    let Some(dialled) = table.cluster_at(connection.original_dst) else {
        return gone(&outbound, &table, &connection, &request);
    };
    let state = RequestState::route(&outbound, &table, dialled, connection, &request);
    let end = client.end.clone();
    let metrics = &state.route.cluster.metrics;
    let log = metrics.request_log(state.number).with_access(state.access(&request));
    // Only another sidecar may say what a request was.
    bridge::take_marker(request.headers_mut());
    let upgrade = UpgradeRequest::of(&mut request);
    let version = request.version();
    let mut leaves_body = !request.body().is_end_stream();
    let admitted = state.limit().and_then(|permit| Ok((permit, state.forward(request, &log)?)));
    let result = match admitted {
        Ok((permit, request)) => {
            let (upload, sender) = (request.body().upload(), (client.interim, client.end));
            let answered = state.attempt(permit, request, upgrade.is_for_a_tunnel(), sender, &log).await;
            leaves_body = upload.is_given_up();
            answered
        }
        Err(error) => Err(error),
    };
    if let Some(end) = end.as_ref().filter(|_| leaves_body) {
        end.leave_body();
    }
    let mut response = result.unwrap_or_else(|error| state.failed(error, end.as_ref(), &log));
    state.route.change_answer(&mut response);
    respond(response, upgrade, version, &client.tunnel, &table.snapshot.timeouts, (metrics, log))
}

/// The answer if a reload took the cluster away that was dialled. A new connection is looked up
/// anew, so this one ends.
fn gone<N: Net>(
    outbound: &Outbound<N>,
    table: &Table,
    connection: &Connection,
    request: &Request<Incoming>,
) -> Response<ResponseBody<N>> {
    outbound.side.metrics.refused(Kind::NoRoute);
    let is_grpc = grpc::is_grpc(request.headers());
    let mut response = reply::failure(&Error::new(Kind::NoRoute), &table.snapshot.instance, is_grpc);
    if request.version() != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(access) = outbound.side.access(AccessEvent::Request, connection) {
        access.describe(request).refused(Kind::NoRoute, response.status(), response.body().len());
    }
    response.map(ResponseBody::own)
}

/// The state of a request that is being handled: what its phases know.
struct RequestState<'t, N: Net> {
    outbound: &'t Rc<Outbound<N>>,
    table: &'t Arc<Table>,
    connection: Connection,
    route: ResolvedRoute<'t>,
    /// Which request of its worker it is.
    number: u64,
    is_grpc: bool,
    was_http1: bool,
    /// What its endpoint depends on.
    context: PickContext,
    /// When the caller gives up, if it said so.
    deadline: Option<Instant>,
}

impl<'t, N: Net> RequestState<'t, N> {
    /// Finds where the routes of the cluster that was dialled send the request.
    fn route(
        outbound: &'t Rc<Outbound<N>>,
        table: &'t Arc<Table>,
        dialled: &'t Arc<Cluster>,
        connection: Connection,
        request: &Request<Incoming>,
    ) -> Self {
        let (is_grpc, was_http1) = (grpc::is_grpc(request.headers()), request.version() != Version::HTTP_2);
        let route = ResolvedRoute::of(table, dialled, request, &mut *outbound.side.rng.borrow_mut());
        let context = route.cluster.context(Some(request.headers()), connection.peer.ip());
        let deadline = deadline::of(request.headers(), is_grpc);
        let number = outbound.number();
        let (cluster, peer) = (&route.cluster.config.name, connection.peer);
        emit!(RequestBegins { request: number, cluster, peer });
        RequestState { outbound, table, connection, route, number, is_grpc, was_http1, context, deadline }
    }

    /// Begins the request's line in the access log, if there is to be one.
    fn access(&self, request: &Request<Incoming>) -> Option<AccessEntry> {
        let access = self.outbound.side.access(AccessEvent::Request, &self.connection)?;
        let route = self.route.route.map(|route| route.config.name.as_str());
        Some(access.describe(request).routed(&self.route.cluster.config, route))
    }

    /// Takes a permit of the sidecar and of the cluster.
    fn limit(&self) -> Result<RequestPermit, Error> {
        let all = self.table.load.request(Direction::Outbound, &self.table.snapshot.limits);
        let all = all.map_err(Error::new)?;
        Ok(RequestPermit::new(all, Some(self.route.cluster.take(Instant::now())?)))
    }

    /// Makes the request fit for the next hop.
    fn forward(
        &self,
        request: Request<Incoming>,
        log: &RequestLog<'_>,
    ) -> Result<Request<RequestBody>, Error> {
        let (snapshot, dst) = (&self.table.snapshot, self.connection.original_dst);
        forward::check_request(&request, self.connection.protocol)?;
        let mut request = forward::request(request, dst, &mut *self.outbound.side.rng.borrow_mut());
        log.identify(request.headers());
        headers::forwarded(snapshot.forwarded, self.connection.peer.ip(), request.headers_mut());
        self.route.change(&mut request)?;
        header_limits::request(&request, snapshot.http1)?;
        Ok(request)
    }

    /// Gets the answer: the route's own, an injected fault, or that of an endpoint.
    async fn attempt(
        &self,
        permit: RequestPermit,
        mut request: Request<RequestBody>,
        is_for_a_tunnel: bool,
        (interim, client): (Option<InterimSender>, Option<ClientEnd>),
        log: &RequestLog<'_>,
    ) -> Result<Response<ResponseBody<N>>, Error> {
        let (dst, cluster) = (self.connection.original_dst, self.route.cluster);
        let (snapshot, instance) = (&self.table.snapshot, self.table.snapshot.instance.as_str());
        log.receives(|| request.body().upload().counter());
        if self.route.ends_here() {
            return self.route.answer(&request, dst, instance, self.is_grpc);
        }
        let now = Instant::now();
        let timer = RequestTimer::new(now, snapshot.timeouts.stream_idle, request.body().upload())
            .until(self.route.timeouts.request.map(|limit| now + limit), Kind::RequestTimeout)
            .until(self.deadline, Kind::Deadline);
        if let Some(failure) = self.route.inject_fault(self.outbound, &timer, instance, self.is_grpc).await? {
            return Ok(failure.map(ResponseBody::own));
        }
        if !is_for_a_tunnel {
            let (connection, was_http1) = (&self.connection, self.was_http1);
            mirror::copy(self.outbound, self.table, &self.route, connection, was_http1, &request);
        }
        if !self.was_http1 || cluster.bridge && !is_for_a_tunnel {
            bridge::to_http2(&mut request, dst, self.was_http1);
        }
        let call = Call {
            log,
            number: self.number,
            context: self.context,
            permit: Rc::new(permit),
            limits: PoolLimits::of(snapshot).within(cluster.config.limits, cluster.bridge),
            timer,
            is_grpc: self.is_grpc,
            deadline: self.deadline,
            retry: self.route.retry.clone(),
            attempt_timeouts: self.route.timeouts.attempt_timeouts,
            interim,
            client,
        };
        exchange(self.outbound, cluster, &call, request).await
    }

    /// Logs a failure, and answers with its reason.
    fn failed(
        &self,
        error: Error,
        client: Option<&ClientEnd>,
        log: &RequestLog<'_>,
    ) -> Response<ResponseBody<N>> {
        if let Some(withheld) = self.outbound.side.failures.admit(error.kind.label(), Instant::now()) {
            tracing::warn!(cluster = %self.route.cluster.config.name, %error, withheld, "request failed");
        }
        log.failed(error.kind);
        let response = reply::failure(&error, &self.table.snapshot.instance, self.is_grpc);
        if !reply::is_heard(&response, error.kind, self.connection.protocol, client) {
            log.unheard();
        }
        response.map(ResponseBody::own)
    }
}
