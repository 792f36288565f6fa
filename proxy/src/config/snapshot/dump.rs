//! How a snapshot is shown to people: as JSON, with values as the configuration file writes them,
//! and without what must not be read by whoever may read the page.

use std::fmt::Display;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::{Serialize, Serializer};

use super::route::ValueMatch;
use super::{RetryCondition, RetryConditions};

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// Whether a header may carry a secret: no name says of what an app has made up that it does not.
pub(super) fn may_be_secret(header: &HeaderName) -> bool {
    const HARMLESS: [HeaderName; 8] = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::ACCEPT_LANGUAGE,
        header::CACHE_CONTROL,
        header::CONTENT_LANGUAGE,
        header::CONTENT_TYPE,
        header::USER_AGENT,
        header::VARY,
    ];
    !HARMLESS.contains(header)
}

fn written(duration: &Duration) -> String {
    format!("{duration:?}").replace('µ', "u")
}

pub(super) fn duration<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&written(value))
}

pub(super) fn optional_duration<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(written).serialize(to)
}

pub(super) fn text<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

pub(super) fn optional_text<S: Serializer>(value: &Option<impl Display>, to: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(to)
}

/// Anything that is written as its text.
pub(super) trait Text {
    /// It.
    fn text(&self) -> &str;
}

impl Text for HeaderName {
    fn text(&self) -> &str {
        self.as_str()
    }
}

impl Text for Method {
    fn text(&self) -> &str {
        self.as_str()
    }
}

pub(super) fn texts<S: Serializer>(values: &[impl Text], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(Text::text))
}

pub(super) fn status<S: Serializer>(value: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(value.as_u16())
}

pub(super) fn optional_value<S: Serializer>(value: &Option<HeaderValue>, to: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes())).serialize(to)
}

pub(super) fn headers<S: Serializer>(values: &[(HeaderName, HeaderValue)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str(), if may_be_secret(name) { REDACTED.into() } else { value })
    }))
}

/// All of them, with values that nobody needs to see: they prove to a server who asks.
pub(super) fn credentials<S: Serializer>(
    values: &[(HeaderName, HeaderValue)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(|(name, _)| (name.as_str(), REDACTED)))
}

/// A path whose query may have a key in it.
pub(super) fn without_query<S: Serializer>(path: &str, to: S) -> Result<S::Ok, S::Error> {
    match path.split_once('?') {
        Some((path, _)) => to.collect_str(&format_args!("{path}?{REDACTED}")),
        None => to.serialize_str(path),
    }
}

/// What may have more in it than it should, such as private keys among public ones.
pub(super) fn redacted<S: Serializer, T>(_: T, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(REDACTED)
}

/// What a header or a parameter must be.
#[derive(Serialize)]
struct NamedMatch<'a> {
    name: &'a str,
    #[serde(rename = "match")]
    value: ShownMatch<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ShownMatch<'a> {
    Plain(&'a ValueMatch),
    Redacted(&'static str),
}

fn shown<'a>(name: &'a str, value: &'a ValueMatch, may_be_secret: bool) -> NamedMatch<'a> {
    let reveals = !matches!(value, ValueMatch::Present | ValueMatch::Absent);
    let redacted = reveals && may_be_secret;
    NamedMatch {
        name,
        value: if redacted { ShownMatch::Redacted(REDACTED) } else { ShownMatch::Plain(value) },
    }
}

pub(super) fn header_matches<S: Serializer>(
    values: &[(HeaderName, ValueMatch)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(|(name, value)| shown(name.as_str(), value, may_be_secret(name))))
}

pub(super) fn query_matches<S: Serializer>(
    values: &[(String, ValueMatch)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(|(name, value)| shown(name, value, true)))
}

#[derive(Serialize)]
struct Part<T> {
    value: T,
    share: f64,
}

pub(super) fn delay<S: Serializer>(value: &Option<(Duration, f64)>, to: S) -> Result<S::Ok, S::Error> {
    value.map(|(time, share)| Part { value: written(&time), share }).serialize(to)
}

pub(super) fn abort<S: Serializer>(value: &Option<(StatusCode, f64)>, to: S) -> Result<S::Ok, S::Error> {
    value.map(|(status, share)| Part { value: status.as_u16(), share }).serialize(to)
}

impl Serialize for RetryConditions {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(
            RetryCondition::ALL.iter().filter(|condition| self.contains(**condition)).map(|c| c.name()),
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn a_dump_writes_values_as_the_file_does_and_keeps_secrets() {
        let text = r#"
            service = "web"
            [timeouts]
            connect = "250us"
            [[cluster]]
            name = "orders"
            addresses = ["10.96.0.10:80"]
            endpoints = ["10.0.0.11:8080"]
            health = { http = "/h?api_key=hunter6" }
            [[cluster.route]]
            match = { path = "/a", headers = { "x-jwt" = "hunter2", "accept" = "shown" }, query = { sig = "hunter7" } }
            request_headers = { set = { "x-foo" = "Bearer hunter3", "content-type" = "blue" } }
            response_headers = { add = { "x-csrf" = "hunter8" } }
            [[authorization.policy]]
            name = "p"
            rule = [{ when = [
                { key = "request.headers[x-session]", values = ["hunter9"], not_values = ["hunter1*"] },
                { key = "request.headers[user-agent]", values = ["agent"] },
            ] }]
            [[jwt]]
            name = "idp"
            issuer = "https://idp"
            jwks = { url = "http://idp.example/keys?key=hunter4" }
            [[authorization.provider]]
            name = "opa"
            address = "10.0.0.9:8181"
            include_additional_headers = { "x-opa" = "hunter5" }
        "#;
        let snapshot = parse("sidecar.toml", text);
        let snapshot = snapshot.unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
        let dump = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(dump["timeouts"]["connect"], "250us");
        let cluster = &dump["clusters"][0];
        assert_eq!(cluster["endpoints"][0]["address"], "10.0.0.11:8080");
        assert_eq!(cluster["retry"]["on"][0], "connect-failure");
        let shown = dump.to_string();
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(["shown", "blue", "agent", "/h?[redacted]"].iter().all(|one| shown.contains(one)), "{shown}");
        assert_eq!(shown.matches("[redacted]").count(), 9);
    }
}
