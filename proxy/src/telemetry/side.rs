//! What one listener counts.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::families::families;
use super::labels::{Side, SideResult};
use crate::error::Kind;

/// The labels of [`DetectionResult`], in its order.
const DETECTIONS: [&str; 8] =
    ["http1", "http2", "tls", "opaque", "timeout", "closed", "server_first", "known_server_first"];
const HELLOS: [&str; 3] = ["sni", "no_sni", "unreadable"];
/// The labels of [`RaceOutcome`], in its order.
const RACES: [&str; 3] = ["server_first", "client_first", "unused"];
/// Results of handshakes of sidecars, in this order.
const HANDSHAKES: [&str; 2] = ["accepted", "failed"];

/// What came of looking at the first bytes of a connection. In the order of the labels in
/// `DETECTIONS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectionResult {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS.
    Tls,
    /// None of these.
    Opaque,
    /// The client was silent for too long.
    Timeout,
    /// The client closed before it said anything.
    Closed,
    /// The server spoke while the client was silent.
    ServerFirst,
    /// The server is known to speak first.
    KnownServerFirst,
}

/// Metrics of one listener.
#[derive(Debug, Clone)]
pub struct SideMetrics {
    /// Connections accepted.
    pub connections: Counter,
    /// Connections open.
    pub open: Gauge,
    detections: [Counter; DETECTIONS.len()],
    hellos: [Counter; HELLOS.len()],
    /// Handshakes with sidecars.
    pub handshakes: HandshakeMetrics,
    /// Connections that were opened to hear whether the server speaks first.
    pub races: RaceMetrics,
    refused: [Counter; Kind::ALL.len()],
}

families! {
    /// The metrics of all listeners.
    pub(super) struct SideFamilies {
        connections: Family<Side, Counter> = "connections", "Connections accepted";
        open: Family<Side, Gauge> = "connections_open", "Accepted connections that are open";
        refused: Family<SideResult, Counter> =
            "connections_refused", "Accepted connections that were closed at once, by reason";
        detections: Family<SideResult, Counter> =
            "detections", "Outcomes of looking at the first bytes";
        hellos: Family<SideResult, Counter> =
            "tls_hellos",
            "TLS handshakes of apps that were passed through, by what their first message told";
        handshakes: Family<SideResult, Counter> =
            "tls_handshakes", "Handshakes with sidecars by result";
        races: Family<SideResult, Counter> =
            "server_first_races",
            "Connections that were opened to hear whether the server speaks first, by what became of them";
    }
}

impl SideFamilies {
    /// Those of one listener: `"outbound"` or `"inbound"`.
    pub(super) fn of(&self, side: &'static str) -> SideMetrics {
        let label = Side { side };
        let result = |result| SideResult { side, result };
        SideMetrics {
            connections: self.connections.get_or_create_owned(&label),
            open: self.open.get_or_create_owned(&label),
            detections: DETECTIONS.map(|of| self.detections.get_or_create_owned(&result(of))),
            hellos: HELLOS.map(|of| self.hellos.get_or_create_owned(&result(of))),
            handshakes: HandshakeMetrics(
                HANDSHAKES.map(|of| self.handshakes.get_or_create_owned(&result(of))),
            ),
            races: RaceMetrics(RACES.map(|of| self.races.get_or_create_owned(&result(of))).into()),
            refused: Kind::ALL.map(|kind| self.refused.get_or_create_owned(&result(kind.label()))),
        }
    }
}

/// Counts handshakes.
#[derive(Debug, Clone)]
pub struct HandshakeMetrics([Counter; HANDSHAKES.len()]);

impl HandshakeMetrics {
    /// One that begins.
    pub fn begin(&self) -> Handshake<'_> {
        Handshake { metrics: self, succeeded: false }
    }
}

/// A handshake under way. It counts when it is dropped: as one that has failed, unless it is said
/// to have succeeded; so does one that nobody waits for any more.
#[derive(Debug)]
pub struct Handshake<'a> {
    metrics: &'a HandshakeMetrics,
    succeeded: bool,
}

impl Handshake<'_> {
    /// It has succeeded.
    pub fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.metrics.0[usize::from(!self.succeeded)].inc();
    }
}

/// What became of a connection that was opened to hear whether the server speaks first. In the
/// order of the labels in `RACES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaceOutcome {
    /// The server did.
    ServerFirst,
    /// It did not, but the connection carries what the client said.
    ClientFirst,
    /// It was closed: what the client said goes another way.
    Unused,
}

/// Counts what became of connections that were opened to hear whether the server speaks first.
/// Each of them holds this, so it is shared.
#[derive(Debug, Clone)]
pub struct RaceMetrics(Arc<[Counter; RACES.len()]>);

impl RaceMetrics {
    /// One of them has come to its end.
    pub fn ended(&self, end: RaceOutcome) {
        self.0[end as usize].inc();
    }
}

impl SideMetrics {
    /// Counts the outcome of a detection.
    pub fn detected(&self, result: DetectionResult) {
        self.detections[result as usize].inc();
    }

    /// Counts the first message of an app's TLS: whether it names a server; `None` if it cannot be
    /// read.
    pub fn greeted(&self, names_a_server: Option<bool>) {
        let position = match names_a_server {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        };
        self.hellos[position].inc();
    }

    /// Counts a connection that was closed at once.
    pub fn refused(&self, kind: Kind) {
        self.refused[kind as usize].inc();
    }
}
