//! What a line of the access log is made of.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use tokio::time::Instant;

use crate::config;
use crate::error::Kind;
use crate::spiffe_id::SpiffeId;
use crate::telemetry::request_log::Attempts;
use crate::telemetry::{Direction, trace_id, without_userinfo};

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessEvent {
    /// A request.
    Request,
    /// An opaque connection.
    Connection,
}

/// What is known of a request or an opaque connection.
#[derive(Debug)]
pub struct AccessRecord {
    pub(super) event: AccessEvent,
    pub(super) direction: Direction,
    pub(super) began: SystemTime,
    /// The client, and who it is, as its certificate proves.
    pub(super) source: SocketAddr,
    pub(super) identity: Option<SpiffeId>,
    /// Where it wanted to go.
    pub(super) destination: SocketAddr,
    pub(super) request: Option<RequestFacts>,
    pub(super) cluster: Option<Arc<config::Cluster>>,
    pub(super) route: Option<Box<str>>,
    /// Where it went last.
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) attempts: u32,
    /// From its beginning until the first attempt began, and the last.
    pub(super) first_attempt: Option<Duration>,
    pub(super) last_attempt: Option<Duration>,
    /// From its beginning until the head of the answer was there.
    pub(super) head: Option<Duration>,
    /// Until its end.
    pub(super) duration: Duration,
    pub(super) status: Option<StatusCode>,
    pub(super) grpc_status: Option<u16>,
    /// In the order of [`config::log_format::TextFormat::response_headers`].
    pub(super) response_headers: Vec<Option<HeaderValue>>,
    /// Why it failed, if it did.
    pub(super) kind: Option<Kind>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// What a request asks for. All of it shares the bytes of its head.
#[derive(Debug)]
pub(super) struct RequestFacts {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    host: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    /// In the order of the format's request headers.
    pub(super) headers: Vec<Option<HeaderValue>>,
}

impl RequestFacts {
    /// The host that was asked for, without user information.
    pub(super) fn host(&self) -> Option<Cow<'_, str>> {
        match (self.uri.authority(), &self.host) {
            (Some(authority), _) => Some(without_userinfo(authority.as_str()).into()),
            (None, Some(host)) => Some(match String::from_utf8_lossy(host.as_bytes()) {
                Cow::Borrowed(host) => without_userinfo(host).into(),
                Cow::Owned(host) => without_userinfo(&host).to_owned().into(),
            }),
            (None, None) => None,
        }
    }
}

impl AccessRecord {
    pub(super) fn new(
        event: AccessEvent,
        direction: Direction,
        (source, identity): (SocketAddr, Option<&SpiffeId>),
        destination: SocketAddr,
        began: SystemTime,
    ) -> Self {
        AccessRecord {
            event,
            direction,
            began,
            source,
            identity: identity.cloned(),
            destination,
            request: None,
            cluster: None,
            route: None,
            endpoint: None,
            attempts: 0,
            first_attempt: None,
            last_attempt: None,
            head: None,
            duration: Duration::ZERO,
            status: None,
            grpc_status: None,
            response_headers: Vec::new(),
            kind: None,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(super) fn describe<B>(&mut self, request: &Request<B>, headers: Vec<Option<HeaderValue>>) {
        self.request = Some(RequestFacts {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: request.headers().get(HOST).cloned(),
            traceparent: request.headers().get(HeaderName::from_static("traceparent")).cloned(),
            headers,
        });
    }

    /// Notes the status of a gRPC call, if these headers have one.
    pub(super) fn grpc_status(&mut self, headers: &HeaderMap) {
        let status = headers.get(HeaderName::from_static("grpc-status"));
        let status = status.and_then(|status| status.to_str().ok()?.parse().ok());
        self.grpc_status = status.or(self.grpc_status);
    }

    /// Notes the attempts of a request that began at `begun`.
    pub(super) fn tried(&mut self, attempts: &Attempts, begun: Instant) {
        let since = |at: Instant| at.saturating_duration_since(begun);
        self.attempts = attempts.count;
        self.first_attempt = attempts.first.map(since);
        self.last_attempt = attempts.last.map(|(at, _)| since(at));
        self.endpoint = attempts.last.map(|(_, endpoint)| endpoint).or(self.endpoint);
    }

    /// Whether it failed: it has a reason, or the answer says so.
    pub(super) fn has_failed(&self) -> bool {
        self.kind.is_some()
            || self.status.is_some_and(|status| status.is_server_error())
            || self.grpc_status.is_some_and(|status| status != 0)
    }

    pub(super) fn protocol(&self) -> Option<&'static str> {
        Some(match self.request.as_ref()?.version {
            Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        })
    }

    /// Why it failed, in the word of `proxy_errors_total`.
    pub(super) fn reason(&self) -> Option<&'static str> {
        self.kind.map(Kind::label)
    }

    /// The same as Envoy's flag.
    pub(super) fn flags(&self) -> Option<&'static str> {
        self.kind.map(Kind::flag)
    }

    /// The trace that it is of (W3C).
    pub(super) fn trace_id(&self) -> Option<&str> {
        trace_id(self.request.as_ref()?.traceparent.as_ref()?.to_str().ok()?)
    }

    pub(super) fn cluster_name(&self) -> Option<&str> {
        self.cluster.as_ref().map(|cluster| cluster.name.as_str())
    }
}
