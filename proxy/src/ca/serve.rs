//! The authority on the network: HTTP/1 under TLS, JSON in and out.
//!
//! | request | of whom | answer |
//! |---|---|---|
//! | `POST /v1/certificates` | a workload | a certificate for it, and the bundle |
//! | `GET /v1/bundle` | anybody | whom to trust |
//! | `POST /v1/roots` | the operator | the bundle with a new root |
//! | `POST /v1/revocations` | the operator | how many certificates were revoked |
//! | `GET /v1/certificates?after=<serial>` | the operator | the next certificates that are valid |
//! | `GET /ready` | anybody | whether it can issue |
//!
//! A workload shows its certificate in the handshake, or `Authorization: Bearer` and its bootstrap
//! token. The operator shows a token.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};

use super::authority::{Authority, AuthorityError, Proof};
use super::token::{Bearer, TokenError};
use super::wire::{CertificateRequest, Problem, Revocation, Revoked};
use crate::config::defaults::{ACCEPT_REST, CA_BODY, CA_BODY_TIME, CA_CONNECTIONS, HANDSHAKE};
use crate::error::{BoxError, Error};
use crate::http::headers::bearer;
use crate::http::{reply, serve};
use crate::limit::slots::ConnectionSlots;
use crate::telemetry::Throttle;
use crate::tls::{self, Shown};
use crate::world::{Listener as _, Net, Transport};

/// Longest wait between two looks whether something is due.
const TEND: Duration = Duration::from_secs(60);

/// Answers on `listener`, and lets roots follow each other, for ever.
pub async fn run<N: Net>(net: N, listener: N::Listener, authority: Authority) {
    let authority = Rc::new(authority);
    tokio::join!(tend(&authority), accept(net, listener, &authority));
}

async fn tend(authority: &Authority) {
    let wait = TEND.min(authority.certificate_lifetime() / 20);
    loop {
        authority.probe().await;
        if let Err(error) = authority.tend().await {
            tracing::error!(%error, "the roots stay as they are");
        }
        sleep(wait).await;
    }
}

/// The connections that are open. Those of clients that have proved nothing have places of their
/// own, so that they cannot keep the others out; and of each kind the oldest gives way.
#[derive(Default)]
struct Open {
    handshakes: ConnectionSlots,
    anonymous: ConnectionSlots,
    known: ConnectionSlots,
    /// Of lines about those who have proved nothing: who wants to could fill the log with them.
    strangers: Rc<Throttle>,
}

async fn accept<N: Net>(net: N, mut listener: N::Listener, authority: &Rc<Authority>) {
    let open = Rc::new(RefCell::new(Open::default()));
    loop {
        match listener.accept().await {
            Ok((io, peer)) => {
                let (authority, open) = (authority.clone(), open.clone());
                let slot = open.borrow_mut().handshakes.take(CA_CONNECTIONS);
                let strangers = open.borrow().strangers.clone();
                net.spawn("ca", async move {
                    let secured = tokio::select! {
                        biased;
                        _ = slot => {
                            if let Some(withheld) = strangers.admit("gives way", Instant::now()) {
                                tracing::warn!(%peer, withheld, "too many handshakes: it gives way");
                            }
                            return;
                        }
                        secured = timeout(HANDSHAKE, secure(&authority, io, peer)) => secured,
                    };
                    let (kind, error) = match secured {
                        Ok(Ok((io, client))) => return carry(&authority, &open, io, client).await,
                        Ok(Err(error)) => ("handshake", error.to_string()),
                        Err(_) => ("late handshake", "it took too long".to_owned()),
                    };
                    if let Some(withheld) = strangers.admit(kind, Instant::now()) {
                        tracing::warn!(%peer, error, withheld, "no handshake");
                    }
                });
            }
            Err(_) => sleep(ACCEPT_REST).await,
        }
    }
}

/// Who a connection is of.
struct Client {
    address: SocketAddr,
    /// The certificate that it has shown.
    shown: Option<Shown>,
    /// By which bundle that was judged.
    version: u64,
}

