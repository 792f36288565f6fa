//! The steps of a request that its route asks for. A request whose cluster has no routes pays one
//! look at an `Option`.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::sleep;

use super::Outbound;
use crate::balance::{Cluster, Table};
use crate::config::route::Action;
use crate::config::{RequestTimeouts, Retry};
use crate::endpoint::ResponseBody;
use crate::error::{Error, Kind};
use crate::http::reply;
use crate::http::timer::RequestTimer;
use crate::route::Route;
use crate::world::Net;

/// Where a request goes and how.
pub(super) struct ResolvedRoute<'t> {
    /// The cluster that gets it, or that was dialled, if no cluster does.
    pub(super) cluster: &'t Arc<Cluster>,
    /// Its time limits.
    pub(super) timeouts: &'t RequestTimeouts,
    /// Its retries after a failure.
    pub(super) retry: &'t Arc<Retry>,
    /// The route that matched.
    pub(super) route: Option<&'t Route>,
}

impl<'t> ResolvedRoute<'t> {
    /// Of a request to the addresses of `dialled`.
    pub(super) fn of<B>(
        table: &'t Table,
        dialled: &'t Arc<Cluster>,
        request: &Request<B>,
        rng: &mut impl rand::Rng,
    ) -> Self {
        let route = dialled.routes.as_ref().and_then(|routes| routes.find(request));
        if let Some(route) = route {
            route.metrics.requests.inc();
            if let Some((position, target)) = route.choose(rng) {
                let cluster = &table.clusters[position];
                return ResolvedRoute {
                    cluster,
                    timeouts: &target.timeouts,
                    retry: &target.retry,
                    route: Some(route),
                };
            }
        }
        let config = &dialled.config;
        ResolvedRoute { cluster: dialled, timeouts: &config.timeouts, retry: &config.retry, route }
    }

    /// Makes a request in the form of HTTP/1 what the route says.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if its path becomes too long.
    pub(super) fn change<B>(&self, request: &mut Request<B>) -> Result<(), Error> {
        let Some(route) = self.route else { return Ok(()) };
        if let Some(forward) = route.forward() {
            forward.rewrite.apply(request).map_err(too_long)?;
        }
        route.config.request_headers.apply(request.headers_mut());
        Ok(())
    }

    /// Whether no cluster gets the request: its route answers, or it has none and its cluster only
    /// routes.
    pub(super) fn ends_here(&self) -> bool {
        match self.route {
            Some(route) => route.forward().is_none(),
            None => self.cluster.config.routes_only,
        }
    }

    /// The answer if it ends here.
    ///
    /// # Errors
    /// [`Kind::NoRoute`].
    pub(super) fn answer<N: Net, B>(
        &self,
        request: &Request<B>,
        dst: SocketAddr,
        instance: &str,
        is_grpc: bool,
    ) -> Result<Response<ResponseBody<N>>, Error> {
        let mut response = match self.route.map(|route| &route.config.action) {
            Some(Action::Redirect(redirect)) => redirect.answer(request, dst).map_err(too_long)?,
            Some(Action::Respond(respond)) => respond.answer(is_grpc),
            Some(Action::Forward(_)) | None => return Err(Error::new(Kind::NoRoute)),
        };
        // Envoy's flag of a direct response.
        reply::made_here(&mut response, instance, "DR");
        Ok(response.map(ResponseBody::own))
    }

    /// Lets the request fail, if the route says so and chance wants it: the answer, or none if it
    /// goes on.
    ///
    /// # Errors
    /// If the request's time is over before the delay is.
    pub(super) async fn inject_fault<N: Net>(
        &self,
        outbound: &Outbound<N>,
        timer: &RequestTimer,
        instance: &str,
        is_grpc: bool,
    ) -> Result<Option<Response<Bytes>>, Error> {
        let Some(route) = self.route else { return Ok(None) };
        let Some(forward) = route.forward() else { return Ok(None) };
        let fault = forward.fault.draw(&mut *outbound.side.rng.borrow_mut());
        if let Some(delay) = fault.delay {
            route.metrics.delays.inc();
            // Boxed, because every request keeps room for the largest thing that it may do.
            let mut delayed = Box::pin(async {
                sleep(delay).await;
                Ok(())
            });
            timer.wait(delayed.as_mut()).await?;
        }
        Ok(fault.abort.map(|status| {
            route.metrics.aborts.inc();
            reply::on_purpose(status, instance, is_grpc)
        }))
    }

    /// Makes whatever is answered what the route says.
    pub(super) fn change_answer<B>(&self, response: &mut Response<B>) {
        if let Some(route) = self.route {
            route.config.response_headers.apply(response.headers_mut());
        }
    }
}

fn too_long(cause: crate::route::rewrite::TooLong) -> Error {
    Error { cause: Some(cause.into()), ..Error::new(Kind::Malformed) }
}
