//! What a line of the access log says.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;
use http::header::{HeaderValue, USER_AGENT};
use serde::{Serialize, Serializer};

use super::record::{AccessEvent, AccessRecord};
use crate::config::LogFormat;
use crate::config::log_format::{Operator, Piece, PlainOperator, RequestWord, TextFormat};
use crate::spiffe_id::SpiffeId;
use crate::telemetry::rfc3339;

/// What a value is where there is none, as in Envoy.
const NONE: &str = "-";

impl LogFormat {
    /// The headers of a request that it asks for.
    pub(super) fn request_headers(&self) -> &[HeaderName] {
        match self {
            LogFormat::Json => &JSON_HEADERS,
            LogFormat::Text(text) => &text.request_headers,
        }
    }

    /// The same of an answer.
    pub(super) fn response_headers(&self) -> &[HeaderName] {
        match self {
            LogFormat::Json => &[],
            LogFormat::Text(text) => &text.response_headers,
        }
    }

    /// Appends the line of a record, with its end.
    pub(crate) fn write(&self, record: &AccessRecord, lines: &mut Vec<u8>) {
        match self {
            LogFormat::Json => {
                serde_json::to_writer(&mut *lines, &JsonLine::of(record))
                    .expect("texts and numbers are JSON");
            }
            LogFormat::Text(text) => lines.extend_from_slice(text.line(record).as_bytes()),
        }
        if lines.last() != Some(&b'\n') {
            lines.push(b'\n');
        }
    }
}

impl TextFormat {
    fn line(&self, record: &AccessRecord) -> String {
        let (mut line, mut value) = (String::new(), String::new());
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Value(operator, most) => {
                    value.clear();
                    operator.write(record, &mut value);
                    if value.is_empty() {
                        value.push_str(NONE);
                    }
                    let end = most.and_then(|most| value.char_indices().nth(most));
                    escape(&value[..end.map_or(value.len(), |(end, _)| end)], &mut line);
                }
            }
        }
        line
    }
}

/// Appends a value as nginx does: whatever ends a line or a text in quotes somewhere, or steers a
/// terminal, is `\xXX`, byte by byte. Otherwise a client could forge what stands behind it.
fn escape(value: &str, line: &mut String) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if value.bytes().all(is_plain) {
        return line.push_str(value);
    }
    for byte in value.bytes() {
        match is_plain(byte) {
            true => line.push(char::from(byte)),
            false => write!(line, "\\x{byte:02X}").expect("writing to a text does not fail"),
        }
    }
}

impl Operator {
    /// Writes its value; nothing if there is none.
    fn write(&self, record: &AccessRecord, line: &mut String) {
        match self {
            Operator::Plain(plain) => plain.write(record, line),
            Operator::Request(first, second) => {
                let value = first.of(record).or_else(|| second.and_then(|second| second.of(record)));
                line.push_str(&value.unwrap_or_default());
            }
            Operator::Response(first, second) => {
                let header = |place: usize| record.response_headers.get(place)?.as_ref().map(text);
                line.push_str(&header(*first).or_else(|| header((*second)?)).unwrap_or_default());
            }
        }
    }
}

impl RequestWord {
    fn of(self, record: &AccessRecord) -> Option<Cow<'_, str>> {
        let request = record.request.as_ref()?;
        match self {
            RequestWord::Method => Some(request.method.as_str().into()),
            RequestWord::Path => request.uri.path_and_query().map(|path| path.as_str().into()),
            RequestWord::Authority => request.host(),
            RequestWord::Header(place) => request.headers.get(place)?.as_ref().map(text),
        }
    }
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

