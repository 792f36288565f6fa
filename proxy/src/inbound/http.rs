//! How an inbound request is handled.
//!
//! The phases are those of an outbound request ([`crate::outbound`]), without a choice: admit,
//! route (there is one app), authorize, limit, forward, attempt, respond, log.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::authorize::Refusal;
use super::caller::Caller;
use super::{Inbound, authorize};
use crate::audit::{AuditEntry, AuditEvent};
use crate::balance::Table;
use crate::config::AttemptTimeouts;
use crate::connection::Connection;
use crate::endpoint::pool::PoolLimits;
use crate::endpoint::{ActiveRequest, Call, PickContext, RequestGuard, RequestPermit, ResponseBody};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::closing::ClientEnd;
use crate::http::interim::InterimSender;
use crate::http::serve::Client;
use crate::http::timer::RequestTimer;
use crate::http::tunnel::UpgradeRequest;
use crate::http::{RequestBody, bridge, deadline, forward, header_limits, reply};
use crate::limit::client::share_of;
use crate::mutant::Mutant;
use crate::retry::{AttemptOutcome, Attempts, condition};
use crate::side::respond;
use crate::telemetry::access::AccessEvent;
use crate::telemetry::{Direction, RequestLog, SingleEndpointMetrics};
use crate::world::Net;

/// Answers a request for the local app.
pub(super) async fn handle<N: Net>(
    inbound: Rc<Inbound<N>>,
    connection: Connection,
    caller: Rc<Caller>,
    mut request: Request<Incoming>,
    client: Client,
) -> Response<ResponseBody<N>> {
    let table = inbound.side.table.load_full();
    let app = inbound.app(&table.snapshot.service);
    let audit = inbound.audited(AuditEvent::Request, &connection).await;
    let of_client = (connection, client.end.clone());
    let state = RequestState::route(&inbound, &table, &app, &caller, of_client, &request);
    let access = inbound.side.access(AccessEvent::Request, &state.connection);
    let log = app.cluster.request_log(0).with_access(access.map(|access| access.describe(&request)));
    let version = request.version();
    if let Some(client) = &caller.certified {
        client.remove_forged(request.headers_mut());
    }
    let restored = bridge::restore_marked(&mut request);
    let upgrade = UpgradeRequest::of(&mut request);
    let mut leaves_body = !request.body().is_end_stream();
    let authorized = state.authorize(&mut request, restored, &log, audit).await;
    let admitted = authorized.and_then(|restored| {
        let permit = state.limit()?;
        Ok((permit, state.forward(request, restored, &log)?))
    });
    let result = match admitted {
        Ok((permit, request)) => {
            let (upload, sender) = (request.body().upload(), (client.interim, client.end));
            let answered = state.attempt(permit, request, sender, &log).await;
            leaves_body = upload.is_given_up();
            answered.map_err(Refusal::Failed)
        }
        Err(refusal) => Err(refusal),
    };
    if let Some(end) = state.end.as_ref().filter(|_| leaves_body) {
        end.leave_body();
    }
    let response = result.unwrap_or_else(|refusal| state.refused(refusal, &log));
    respond(response, upgrade, version, &client.tunnel, &table.snapshot.timeouts, (&app.cluster, log))
}

/// The state of a request that is being handled: what its phases know.
struct RequestState<'t, N: Net> {
    inbound: &'t Inbound<N>,
    table: &'t Arc<Table>,
    app: &'t SingleEndpointMetrics,
    caller: &'t Caller,
    connection: Connection,
    is_grpc: bool,
    /// When the caller gives up, if it said so.
    deadline: Option<Instant>,
    /// How its client's connection ends, if that is HTTP/1.
    end: Option<ClientEnd>,
    /// The request's line in the audit log, until its answer takes it along.
    audit: RefCell<Option<AuditEntry>>,
}

impl<'t, N: Net> RequestState<'t, N> {
    /// There is one app, so there is nothing to choose.
    fn route(
        inbound: &'t Inbound<N>,
        table: &'t Arc<Table>,
        app: &'t SingleEndpointMetrics,
        caller: &'t Caller,
        (connection, end): (Connection, Option<ClientEnd>),
        request: &Request<Incoming>,
    ) -> Self {
        let is_grpc = grpc::is_grpc(request.headers());
        let deadline = deadline::of(request.headers(), is_grpc);
        let audit = RefCell::default();
        RequestState { inbound, table, app, caller, connection, is_grpc, deadline, end, audit }
    }

