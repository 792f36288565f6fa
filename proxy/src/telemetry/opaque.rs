//! What an opaque connection counts while it is carried: it may last for days, and holds no more
//! than it needs.

use prometheus_client::metrics::counter::Counter;

use super::{ClusterMetrics, Failures};
use crate::error::Kind;

/// The part of a cluster's metrics that its opaque connections count in.
#[derive(Debug, Clone)]
pub struct OpaqueMetrics {
    sent: Counter,
    received: Counter,
    spliced: Counter,
    failures: Failures,
}

impl ClusterMetrics {
    /// What its opaque connections count in.
    pub fn opaque(&self) -> OpaqueMetrics {
        OpaqueMetrics {
            sent: self.bytes_sent.clone(),
            received: self.bytes_received.clone(),
            spliced: self.bytes_spliced.clone(),
            failures: self.failures(),
        }
    }
}

impl OpaqueMetrics {
    /// Counts bytes: from the client, to it, and how many of both the kernel moved by splice.
    pub fn moved(&self, sent: u64, received: u64, spliced: u64) {
        self.sent.inc_by(sent);
        self.received.inc_by(received);
        if spliced > 0 {
            self.spliced.inc_by(spliced);
        }
    }

    /// Counts a connection that did not come to its end.
    pub fn failed(&self, kind: Kind) {
        self.failures.count(kind);
    }
}