async fn secure<I: AsyncRead + AsyncWrite + Unpin>(
    authority: &Authority,
    io: I,
    address: SocketAddr,
) -> Result<(tls::Stream<I>, Client), BoxError> {
    let (context, version) = authority.server().await?;
    let (io, shown) = tls::accept_anybody(&context, io).await?;
    Ok((io, Client { address, shown, version }))
}

/// Answers on a connection until it ends, or gives way.
async fn carry<I>(authority: &Authority, open: &RefCell<Open>, io: tls::Stream<I>, client: Client)
where
    I: AsyncRead + AsyncWrite + Transport + Send + Unpin + 'static,
{
    let slot = {
        let mut open = open.borrow_mut();
        let slots = if client.shown.is_some() { &mut open.known } else { &mut open.anonymous };
        slots.take(CA_CONNECTIONS)
    };
    let refuse = |error: &Error| reply::failure(error, "ca", false);
    let (client, strangers) = (&client, &open.borrow().strangers.clone());
    let answering = serve::briefly(io, refuse, |request| async move {
        answer(authority, client, request).await.unwrap_or_else(|error| problem(&error, client, strangers))
    });
    tokio::select! {
        biased;
        _ = slot => tracing::warn!(peer = %client.address, "too many connections: it gives way"),
        () = answering => {}
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(
    authority: &Authority,
    client: &Client,
    request: Request<Incoming>,
) -> Result<Answer, AuthorityError> {
    let (head, body) = request.into_parts();
    match (head.method.as_str(), head.uri.path()) {
        ("POST", "/v1/certificates") => {
            let proof = proof(client, &head.headers)?;
            // Who proves nothing need not send the rest.
            authority.workload(&proof).await?;
            let asked: CertificateRequest = read(body).await?;
            Ok(json(StatusCode::OK, &authority.issue(&proof, &asked.csr).await?))
        }
        ("GET" | "HEAD", "/v1/bundle") => {
            let (tag, bundle) = authority.bundle_unless(|tag| is_known(&head.headers, tag)).await;
            let mut response = match bundle {
                None => empty(StatusCode::NOT_MODIFIED),
                Some(bundle) => json(StatusCode::OK, &bundle),
            };
            response.headers_mut().insert(ETAG, HeaderValue::from_str(&tag).expect("digits"));
            Ok(response)
        }
        ("POST", "/v1/roots") => {
            operator(authority, &head.headers).await?;
            Ok(json(StatusCode::OK, &authority.announce().await?))
        }
        ("POST", "/v1/revocations") => {
            operator(authority, &head.headers).await?;
            let what: Revocation = read(body).await?;
            Ok(json(StatusCode::OK, &Revoked { revoked: authority.revoke(&what).await? }))
        }
        ("GET" | "HEAD", "/v1/certificates") => {
            operator(authority, &head.headers).await?;
            let after = head.uri.query().and_then(|query| query.strip_prefix("after="));
            Ok(json(StatusCode::OK, &authority.issued(after.unwrap_or_default()).await))
        }
        ("GET" | "HEAD", "/ready") => {
            authority.ready().await?;
            Ok(json(StatusCode::OK, &serde_json::json!({ "ready": true })))
        }
        (_, "/v1/certificates") => Ok(otherwise("GET, HEAD, POST")),
        (_, "/v1/bundle" | "/ready") => Ok(otherwise("GET, HEAD")),
        (_, "/v1/roots" | "/v1/revocations") => Ok(otherwise("POST")),
        _ => Ok(said(StatusCode::NOT_FOUND, "there is no such page")),
    }
}

/// What is asked for with a method that it does not know.
fn otherwise(methods: &'static str) -> Answer {
    let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "this is not how it is asked for");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Whether the client knows what has this tag (RFC 9110 13.1.2, where a weak tag is as good).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = lists.flat_map(|list| list.split(',')).map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// With what a workload proves who it is.
fn proof(client: &Client, headers: &HeaderMap) -> Result<Proof, AuthorityError> {
    match &client.shown {
        Some(shown) => Ok(Proof::Certificate { shown: shown.clone(), version: client.version }),
        None => Ok(Proof::Token(token(headers)?.to_owned())),
    }
}

async fn operator(authority: &Authority, headers: &HeaderMap) -> Result<(), AuthorityError> {
    match authority.bearer(token(headers)?).await? {
        Bearer::Operator => Ok(()),
        Bearer::Workload(id) => Err(AuthorityError::Forbidden(format!("{id} is no operator"))),
    }
}

fn token(headers: &HeaderMap) -> Result<&str, AuthorityError> {
    let token = bearer(headers).and_then(|token| std::str::from_utf8(token).ok());
    Ok(token.ok_or(TokenError::Missing)?)
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, AuthorityError> {
    let reading = timeout(CA_BODY_TIME, Limited::new(body, CA_BODY).collect()).await;
    let whole =
        reading.map_err(|_| AuthorityError::Late)?.map_err(|error| match error.is::<LengthLimitError>() {
            true => AuthorityError::TooLarge,
            false => AuthorityError::Malformed(error.to_string()),
        });
    let whole = whole?.to_bytes();
    serde_json::from_slice(&whole).map_err(|error| {
        // What is in quotes is the client's, and may be a secret in the wrong place.
        let message = error.to_string();
        let what = message.split('"').next().unwrap_or_default().trim_end();
        let place = format!("line {} column {}", error.line(), error.column());
        let what = what.strip_suffix(&format!(" at {place}")).unwrap_or(what);
        AuthorityError::Malformed(format!("the body makes no sense at {place}: {what}"))
    })
}

/// The status of a refusal, and of which kind it is for the log.
fn kind(error: &AuthorityError) -> (StatusCode, &'static str) {
    match error {
        AuthorityError::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed"),
        AuthorityError::Token(TokenError::Missing) => (StatusCode::UNAUTHORIZED, "no token"),
        AuthorityError::Token(TokenError::Foreign) => (StatusCode::UNAUTHORIZED, "foreign token"),
        AuthorityError::Token(TokenError::Future) => (StatusCode::UNAUTHORIZED, "token of the future"),
        AuthorityError::Token(TokenError::Expired) => (StatusCode::UNAUTHORIZED, "expired token"),
        AuthorityError::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        AuthorityError::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
        AuthorityError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        AuthorityError::Late => (StatusCode::REQUEST_TIMEOUT, "late"),
        AuthorityError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too large"),
        AuthorityError::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "too many"),
        AuthorityError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    }
}

fn problem(error: &AuthorityError, client: &Client, strangers: &Throttle) -> Answer {
    let (status, kind) = kind(error);
    let (peer, id) = (client.address, client.shown.as_ref().map(|shown| tracing::field::display(&shown.id)));
    let withheld = if id.is_some() { Some(0) } else { strangers.admit(kind, Instant::now()) };
    if let Some(withheld) = withheld {
        tracing::warn!(%error, %peer, id, status = status.as_u16(), withheld, "refused");
    }
    let (words, after) = match error {
        AuthorityError::Unavailable(why) => (format!("not now: {why}"), Some(1)),
        AuthorityError::TooMany { why, after } => (why.clone(), Some(after.as_secs().max(1))),
        other => (other.to_string(), None),
    };
    let mut response = said(status, &words);
    if let Some(seconds) = after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn said(status: StatusCode, error: &str) -> Answer {
    json(status, &Problem { error: error.into() })
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut text = serde_json::to_vec(value).expect("texts and numbers are JSON");
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults::LOG_THROTTLE;

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_for_one_reason_all_the_time_hides_no_other() {
        let log = Throttle::default();
        let admit = |error: AuthorityError| log.admit(kind(&error).1, Instant::now());
        assert_eq!(admit(TokenError::Missing.into()), Some(0));
        assert_eq!(admit(TokenError::Missing.into()), None);
        assert_eq!(admit(TokenError::Foreign.into()), Some(0));
        assert_eq!(admit(AuthorityError::Unauthenticated("they were revoked".into())), Some(0));
        sleep(LOG_THROTTLE).await;
        assert_eq!(admit(TokenError::Missing.into()), Some(1));
    }
}
