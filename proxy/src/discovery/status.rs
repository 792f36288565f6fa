//! How a source of endpoints is, for the page that shows it: as a line of text, or as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::{KnownEndpoints, State};
use crate::config::{Dns, DnsQuery, Source};

/// How a source of endpoints is.
#[derive(Debug, Serialize)]
pub struct SourceStatus {
    /// Which: its kind, and what is asked of it.
    pub source: String,
    /// `"waiting"` for its first answer, `"fresh"`, or `"stale"`.
    pub state: &'static str,
    /// How often its endpoints have changed.
    pub version: u64,
    /// How many it has named.
    pub endpoints: usize,
    /// For how long what it said may have been wrong.
    #[serde(rename = "stale_seconds", serialize_with = "seconds")]
    pub stale: Duration,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

fn seconds<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

impl SourceStatus {
    /// What is `known` from `source` at `now`.
    pub fn new(source: &Source, known: &KnownEndpoints, now: Instant) -> Self {
        let source = match source {
            Source::File(path) => format!("file {}", path.display()),
            Source::Etcd(etcd) => format!("etcd {}", etcd.prefix),
            Source::Dns(Dns { wanted: DnsQuery::Host { name, port }, .. }) => format!("dns {name}:{port}"),
            Source::Dns(Dns { wanted: DnsQuery::Service(name), .. }) => format!("dns srv {name}"),
        };
        let (state, why) = match known.state() {
            State::Waiting(why) => ("waiting", why.clone()),
            State::Fresh => ("fresh", None),
            State::Stale { why, .. } => ("stale", Some(why.clone())),
        };
        let (version, endpoints) = (known.version(), known.endpoints().len());
        SourceStatus { source, state, version, endpoints, stale: known.age(now), why }
    }
}

impl fmt::Display for SourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SourceStatus { source, version, endpoints, stale, .. } = self;
        match (self.state, &self.why) {
            ("waiting", None) => write!(f, "{source}  waiting for the first answer"),
            ("waiting", Some(why)) => write!(f, "{source}  waiting for the first answer: {why}"),
            (_, None) => write!(f, "{source}  fresh  version {version}  {endpoints} endpoints"),
            (_, Some(why)) => {
                write!(f, "{source}  stale for {stale:.0?}: {why}  version {version}  {endpoints} endpoints")
            }
        }
    }
}
