//! What a line of the audit log says.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HOST, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Request};
use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;

use crate::config::defaults::AUDIT_WORDS;
use crate::spiffe_id::SpiffeId;
use crate::telemetry::{rfc3339, trace_id, without_userinfo};

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditEvent {
    /// A request.
    Request,
    /// An opaque connection.
    Connection,
    /// A connection whose peer could not prove who it is.
    Handshake,
}

/// Whether it may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditDecision {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

impl AuditDecision {
    fn of(allowed: bool) -> Self {
        if allowed { AuditDecision::Allow } else { AuditDecision::Deny }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When it began, RFC 3339 in UTC, to the microsecond.
    #[serde(serialize_with = "serialize_time", deserialize_with = "time::serde::rfc3339::deserialize")]
    pub time: OffsetDateTime,
    /// What it is about.
    pub event: AuditEvent,
    /// Where it came from.
    pub source: SocketAddr,
    /// Who that is, as its certificate proves.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<SpiffeId>,
    /// For whom it asks, as its token proves: `issuer/subject`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub principal: Option<String>,
    /// Where it went: the app's address and port.
    pub destination: SocketAddr,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub method: Option<String>,
    /// The host that was asked for, without user information.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
    /// The path, without the query.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// The trace of `traceparent` (W3C), 32 digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace_id: Option<String>,
    /// What was decided.
    pub decision: AuditDecision,
    /// The policy that decided; none if no rule matches.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<Arc<str>>,
    /// Its rule, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<u32>,
    /// What policies in dry-run would have decided, if that differs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dry_run: Option<AuditDecision>,
    /// The policy in dry-run that would have decided so; none if no rule matches.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dry_run_policy: Option<Arc<str>>,
    /// The policy of action `audit` that matches.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub audit_policy: Option<Arc<str>>,
    /// The status of the answer; none if the client has gone before there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
    /// Why it failed, if it did: the word that metrics have for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The same in words: of a handshake.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// Bytes to the app: of an opaque connection, or a tunnel.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_in: Option<u64>,
    /// Bytes from the app: of the body, of an opaque connection, or of a tunnel.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_out: Option<u64>,
    /// From its beginning to its end, microseconds.
    pub duration_us: u64,
}

impl AuditRecord {
    pub(super) fn new(
        event: AuditEvent,
        now: SystemTime,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        AuditRecord {
            time: now.into(),
            event,
            source,
            identity: None,
            principal: None,
            destination,
            method: None,
            host: None,
            path: None,
            request_id: None,
            trace_id: None,
            // Until something is decided, nothing of it reaches the app.
            decision: AuditDecision::Deny,
            policy: None,
            rule: None,
            dry_run: None,
            dry_run_policy: None,
            audit_policy: None,
            status: None,
            reason: None,
            detail: None,
            bytes_in: None,
            bytes_out: None,
            duration_us: 0,
        }
    }

    /// Notes what is asked for.
    pub fn describe<B>(&mut self, request: &Request<B>) {
        // As in the access log.
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let header = |name: HeaderName| request.headers().get(name).map(text);
        let uri = request.uri();
        self.method = Some(cut(request.method().as_str()));
        let host = uri.authority().map(Authority::to_string).or_else(|| header(HOST));
        self.host = host.map(|host| cut(without_userinfo(&host)));
        self.path = Some(cut(uri.path()));
        self.identify(request.headers());
        self.trace_id = header(HeaderName::from_static("traceparent"))
            .and_then(|text| trace_id(&text).map(str::to_owned));
    }

    /// Notes the request's id, which the sidecar may have made itself.
    pub fn identify(&mut self, headers: &HeaderMap) {
        let id = headers.get(HeaderName::from_static("x-request-id"));
        let id = id.map(|id| String::from_utf8_lossy(id.as_bytes()));
        // Mostly it is the one that came.
        if id.as_deref() != self.request_id.as_deref() {
            self.request_id = id.map(|id| cut(&id));
        }
    }

    /// Notes what policies say.
    pub fn decide(&mut self, allowed: bool, rule: Option<&(Arc<str>, u32)>) {
        self.decision = AuditDecision::of(allowed);
        self.policy = rule.map(|(policy, _)| policy.clone());
        self.rule = rule.map(|(_, rule)| *rule);
    }

    /// Counts bytes that were carried to the app, and from it.
    pub fn carried(&mut self, forth: u64, back: u64) {
        *self.bytes_in.get_or_insert(0) += forth;
        *self.bytes_out.get_or_insert(0) += back;
    }

    /// Notes why in words.
    pub fn explain(&mut self, why: &impl Display) {
        self.detail = Some(cut(&why.to_string()));
    }

    /// Notes what policies in dry-run would have decided, and which of them.
    pub fn propose(&mut self, allowed: bool, policy: Option<Arc<str>>) {
        self.dry_run = Some(AuditDecision::of(allowed));
        self.dry_run_policy = policy;
    }
}

fn serialize_time<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339((*time).into()))
}

/// What a client says, cut off where it says too much: whoever sends long paths would otherwise
/// decide how soon the log forgets.
fn cut(text: &str) -> String {
    match text.len() {
        0..=AUDIT_WORDS => text.to_owned(),
        _ => format!("{}...", &text[..text.floor_char_boundary(AUDIT_WORDS)]),
    }
}

/// The line that stands for lines that are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gap {
    /// When it was noticed.
    pub(super) time: String,
    /// Always `"gap"`.
    pub(super) event: String,
    /// How many lines are missing.
    pub(super) lost: u64,
}

impl Gap {
    pub(super) fn new(lost: u64, now: SystemTime) -> Self {
        Gap { time: rfc3339(now), event: "gap".into(), lost }
    }
}
