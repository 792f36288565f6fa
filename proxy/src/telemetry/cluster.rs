//! What one cluster counts.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Direction;
use super::families::families;
use super::labels::{
    ClusterState, SideCluster, SideClusterClass, SideClusterKind, SideClusterReason, SideClusterResult,
};
use super::load::{LoadGauges, Sockets};
use crate::config::RetryCondition;
use crate::error::Kind;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The labels of [`LimitReason`], in its order.
pub(super) const LIMITS: [&str; 5] = ["connections", "pending", "requests", "retries", "concurrency"];
/// The labels of `endpoint::Reason`.
const REASONS: [&str; 3] = ["consecutive_failures", "success_rate", "failed_probe"];
const PICKS: [&str; 4] = ["panic", "failover", "other_zone", "exploration"];

/// The states in which endpoints are counted.
pub const ENDPOINT_STATES: [&str; 3] = ["known", "ejected", "unhealthy"];

/// Upper bounds of the request duration buckets, seconds: 100 us to 10 s, two or three a decade.
pub(super) const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

families! {
    struct Counts {
        requests: Family<SideCluster, Counter> = "requests", "Requests from clients";
        responses: Family<SideClusterClass, Counter> =
            "responses", "Responses to clients by class of status";
        abandoned: Family<SideCluster, Counter> =
            "abandoned", "Requests whose client went away before the response began";
        errors: Family<SideClusterKind, Counter> = "errors", "Failed attempts by kind";
        retries: Family<SideClusterReason, Counter> =
            "retries", "Attempts beyond the first, by the failure that they followed";
        retries_denied: Family<SideClusterReason, Counter> =
            "retries_denied", "Failures that called for another attempt and got none, by reason";
        retry_budget: Family<SideCluster, Gauge> =
            "retry_budget", "Retries that the budget has left";
        hedges: Family<SideCluster, Counter> =
            "hedges", "Second attempts that began while the first was silent";
        hedges_won: Family<SideCluster, Counter> =
            "hedges_won", "Second attempts that were answered before the first";
        picks: Family<SideClusterKind, Counter> =
            "picks", "Choices of endpoints out of the ordinary, by kind; one may be of several";
        ejections: Family<SideClusterReason, Counter> =
            "ejections", "Ejections of endpoints by reason";
        probes: Family<SideCluster, Counter> =
            "ejection_probes", "Requests that were let through to see whether an ejection may end";
        limited: Family<SideClusterReason, Counter> =
            "limited", "Requests that a limit of their cluster refused, by limit";
        concurrency: Family<SideCluster, Gauge> =
            "concurrency_limit", "Requests that may be in flight, by adaptive concurrency";
        in_flight: Family<SideCluster, Gauge> =
            "requests_in_flight",
            "Requests in flight by cluster, or to the app's ports with adaptive concurrency";
        checks: Family<SideClusterResult, Counter> =
            "health_checks", "Active checks of endpoints by result";
        states: Family<ClusterState, Gauge> = "endpoints", "Endpoints by state";
        connects: Family<SideCluster, Counter> = "connects", "Connections opened to endpoints";
        connect_failures: Family<SideCluster, Counter> =
            "connect_failures", "Attempts to connect to endpoints that failed";
        open: Family<SideCluster, Gauge> =
            "upstream_connections_open", "Connections to endpoints that are open";
        tunnels: Family<SideCluster, Gauge> =
            "tunnels_open", "Tunnels (Upgrade, CONNECT) that are open";
        waiting: Family<SideCluster, Gauge> =
            "requests_waiting", "Requests that wait for a connection or a stream to an endpoint";
        bytes_sent: Family<SideCluster, Counter> =
            "tcp_bytes_sent", "Bytes of opaque connections from clients to endpoints";
        bytes_received: Family<SideCluster, Counter> =
            "tcp_bytes_received", "Bytes of opaque connections from endpoints to clients";
        bytes_spliced: Family<SideCluster, Counter> =
            "tcp_bytes_spliced",
            "Bytes of opaque connections, of either direction, that the kernel moved by splice";
    }
}

/// The metrics of all clusters.
#[derive(Debug)]
pub(super) struct ClusterFamilies {
    counts: Counts,
    duration: Family<SideCluster, Histogram, fn() -> Histogram>,
    /// Clusters that are gone, and may have gauges that count what is still open.
    gone: Mutex<BTreeSet<String>>,
}

