//! The phase `authorize`: whether a request may go to the app, and whether an opaque connection
//! may.
//!
//! In Istio's order: the path is made comparable, the token is verified and gives way to what the
//! app shall get of it, external authorizers are asked, and then policies decide.

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::time::Instant;

use super::Inbound;
use super::client_cert::ClientCert;
use crate::audit::AuditEntry;
use crate::authz::external::{Answer, Question};
use crate::authz::jwt::{Shown, ShownToken, TokenError};
use crate::authz::{Authorization, Decision, Facts, RequestFacts, RuleName, Ruling, path, remote_address};
use crate::balance::Table;
use crate::config::Protocol;
use crate::connection::Connection;
use crate::error::{Error, Kind};
use crate::host::comparable;
use crate::http::headers;
use crate::telemetry::{AuthorizerOutcome, Decided, RequestLog};
use crate::world::Net;

/// Why a request does not go on.
pub(super) enum Refusal {
    /// A failure, which the table of errors answers.
    Failed(Error),
    /// The same, with another status than the table says.
    FailedAs(Error, StatusCode),
    /// An external authorizer has answered it.
    Answered(Box<Response<Bytes>>),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Failed(error)
    }
}

impl From<Ruling> for Decided {
    fn from(ruling: Ruling) -> Self {
        let rule = ruling.rule.map(|RuleName { policy, rule }| (policy, rule));
        Decided { allowed: ruling.allowed, rule }
    }
}

/// Whether a request may go to the app, which gets the request as it was decided about.
pub(super) async fn request<N: Net, B>(
    inbound: &Inbound<N>,
    authorization: &Authorization,
    (connection, certified): (&Connection, Option<&ClientCert>),
    request: &mut Request<B>,
    (log, audit): (&RequestLog<'_>, &mut Option<AuditEntry>),
) -> Result<(), Refusal> {
    if authorization.is_open() {
        return Ok(());
    }
    path::normalize_uri(request.uri_mut(), authorization.config.path_normalization)
        .map_err(|wrong| Error { cause: Some(wrong.into()), ..Error::new(Kind::Malformed) })?;
    // From here on, what the app gets is what is decided about, and what is added stays.
    headers::remove_named(request.headers_mut());
    if let Some(client) = certified {
        client.tell(request.headers_mut());
    }
    let shown = token(inbound, authorization, request)?;
    if let (Some(audit), Some(shown)) = (&mut *audit, &shown) {
        audit.record().principal.clone_from(&shown.token.principal);
    }
    let host = host(request);
    let asked =
        authorization.policies.authorizer(&facts(authorization, connection, request, &host, shown.as_ref()));
    let said = match asked {
        Some((authorizer, rule)) => {
            // Its client may go away meanwhile.
            if let Some(audit) = audit {
                audit.record().describe(request);
            }
            // Boxed: most requests have no use for it.
            Box::pin(ask(inbound, (authorization, authorizer, rule), request, &host, log)).await?
        }
        None => Vec::new(),
    };
    for authorizer in &authorization.config.authorizers {
        for name in &authorizer.headers_to_upstream_on_allow {
            // What the client says in its place is no authorizer's word, whether or not one was
            // asked.
            headers::remove_spellings(request.headers_mut(), name);
        }
    }
    request.headers_mut().extend(said);
    let decision = authorization.decide(&facts(authorization, connection, request, &host, shown.as_ref()));
    note_untold(inbound, connection, &decision, audit);
    let allowed = decision.enforced.allowed;
    log.decide(decision.enforced.into());
    if allowed { Ok(()) } else { Err(Error::new(Kind::Denied).into()) }
}

/// Notes what of a decision nobody feels: that policies in dry-run would have decided otherwise,
/// and that an audit policy matches.
fn note_untold<N: Net>(
    inbound: &Inbound<N>,
    connection: &Connection,
    decision: &Decision,
    audit: &mut Option<AuditEntry>,
) {
    if let Some(audit) = audit {
        let policy = |rule: &RuleName| rule.policy.clone();
        if let Some(proposed) = &decision.proposed {
            audit.record().propose(proposed.allowed, proposed.rule.as_ref().map(policy));
        }
        audit.record().audit_policy = decision.audited.as_ref().map(policy);
    }
    if let Some(proposed) = &decision.proposed
        && let Some(withheld) = inbound.side.failures.admit("dry_run", Instant::now())
    {
        let (peer, dst) = (connection.peer, connection.original_dst);
        let (would_allow, rule) = (proposed.allowed, proposed.rule.as_ref().map(ToString::to_string));
        tracing::info!(%peer, %dst, would_allow, rule, withheld, "policies in dry-run would decide otherwise");
    }
}

/// Asks an external authorizer, as the rule of a policy says, for the headers that the app shall
/// get of it.
async fn ask<N: Net, B>(
    inbound: &Inbound<N>,
    (authorization, position, rule): (&Authorization, usize, RuleName),
    request: &Request<B>,
    host: &str,
    log: &RequestLog<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let (authorizer, metrics) =
        (&authorization.config.authorizers[position], &authorization.authorizers[position]);
    let question = Question {
        method: request.method(),
        host,
        path: request.uri().path_and_query().map_or("/", PathAndQuery::as_str),
        headers: request.headers(),
    };
    let refused = |rule| Decided::from(Ruling { allowed: false, rule: Some(rule) });
    match inbound.authorizers.ask(&inbound.side.net, authorizer, question).await {
        Ok(Answer::Allow(headers)) => {
            metrics.asked(AuthorizerOutcome::Allowed);
            Ok(headers)
        }
        Ok(Answer::Deny(response)) => {
            metrics.asked(AuthorizerOutcome::Denied);
            authorization.metrics.denied.inc();
            log.decide(refused(rule));
            Err(Refusal::Answered(response))
        }
        Err(why) if authorizer.fail_open => {
            metrics.asked(AuthorizerOutcome::FailedOpen);
            if let Some(withheld) = inbound.side.failures.admit("failed_open", Instant::now()) {
                tracing::warn!(authorizer = %authorizer.name, why, withheld, "passed without its word");
            }
            Ok(Vec::new())
        }
        Err(why) => {
            metrics.asked(AuthorizerOutcome::Failed);
            authorization.metrics.denied.inc();
            log.decide(refused(rule));
            let error = Error { cause: Some(why.into()), ..Error::new(Kind::Authorizer) };
            Err(Refusal::FailedAs(error, authorizer.status_on_error))
        }
    }
}

/// The request's token, which is taken out of it unless it is to be forwarded.
fn token<N: Net, B>(
    inbound: &Inbound<N>,
    authorization: &Authorization,
    request: &mut Request<B>,
) -> Result<Option<ShownToken>, Error> {
    let issuers = &authorization.issuers;
    if issuers.is_empty() {
        return Ok(None);
    }
    let asked = Shown { headers: request.headers(), uri: request.uri() };
    let shown = issuers.token(asked, &mut inbound.tokens.borrow_mut(), inbound.wall.now());
    let count = |provider: &str, result| inbound.side.all_metrics.token(provider, result).inc();
    let shown = match shown {
        Ok(shown) => shown,
        Err(why) => {
            count(issuers.named_by(asked), why.label());
            return Err(refused(why));
        }
    };
    if let Some(shown) = &shown {
        count(issuers.name_of(shown), if shown.was_known { "remembered" } else { "verified" });
    }
    let mut uri = std::mem::take(request.uri_mut());
    issuers.prepare(shown.as_ref(), request.headers_mut(), &mut uri);
    *request.uri_mut() = uri;
    Ok(shown)
}

fn refused(why: TokenError) -> Error {
    Error { cause: Some(why.into()), ..Error::new(Kind::Token) }
}

/// The host that a request is for, made comparable.
fn host<B>(request: &Request<B>) -> String {
    let authority = request.uri().authority().map(Authority::as_str);
    let header = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
    comparable(authority.or_else(header).unwrap_or_default())
}

fn facts<'f, B>(
    authorization: &Authorization,
    connection: &'f Connection,
    request: &'f Request<B>,
    host: &'f str,
    shown: Option<&'f ShownToken>,
) -> Facts<'f> {
    let facts = Facts::of(connection);
    let hops = authorization.config.trusted_hops;
    let request = RequestFacts {
        remote: remote_address(facts.source, request.headers(), hops),
        host,
        method: request.method().as_str(),
        path: request.uri().path(),
        headers: request.headers(),
        token: shown.map(|shown| &*shown.token),
    };
    Facts { request: Some(request), ..facts }
}

