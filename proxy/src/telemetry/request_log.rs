//! The log of one request: begun before anything is done with it, and finished when it is dropped.
//! What is counted of requests is counted here.

use http::StatusCode;
use tokio::time::Instant;

use super::{ClusterMetrics, emit};
use crate::error::Kind;

/// A request of a client. If it is dropped before it was answered, the client has abandoned it.
#[derive(Debug)]
pub struct RequestLog<'a> {
    metrics: &'a ClusterMetrics,
    /// Which request of its worker it is; 0 for one whose lines are not followed.
    number: u64,
    begun: Instant,
    answered: bool,
}

impl ClusterMetrics {
    /// Begins the log of a request to the cluster, which is the `number`-th of its worker; 0 for
    /// one that leaves no lines.
    pub fn request_log(&self, number: u64) -> RequestLog<'_> {
        self.requests.inc();
        RequestLog { metrics: self, number, begun: Instant::now(), answered: false }
    }
}

impl RequestLog<'_> {
    /// Counts the failure that the request is answered with.
    pub fn failed(&self, kind: Kind) {
        if self.number > 0 {
            emit!(NoAnswer { request: self.number, error: kind.label() });
        }
        self.metrics.failed(kind);
    }

    /// Counts the response.
    pub fn answered(mut self, status: StatusCode) {
        if self.number > 0 {
            emit!(RequestAnswered { request: self.number, status: status.as_u16() });
        }
        let class = usize::from(status.as_u16() / 100);
        self.metrics.responses[class.clamp(1, 5) - 1].inc();
        self.metrics.duration.observe(self.begun.elapsed().as_secs_f64());
        self.answered = true;
    }
}

impl Drop for RequestLog<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.metrics.abandoned.inc();
        }
    }
}