    /// Asks policies whether the request may go to the app, if it can. `restored` is what the
    /// bridge says of it.
    async fn authorize(
        &self,
        request: &mut Request<Incoming>,
        restored: Result<bool, Error>,
        log: &RequestLog<'_>,
        mut audit: Option<AuditEntry>,
    ) -> Result<bool, Refusal> {
        let (authorization, seen) = (&self.table.authorization, (log, &mut audit));
        let caller = (&self.connection, self.caller.certified.as_ref());
        // A policy would decide about what the app could read in another way.
        let possible = restored.and_then(|restored| {
            forward::check_request(request, self.connection.protocol)?;
            self.check_connect(request)?;
            Ok(restored)
        });
        let authorized = match possible {
            Ok(restored) => {
                let asked = authorize::request(self.inbound, authorization, caller, request, seen).await;
                asked.map(|()| restored)
            }
            Err(error) => Err(error.into()),
        };
        if let Some(audit) = &mut audit {
            let record = audit.record();
            record.describe(request);
            let rule = log.decided().and_then(|decided| decided.rule.as_ref());
            record.decide(authorized.is_ok(), rule);
        }
        self.audit.replace(audit);
        authorized
    }

    /// Whether a request may open a tunnel by CONNECT: in it, requests could follow that nobody
    /// looks at, and some servers answer every method.
    fn check_connect(&self, request: &Request<Incoming>) -> Result<(), Error> {
        let port = self.connection.original_dst.port();
        if *request.method() != Method::CONNECT || self.table.snapshot.inbound_connect.contains(&port) {
            return Ok(());
        }
        let what = "CONNECT to this port, which [[inbound]] does not declare with `connect = true`";
        Err(Error { cause: Some(what.into()), ..Error::new(Kind::Unsupported) })
    }

    /// Takes a permit of the client's share, of the sidecar, and of the app.
    fn limit(&self) -> Result<RequestPermit, Error> {
        let (table, limits) = (self.table, &self.table.snapshot.limits);
        let of_client = self.caller.request(share_of(limits.requests, limits.client_share));
        let of_client = of_client.map_err(Error::new)?;
        let all = table.load.request(Direction::Inbound, limits).map_err(Error::new)?;
        let of_app = table.take_for_app(self.connection.original_dst.port(), &self.app.cluster)?;
        Ok(RequestPermit::new(all, of_app).of_client(of_client))
    }

    /// Makes the request fit for the app. `restored` says that it crossed a bridge, and has the
    /// form again that it had before.
    fn forward(
        &self,
        request: Request<Incoming>,
        restored: bool,
        log: &RequestLog<'_>,
    ) -> Result<Request<RequestBody>, Error> {
        let (dst, version) = (self.connection.original_dst, request.version());
        let mut request = forward::request(request, dst, &mut *self.inbound.side.rng.borrow_mut());
        log.identify(request.headers());
        if let Some(audit) = &mut *self.audit.borrow_mut() {
            audit.record().identify(request.headers());
        }
        if let Some(client) = &self.caller.certified {
            client.tell(request.headers_mut());
        }
        request.body().reserve(&self.table.authorization.vouched);
        header_limits::request(&request, self.table.snapshot.http1)?;
        if version == Version::HTTP_2 && !restored {
            bridge::to_http2(&mut request, dst, false);
        }
        Ok(request)
    }

    /// Gets the answer of the app.
    async fn attempt(
        &self,
        permit: RequestPermit,
        request: Request<RequestBody>,
        (interim, client): (Option<InterimSender>, Option<ClientEnd>),
        log: &RequestLog<'_>,
    ) -> Result<Response<ResponseBody<N>>, Error> {
        let now = Instant::now();
        let snapshot = &self.table.snapshot;
        log.receives(|| request.body().upload().counter());
        let limit = snapshot.inbound_request_timeout(self.connection.original_dst.port());
        let call = Call {
            log,
            number: 0,
            context: PickContext::default(),
            permit: Rc::new(permit),
            limits: PoolLimits::of(snapshot),
            timer: RequestTimer::new(now, snapshot.timeouts.stream_idle, request.body().upload())
                .until(limit.map(|limit| now + limit), Kind::RequestTimeout)
                .until(self.deadline, Kind::Deadline),
            is_grpc: self.is_grpc,
            deadline: self.deadline,
            retry: self.inbound.retry.clone(),
            attempt_timeouts: AttemptTimeouts::default(),
            interim,
            client,
        };
        call.answer(pin!(self.send(&call, request))).await
    }