impl ClusterFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let duration: Family<SideCluster, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register_with_unit(
            "request_duration",
            "From the request's head to the response's head",
            Unit::Seconds,
            duration.clone(),
        );
        ClusterFamilies { counts: Counts::register(registry), duration, gone: Mutex::default() }
    }

    /// Those of one cluster. `load` counts its connections among all of its direction.
    pub(super) fn of(&self, side: &'static str, cluster: &str, load: &LoadGauges) -> ClusterMetrics {
        self.gone().remove(cluster);
        let all = &self.counts;
        let name = || cluster.to_owned();
        let label = SideCluster { side, cluster: name() };
        let kind = |kind| SideClusterKind { side, cluster: name(), kind };
        let reason = |reason| SideClusterReason { side, cluster: name(), reason };
        let responses =
            |class| all.responses.get_or_create_owned(&SideClusterClass { side, cluster: name(), class });
        let checks =
            |result| all.checks.get_or_create_owned(&SideClusterResult { side, cluster: name(), result });
        ClusterMetrics {
            requests: all.requests.get_or_create_owned(&label),
            responses: CLASSES.map(responses),
            abandoned: all.abandoned.get_or_create_owned(&label),
            errors: Failures(Arc::new(Kind::ALL.map(|k| all.errors.get_or_create_owned(&kind(k.label()))))),
            retries: RetryCondition::ALL.map(|c| all.retries.get_or_create_owned(&reason(c.name()))),
            denied: RetryDenied::ALL.map(|d| all.retries_denied.get_or_create_owned(&reason(d.label()))),
            retry_budget: all.retry_budget.get_or_create_owned(&label),
            hedges: all.hedges.get_or_create_owned(&label),
            hedges_won: all.hedges_won.get_or_create_owned(&label),
            picks: Picks(PICKS.map(|pick| all.picks.get_or_create_owned(&kind(pick)))),
            ejections: Ejections {
                by_reason: REASONS.map(|why| all.ejections.get_or_create_owned(&reason(why))),
                probes: all.probes.get_or_create_owned(&label),
            },
            limited: LIMITS.map(|limit| all.limited.get_or_create_owned(&reason(limit))),
            checks: ["fail", "pass"].map(checks),
            connects: all.connects.get_or_create_owned(&label),
            connect_failures: all.connect_failures.get_or_create_owned(&label),
            open: Sockets {
                cluster: all.open.get_or_create_owned(&label),
                all: load.one_way(Direction::of(side)).upstream.clone(),
            },
            tunnels: all.tunnels.get_or_create_owned(&label),
            waiting: all.waiting.get_or_create_owned(&label),
            bytes_sent: all.bytes_sent.get_or_create_owned(&label),
            bytes_received: all.bytes_received.get_or_create_owned(&label),
            bytes_spliced: all.bytes_spliced.get_or_create_owned(&label),
            duration: self.duration.get_or_create_owned(&label),
        }
    }

    /// Sets how many endpoints of a cluster are in a state.
    pub(super) fn set_endpoints(&self, cluster: &str, state: &'static str, count: usize) {
        let label = ClusterState { cluster: cluster.to_owned(), state };
        self.counts.states.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets how many requests are in flight, and may be if there is such a limit.
    pub(super) fn set_concurrency(&self, side: &'static str, of: &str, in_flight: u32, limit: Option<u32>) {
        let label = SideCluster { side, cluster: of.to_owned() };
        self.counts.in_flight.get_or_create(&label).set(in_flight.into());
        if let Some(limit) = limit {
            self.counts.concurrency.get_or_create(&label).set(limit.into());
        }
    }

    /// Leaves out the gauges of a cluster that requests go to no more. Those that count what is
    /// still open stay until that is closed. Counters stay: they are true for ever.
    pub(super) fn forget(&self, cluster: &str) {
        let all = &self.counts;
        for state in ENDPOINT_STATES {
            all.states.remove(&ClusterState { cluster: cluster.to_owned(), state });
        }
        let label = SideCluster { side: "outbound", cluster: cluster.to_owned() };
        for gauge in [&all.retry_budget, &all.concurrency, &all.in_flight] {
            gauge.remove(&label);
        }
        self.gone().insert(cluster.to_owned());
    }

    /// Leaves out gauges of clusters that are gone and have nothing open any more.
    pub(super) fn forget_the_idle(&self) {
        let counting = [&self.counts.open, &self.counts.tunnels, &self.counts.waiting];
        self.gone().retain(|cluster| {
            let label = SideCluster { side: "outbound", cluster: cluster.clone() };
            let open = counting.iter().any(|gauge| gauge.get(&label).is_some_and(|gauge| gauge.get() > 0));
            if !open {
                counting.iter().for_each(|gauge| {
                    gauge.remove(&label);
                });
            }
            open
        });
    }

    fn gone(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Metrics of one cluster.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    pub(super) requests: Counter,
    /// Responses to clients, by the first digit of their status.
    pub(super) responses: [Counter; 5],
    pub(super) abandoned: Counter,
    pub(super) errors: Failures,
    /// Attempts beyond the first, by what they followed.
    pub(super) retries: [Counter; RetryCondition::ALL.len()],
    /// Failures that called for a retry and got none, by why.
    pub(super) denied: [Counter; RetryDenied::ALL.len()],
    /// Retries that the budget has left, after the last change.
    pub retry_budget: Gauge,
    /// Second attempts that began beside the first.
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
    /// Counts a request that a limit of the cluster refused.
    pub fn limited(&self, limit: LimitReason) {
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

    /// Counts a failed attempt.
    pub fn failed(&self, kind: Kind) {
        self.errors.count(kind);
    }

    /// Counts an attempt beyond the first.
    pub fn retried(&self, reason: RetryCondition) {
        self.retries[reason as usize].inc();
    }

    /// Counts a failure that called for another attempt and got none.
    pub fn denied(&self, why: RetryDenied) {
        self.denied[why as usize].inc();
    }

    /// The counters of failed attempts, for what outlives a snapshot.
    pub fn failures(&self) -> Failures {
        self.errors.clone()
    }
}

/// Which limit of a cluster refused a request. In the order of the labels in `LIMITS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitReason {
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
    /// The last answer asks for a longer wait than is given, or the request's own time would be
    /// over.
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
    /// Counts one: of an endpoint that may not even be available, because too few are; of one that
    /// is not of the first priority; of one in another zone although there are some in this one; of
    /// one that was unpicked for long.
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
        self.0[kind as usize].inc();
    }
}
