//! What one listener counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::cluster::position;
use crate::error::Kind;

/// The labels of [`DetectionResult`], in its order.
pub(super) const DETECTIONS: [&str; 8] =
    ["http1", "http2", "tls", "opaque", "timeout", "closed", "server_first", "known_server_first"];
pub(super) const HELLOS: [&str; 3] = ["sni", "no_sni", "unreadable"];
/// The labels of [`RaceEnd`], in its order.
pub(super) const RACES: [&str; 3] = ["server_first", "client_first", "unused"];

/// What came of looking at the first bytes of a connection. In the order of the labels in `DETECTIONS`.
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
    pub(super) detections: [Counter; 8],
    pub(super) hellos: [Counter; 3],
    pub(super) races: [Counter; 3],
    pub(super) refused: [Counter; Kind::ALL.len()],
}

/// What became of a connection that was opened to hear whether the server speaks first. In the order of the
/// labels in `RACES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaceEnd {
    /// The server did.
    ServerFirst,
    /// It did not, but the connection carries what the client said.
    ClientFirst,
    /// It was closed: what the client said goes another way.
    Unused,
}

impl SideMetrics {
    /// Counts the outcome of a detection.
    pub fn detected(&self, result: DetectionResult) {
        self.detections[result as usize].inc();
    }

    /// Counts the first message of an app's TLS: whether it names a server; `None` if it cannot be read.
    pub fn greeted(&self, names_a_server: Option<bool>) {
        let position = match names_a_server {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        };
        self.hellos[position].inc();
    }

    /// Counts what became of a connection that was opened to hear whether the server speaks first.
    pub fn raced(&self, end: RaceEnd) {
        self.races[end as usize].inc();
    }

    /// Counts a connection that was closed at once.
    pub fn refused(&self, kind: Kind) {
        self.refused[position(kind)].inc();
    }
}