impl PlainOperator {
    /// Writes its value; nothing if there is none.
    fn write(self, record: &AccessRecord, line: &mut String) {
        let mut put = |value: &dyn Display| {
            write!(line, "{value}").expect("writing to a text does not fail");
        };
        let millis = |time: Duration| time.as_millis();
        match self {
            PlainOperator::StartTime => put(&rfc3339(record.began)),
            // Envoy has 0 for what was never answered.
            PlainOperator::ResponseCode => put(&record.status.map_or(0, |status| status.as_u16())),
            PlainOperator::BytesReceived => put(&record.bytes_in),
            PlainOperator::BytesSent => put(&record.bytes_out),
            PlainOperator::Duration => put(&millis(record.duration)),
            PlainOperator::AttemptCount => put(&record.attempts),
            PlainOperator::RemoteAddress => put(&record.source),
            PlainOperator::RemoteAddressWithoutPort => put(&record.source.ip()),
            PlainOperator::LocalAddress => put(&record.destination),
            PlainOperator::LocalAddressWithoutPort => put(&record.destination.ip()),
            PlainOperator::TrafficDirection => put(&record.direction.label().to_ascii_uppercase()),
            PlainOperator::Protocol => record.protocol().iter().for_each(|it| put(it)),
            PlainOperator::ResponseCodeDetails => record.reason().iter().for_each(|it| put(it)),
            PlainOperator::ResponseFlags => record.flags().iter().for_each(|it| put(it)),
            PlainOperator::GrpcStatus => record.grpc_status.iter().for_each(|it| put(it)),
            PlainOperator::ResponseDuration => record.head.iter().for_each(|head| put(&millis(*head))),
            PlainOperator::ResponseTxDuration => {
                record.head.iter().for_each(|head| put(&millis(record.duration.saturating_sub(*head))));
            }
            PlainOperator::UpstreamHost => record.endpoint.iter().for_each(|it| put(it)),
            PlainOperator::UpstreamCluster => record.cluster_name().iter().for_each(|it| put(it)),
            PlainOperator::RouteName => record.route.iter().for_each(|it| put(it)),
            PlainOperator::PeerUriSan => record.identity.iter().for_each(|it| put(it)),
            PlainOperator::TraceId => record.trace_id().iter().for_each(|it| put(it)),
        }
    }
}

/// The headers that JSON has, in this order.
static JSON_HEADERS: [HeaderName; 2] = [USER_AGENT, HeaderName::from_static("x-request-id")];

/// A line of JSON.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    event: &'static str,
    direction: &'static str,
    source: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a SpiffeId>,
    destination: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<&'static str>,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(serialize_with = "micros", rename = "duration_us")]
    duration: Duration,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_micros", rename = "before_us")]
    before: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_micros", rename = "retries_us")]
    retries: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_micros", rename = "upstream_us")]
    upstream: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_micros", rename = "body_us")]
    body: Option<Duration>,
}

fn micros<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_micros() as u64)
}

fn some_micros<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    micros(&time.unwrap_or_default(), serializer)
}

impl<'a> JsonLine<'a> {
    fn of(record: &'a AccessRecord) -> Self {
        let request = record.request.as_ref();
        let header = |place: usize| request?.headers.get(place)?.as_ref().map(text);
        let between = |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?));
        JsonLine {
            time: rfc3339(record.began),
            event: match record.event {
                AccessEvent::Request => "request",
                AccessEvent::Connection => "connection",
            },
            direction: record.direction.label(),
            source: record.source,
            identity: record.identity.as_ref(),
            destination: record.destination,
            protocol: record.protocol(),
            method: request.map(|request| request.method.as_str()),
            host: request.and_then(|request| request.host()),
            // Without the query, in which secrets travel.
            path: request.map(|request| request.uri.path()),
            user_agent: header(0),
            request_id: header(1),
            trace_id: record.trace_id(),
            route: record.route.as_deref(),
            cluster: record.cluster_name(),
            endpoint: record.endpoint,
            attempts: record.attempts,
            status: record.status.map(|status| status.as_u16()),
            grpc_status: record.grpc_status,
            reason: record.reason(),
            flags: record.flags(),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration: record.duration,
            before: record.first_attempt,
            retries: between(record.first_attempt, record.last_attempt),
            upstream: between(record.last_attempt, record.head),
            body: between(record.head, Some(record.duration)),
        }
    }
}
