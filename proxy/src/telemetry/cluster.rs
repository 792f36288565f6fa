//! What one cluster counts.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use super::load::Sockets;
use crate::config::Condition;
use crate::error::Kind;

pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The labels of [`Limited`], in its order.
pub(super) const LIMITS: [&str; 5] = ["connections", "pending", "requests", "retries", "concurrency"];
/// The labels of `endpoint::Reason`.
pub(super) const REASONS: [&str; 3] = ["consecutive_failures", "success_rate", "failed_probe"];
pub(super) const PICKS: [&str; 4] = ["panic", "failover", "other_zone", "exploration"];

/// Metrics of one cluster.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    pub(super) requests: Counter,
    /// Responses to clients, by the first digit of their status.
    pub(super) responses: [Counter; 5],
    pub(super) abandoned: Counter,
    pub(super) errors: Failures,
    /// Tries beyond the first, by what they followed.
    pub(super) retries: [Counter; Condition::ALL.len()],
    /// Failures that called for a retry and got none, by why.
    pub(super) denied: [Counter; RetryDenied::ALL.len()],
    /// Retries that the budget has left, after the last change.
    pub retry_budget: Gauge,
    /// Second tries that began beside the first.
    pub hedges: Counter,
    /// Those that were the first to answer.
    pub hedges_won: Counter,
    /// Choices of endpoints that are not the usual ones.
    pub picks: Picks,
    /// Ejections of endpoints.
    pub ejections: Ejections,
    pub(super) limited: [Counter; LIMITS.len()],
    /// Active checks that failed, and that passed.
    pub(super) checks: [Counter; 2],
    /// Connections opened to endpoints.
    pub connects: Counter,
    /// Attempts to connect that failed.
    pub connect_failures: Counter,
    /// Connections to endpoints that are open.
    pub open: Sockets,
    /// Tunnels that are open.
    pub tunnels: Gauge,
    /// Requests that wait for a connection.
    pub waiting: Gauge,
    pub(super) bytes_sent: Counter,
    pub(super) bytes_received: Counter,
    pub(super) bytes_spliced: Counter,
    /// From the request's head to the response's head.
    pub(super) duration: Histogram,
}

impl ClusterMetrics {
    /// Counts a request of a client, which is answered or, if the guard is dropped before, abandoned.
    pub fn asked(&self) -> Asked<'_> {
        self.requests.inc();
        Asked { metrics: self, begun: Instant::now(), answered: false }
    }

    /// Counts a request that a limit of the cluster refused.
    pub fn limited(&self, limit: Limited) {
        self.limited[limit as usize].inc();
    }

    /// Counts an active check.
    pub fn checked(&self, passed: bool) {
        self.checks[usize::from(passed)].inc();
    }

    /// A number that grows when the cluster is used.
    pub fn traffic(&self) -> u64 {
        self.requests.get() + self.connects.get()
    }

    /// Counts a failed try.
    pub fn failed(&self, kind: Kind) {
        self.errors.count(kind);
    }

    /// Counts a try beyond the first.
    pub fn retried(&self, reason: Condition) {
        self.retries[reason as usize].inc();
    }

    /// Counts a failure that called for another try and got none.
    pub fn denied(&self, why: RetryDenied) {
        self.denied[why as usize].inc();
    }

    /// The counters of failed tries, for what outlives a snapshot.
    pub fn failures(&self) -> Failures {
        self.errors.clone()
    }
}

/// Which limit of a cluster refused a request. In the order of the labels in `LIMITS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Connections to its endpoints.
    Connections,
    /// Requests that wait for one.
    Pending,
    /// Requests in flight.
    Requests,
    /// Retries in flight.
    Retries,
    /// Requests in flight, where the limit follows latency.
    Concurrency,
}

/// Why there was no retry although the failure called for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDenied {
    /// There have been as many as may.
    Attempts,
    /// An outer hop repeats the request already.
    OuterHop,
    /// It may have had an effect, and its method is not idempotent.
    Unsafe,
    /// Its body was not kept, or the answer came before its end.
    Body,
    /// The last answer asks for a longer wait than is given, or the request's own time would be over.
    Wait,
    /// As many retries are under way in the cluster as may be.
    Limit,
    /// The cluster's budget is spent.
    Budget,
}

impl RetryDenied {
    /// All of them, in their order.
    pub const ALL: [RetryDenied; 7] = [
        RetryDenied::Attempts,
        RetryDenied::OuterHop,
        RetryDenied::Unsafe,
        RetryDenied::Body,
        RetryDenied::Wait,
        RetryDenied::Limit,
        RetryDenied::Budget,
    ];

    /// Label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            RetryDenied::Attempts => "attempts",
            RetryDenied::OuterHop => "outer_hop",
            RetryDenied::Unsafe => "unsafe",
            RetryDenied::Body => "body",
            RetryDenied::Wait => "wait",
            RetryDenied::Limit => "limit",
            RetryDenied::Budget => "budget",
        }
    }
}

/// Counts ejections of a cluster's endpoints.
#[derive(Debug, Clone)]
pub struct Ejections {
    /// Ejections, in the order of `REASONS`.
    pub(super) by_reason: [Counter; REASONS.len()],
    /// Requests that were let through to see whether an ejection may end.
    pub probes: Counter,
}

impl Ejections {
    /// Counts one for a reason, by its label.
    pub fn ejected(&self, reason: &str) {
        if let Some(position) = REASONS.iter().position(|known| *known == reason) {
            self.by_reason[position].inc();
        }
    }
}

/// Counts choices of endpoints that are not the usual ones.
#[derive(Debug, Clone)]
pub struct Picks(pub(super) [Counter; PICKS.len()]);

impl Picks {
    /// Counts one: of an endpoint that may not even be available, because too few are; of one that is not of the first
    /// priority; of one in another zone although there are some in this one; of one that was neglected for long.
    pub fn count(&self, panic: bool, failover: bool, other_zone: bool, exploration: bool) {
        for (counter, is) in self.0.iter().zip([panic, failover, other_zone, exploration]) {
            if is {
                counter.inc();
            }
        }
    }
}

/// Counts failures by kind.
#[derive(Debug, Clone)]
pub struct Failures(pub(super) Arc<[Counter; Kind::ALL.len()]>);

impl Failures {
    /// Counts one.
    pub fn count(&self, kind: Kind) {
        self.0[position(kind)].inc();
    }
}

/// A request that has no answer yet.
#[derive(Debug)]
pub struct Asked<'a> {
    metrics: &'a ClusterMetrics,
    begun: Instant,
    answered: bool,
}

impl Asked<'_> {
    /// Counts the response.
    pub fn answered(mut self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100);
        self.metrics.responses[class.clamp(1, 5) - 1].inc();
        self.metrics.duration.observe(self.begun.elapsed().as_secs_f64());
        self.answered = true;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.metrics.abandoned.inc();
        }
    }
}

/// Its place in [`Kind::ALL`].
pub(super) fn position(kind: Kind) -> usize {
    Kind::ALL.iter().position(|k| *k == kind).expect("every kind is in ALL")
}