/// Whether an opaque connection may go to the app. What is denied is counted and logged.
pub(super) fn opaque<N: Net>(
    inbound: &Inbound<N>,
    table: &Table,
    connection: &Connection,
    audit: &mut Option<AuditEntry>,
) -> Decided {
    let authorization = &table.authorization;
    let mut cause = may_hide_requests(table, connection);
    if authorization.is_open() && cause.is_none() {
        return Decided { allowed: true, rule: None };
    }
    let decision = authorization.decide(&Facts::of(connection));
    note_untold(inbound, connection, &decision, audit);
    let mut ruling = decision.enforced;
    cause = cause.filter(|_| ruling.allowed);
    if cause.is_some() {
        ruling = Ruling { allowed: false, rule: None };
    }
    if !ruling.allowed {
        let side = &inbound.side;
        side.metrics.refused(Kind::Denied);
        if let Some(withheld) = side.failures.admit(Kind::Denied.label(), Instant::now()) {
            let (peer, dst, identity) = (connection.peer, connection.original_dst, &connection.peer_identity);
            let (policy, rule) =
                (ruling.rule.as_ref().map(|rule| &*rule.policy), ruling.rule.as_ref().map(|r| r.rule));
            tracing::warn!(%peer, %dst, ?identity, policy, rule, cause, withheld, "connection denied");
        }
    }
    ruling.into()
}

/// Whether it could go there, without a count: before it is known what is spoken, and when other
/// policies have come into force.
pub(super) fn may_be_opaque(table: &Table, connection: &Connection) -> bool {
    let authorization = &table.authorization;
    may_hide_requests(table, connection).is_none()
        && (authorization.is_open() || authorization.policies.decide(&Facts::of(connection)).enforced.allowed)
}

/// Why a connection that is not recognised as HTTP is denied although no policy does, if it is. It
/// could carry requests all the same, written so that an app understands them and the sidecar does
/// not, and with them headers that the app believes.
fn may_hide_requests(table: &Table, connection: &Connection) -> Option<&'static str> {
    match table.snapshot.inbound_protocol(connection.original_dst.port()) {
        Protocol::Tcp => None,
        // The port speaks whatever it may be.
        Protocol::Detect => (!table.authorization.issuers.is_empty()).then_some(
            "it is not recognised as HTTP where tokens are asked for: if its port speaks something else, \
             declare `protocol = \"tcp\"` for it",
        ),
        Protocol::Http => Some("it began before its port was declared to speak HTTP"),
    }
}