    /// Sends the request to the app. The last failure is the caller's to count.
    async fn send(
        &self,
        call: &Call<'_>,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody<N>>, Error> {
        let (app, dst) = (self.app, self.connection.original_dst);
        let mut turn = None;
        if request.version() != Version::HTTP_2 {
            turn = self.caller.permit(call.limits.connect).await;
            if turn.is_none() {
                let cause =
                    "its client has as many requests at the app as one client may (limits.client_share)";
                return Err(Error::at(Kind::PoolFull, dst, cause));
            }
        }
        let target = dst.into();
        let mut attempts = Attempts::new(&call.retry, &mut request, false);
        loop {
            call.log.attempt(dst, Instant::now());
            let active = ActiveRequest::of(&app.endpoint);
            let sent = self.inbound.side.pool.send(&target, None, call, &app.endpoint, request).await;
            let (error, unsent) = match sent {
                Ok((response, lease)) => {
                    let audit = self.answered(Some(response.status()), None);
                    let held = RequestGuard::at_app(call.permit.clone(), active, turn, audit);
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
            // An answer that is no HTTP is one all the same: the app has had the request. A reset
            // is one, too.
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

    /// The request's line in the audit log, once it has an answer, or nobody waits for one.
    fn answered(&self, status: Option<StatusCode>, reason: Option<Kind>) -> Option<AuditEntry> {
        let mut audit = self.audit.borrow_mut().take()?;
        audit.record().status = status.map(|status| status.as_u16());
        reason.into_iter().for_each(|kind| audit.failed(kind));
        Some(audit)
    }

    /// Answers a request that gets no answer of the app.
    fn refused(&self, refusal: Refusal, log: &RequestLog<'_>) -> Response<ResponseBody<N>> {
        let reason = match &refusal {
            Refusal::Failed(error) | Refusal::FailedAs(error, _) => error.kind,
            Refusal::Answered(_) => Kind::Denied,
        };
        let response = self.answer(refusal, log);
        log.refused(reason);
        let protocol = self.connection.protocol;
        let is_heard = reply::is_heard(&response, reason, protocol, self.end.as_ref());
        if !is_heard {
            log.unheard();
        }
        drop(self.answered(is_heard.then(|| response.status()), Some(reason)));
        response
    }

    fn answer(&self, refusal: Refusal, log: &RequestLog<'_>) -> Response<ResponseBody<N>> {
        match refusal {
            Refusal::Failed(error) => self.failed(error, log),
            Refusal::FailedAs(error, status) => {
                let mut response = self.failed(error, log);
                if !self.is_grpc {
                    *response.status_mut() = status;
                }
                response
            }
            Refusal::Answered(response) => {
                let mut response = match self.is_grpc {
                    true => {
                        grpc::response(grpc::code_of(response.status()), "the external authorizer denies it")
                    }
                    false => *response,
                };
                reply::made_here(&mut response, &self.table.snapshot.instance, Kind::Denied.flag());
                response.map(ResponseBody::own)
            }
        }
    }

    /// Logs a failure, and answers with its reason.
    fn failed(&self, error: Error, log: &RequestLog<'_>) -> Response<ResponseBody<N>> {
        if let Some(withheld) = self.inbound.side.failures.admit(error.kind.label(), Instant::now()) {
            let rule = log.decided().and_then(|decided| decided.rule.as_ref());
            let (policy, rule) = (rule.map(|(policy, _)| &**policy), rule.map(|(_, rule)| rule));
            let peer = self.connection.peer;
            match error.kind {
                Kind::Denied => tracing::warn!(%error, %peer, policy, rule, withheld, "request denied"),
                _ => tracing::warn!(%error, withheld, "request failed"),
            }
        }
        log.failed(error.kind);
        reply::failure(&error, &self.table.snapshot.instance, self.is_grpc).map(ResponseBody::own)
    }
}
