//! What the sidecar counts. Every counter that a request touches is looked up when its cluster or
//! listener is made: adding costs a nanosecond, finding by label some hundred.

pub mod access;
mod authorization;
mod cluster;
mod discovery;
mod endpoint;
pub mod event;
mod families;
mod format;
mod labels;
mod load;
mod opaque;
mod request_log;
mod route;
mod side;
mod throttle;
mod words;

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use authorization::{AuthorizerMetrics, AuthorizerOutcome, DecisionMetrics, FetchOutcome, KeySetMetrics};
pub use cluster::{ClusterMetrics, ENDPOINT_STATES, Ejections, Failures, LimitReason, Picks, RetryDenied};
pub use discovery::DiscoveryMetrics;
pub use endpoint::{EndpointMetrics, OpenConnection};
pub use event::LogEvent;
pub(crate) use event::emit;
pub use format::{Format, prometheus_text};
pub use load::{Direction, DirectionGauges, LoadGauges, Open, Sockets};
pub use opaque::OpaqueMetrics;
pub use request_log::{Decided, RequestLog};
pub use route::{MirrorOutcome, RouteMetrics};
pub use side::{DetectionResult, HandshakeMetrics, RaceMetrics, RaceOutcome, SideMetrics};
pub use throttle::Throttle;
pub use words::{rfc3339, trace_id, without_userinfo};

use authorization::AuthorizationFamilies;
use cluster::ClusterFamilies;
use discovery::DiscoveryFamilies;
use families::families;
use labels::{Outcome, Probe};
use route::RouteFamilies;
use side::SideFamilies;

families! {
    /// What the sidecar counts of itself.
    struct Own {
        reloads: Family<Outcome, Counter> =
            "config_reloads", "Changes of the configuration by result";
        loaded: Gauge<f64, AtomicU64> =
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read, as seconds of Unix time";
        certificates: Family<Outcome, Counter> =
            "certificates", "Certificates of this workload that were offered, by result";
        not_after: Gauge<f64, AtomicU64> =
            "certificate_not_after_timestamp_seconds",
            "Until when the certificate in force is valid, as seconds of Unix time; 0 without one";
        trust_heard: Gauge<f64, AtomicU64> =
            "trust_bundle_timestamp_seconds",
            "When the authority last said whom to trust, as seconds of Unix time; 0 if none is asked";
        trust_stale: Gauge =
            "trust_bundle_stale",
            "1 while roots and revocations may be old: the authority has not answered for long";
        access_written: Counter = "access_log_lines", "Lines of the access log that were written";
        access_lost: Counter =
            "access_log_lines_lost",
            "Lines of the access log that were not written, since the queue was full or a write failed";
        access_failures: Counter = "access_log_write_failures", "Writes to the access log that failed";
        audit_written: Counter = "audit_records", "Lines of the audit log that were written";
        audit_lost: Counter = "audit_records_lost", "Lines that the audit log had no room for";
        audit_failures: Counter = "audit_write_failures",
            "Writes to the audit log that failed, each of which is tried again, \
             and every five seconds of one that does not come back";
        app: Family<Probe, Gauge> = "app_probe", "Whether the local app passes a probe";
        registered: Gauge = "registered", "1 while the app is in the registry";
    }
}

/// All metrics of a sidecar.
pub struct Metrics {
    registry: Registry,
    own: Own,
    load: LoadGauges,
    sides: SideFamilies,
    clusters: ClusterFamilies,
    endpoints: endpoint::Endpoints,
    routes: RouteFamilies,
    discovery: DiscoveryFamilies,
    authorization: AuthorizationFamilies,
}

/// Metrics of the access log.
#[derive(Debug, Clone, Default)]
pub struct AccessLogMetrics {
    /// Lines that were written.
    pub written: Counter,
    /// Lines that were not.
    pub lost: Counter,
    /// Writes that failed.
    pub failures: Counter,
}

/// Metrics of the audit log.
#[derive(Debug, Clone, Default)]
pub struct AuditMetrics {
    /// Lines that were written.
    pub written: Counter,
    /// Lines for which there was no room.
    pub lost: Counter,
    /// Writes that failed.
    pub failures: Counter,
}

/// Metrics of a cluster that counts as one endpoint: the local app, or everything that is passed
/// through.
#[derive(Debug, Clone)]
pub struct SingleEndpointMetrics {
    /// The cluster's.
    pub cluster: ClusterMetrics,
    /// The endpoint's.
    pub endpoint: EndpointMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("proxy");
        let endpoints = endpoint::Endpoints::default();
        registry.register_collector(Box::new(endpoints.clone()));
        Metrics {
            own: Own::register(&mut registry),
            load: LoadGauges::register(&mut registry),
            sides: SideFamilies::register(&mut registry),
            clusters: ClusterFamilies::register(&mut registry),
            routes: RouteFamilies::register(&mut registry),
            discovery: DiscoveryFamilies::register(&mut registry),
            authorization: AuthorizationFamilies::register(&mut registry),
            endpoints,
            registry,
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The metrics of one listener: `"outbound"` or `"inbound"`.
    pub fn side(&self, side: &'static str) -> SideMetrics {
        self.sides.of(side)
    }

    /// The metrics of one cluster.
    pub fn cluster(&self, side: &'static str, cluster: &str) -> ClusterMetrics {
        self.clusters.of(side, cluster, &self.load)
    }

    /// The metrics of one endpoint of a cluster whose own are `metrics`. They are listed for as
    /// long as somebody holds them.
    pub fn endpoint(
        &self,
        side: &'static str,
        cluster: &str,
        endpoint: impl ToString,
        metrics: &ClusterMetrics,
    ) -> EndpointMetrics {
        self.endpoints.get(side, cluster, endpoint.to_string(), metrics)
    }

    /// The metrics of a cluster of which only one endpoint is told apart, under the name
    /// `endpoint`.
    pub fn single(&self, side: &'static str, cluster: &str, endpoint: &str) -> SingleEndpointMetrics {
        let all = self.cluster(side, cluster);
        SingleEndpointMetrics { endpoint: self.endpoint(side, cluster, endpoint, &all), cluster: all }
    }

    /// Sets how many endpoints of a cluster are in a state, one of [`ENDPOINT_STATES`].
    pub fn set_endpoints(&self, cluster: &str, state: &'static str, count: usize) {
        self.clusters.set_endpoints(cluster, state, count);
    }

    /// Sets how many requests are in flight, and may be if there is such a limit: of a cluster, or
    /// of a port of the app.
    pub fn set_concurrency(&self, side: &'static str, of: &str, in_flight: u32, limit: Option<u32>) {
        self.clusters.set_concurrency(side, of, in_flight, limit);
    }

    /// Sets whether the local app passes a probe.
    pub fn set_probe(&self, probe: &'static str, passes: bool) {
        self.own.app.get_or_create(&Probe { probe }).set(passes.into());
    }

    /// Sets whether the app is in the registry.
    pub fn set_registered(&self, registered: bool) {
        self.own.registered.set(registered.into());
    }

    /// The metrics of one route of a cluster.
    pub fn route(&self, cluster: &str, route: &str) -> RouteMetrics {
        self.routes.of(cluster, route)
    }

    /// The metrics of the source of a cluster's endpoints.
    pub fn discovery(&self, cluster: &str) -> DiscoveryMetrics {
        self.discovery.of(cluster)
    }

    /// The metrics of what policies decide.
    pub fn decisions(&self) -> DecisionMetrics {
        self.authorization.decisions()
    }

    /// The metrics of tokens of an issuer, `""` for those of none, of which this came.
    pub fn token(&self, provider: &str, result: &'static str) -> Counter {
        self.authorization.token(provider, result)
    }

    /// The metrics of an issuer's key set.
    pub fn key_set(&self, provider: &str) -> KeySetMetrics {
        self.authorization.key_set(provider)
    }

    /// The metrics of an external authorizer.
    pub fn authorizer(&self, provider: &str) -> AuthorizerMetrics {
        self.authorization.authorizer(provider)
    }

    /// Leaves out the gauges of a cluster that is not discovered any more.
    pub fn forget_discovery(&self, cluster: &str) {
        self.discovery.forget(cluster);
    }

    /// Leaves out the gauges of a cluster that requests go to no more. Those that count what is
    /// still open stay until that is closed. Counters stay: they are true for ever.
    pub fn forget_cluster(&self, cluster: &str) {
        self.clusters.forget(cluster);
    }

    /// Sets whether a scrape lists the endpoints of clusters one by one.
    pub fn list_endpoints(&self, listed: bool) {
        self.endpoints.set_listed(listed);
    }

    /// What the sidecar carries now.
    pub fn load(&self) -> LoadGauges {
        self.load.clone()
    }

    /// Notes that the configuration in force was read at `at`.
    pub fn loaded(&self, at: SystemTime) {
        self.own.loaded.set(unix_seconds(at));
    }

    /// Counts a certificate of this workload that was offered; one that was taken is valid until
    /// `not_after`.
    pub fn certificate(&self, taken: bool, not_after: Option<SystemTime>) {
        let result = if taken { "taken" } else { "refused" };
        self.own.certificates.get_or_create(&Outcome { result }).inc();
        if let Some(at) = not_after {
            self.own.not_after.set(unix_seconds(at));
        }
    }

    /// Notes that the authority has said whom to trust at `at`.
    pub fn trust_heard(&self, at: SystemTime) {
        self.own.trust_heard.set(unix_seconds(at));
    }

    /// Says whether that was too long ago.
    pub fn set_trust_stale(&self, is_stale: bool) {
        self.own.trust_stale.set(is_stale.into());
    }

    /// Whether it was.
    pub fn is_trust_stale(&self) -> bool {
        self.own.trust_stale.get() != 0
    }

    /// The metrics of the access log.
    pub fn access_log(&self) -> AccessLogMetrics {
        let own = &self.own;
        AccessLogMetrics {
            written: own.access_written.clone(),
            lost: own.access_lost.clone(),
            failures: own.access_failures.clone(),
        }
    }

    /// The metrics of the audit log.
    pub fn audit(&self) -> AuditMetrics {
        let own = &self.own;
        AuditMetrics {
            written: own.audit_written.clone(),
            lost: own.audit_lost.clone(),
            failures: own.audit_failures.clone(),
        }
    }

    /// Counts a change of the configuration.
    pub fn reloaded(&self, ok: bool) {
        let result = if ok { "applied" } else { "rejected" };
        self.own.reloads.get_or_create(&Outcome { result }).inc();
    }

    /// Everything in the OpenMetrics text format, in an order that does not change from run to run.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.clusters.forget_the_idle();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        format::in_stable_order(&text)
    }
}

/// A time as metrics have it: seconds of Unix time.
pub fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_are_sorted_and_buckets_keep_their_order() {
        let metrics = Metrics::default();
        for cluster in ["pear", "apple", "fig"] {
            metrics.cluster("outbound", cluster).duration.observe(0.002);
        }
        let text = metrics.text();
        let counts: Vec<_> = text.lines().filter(|l| l.starts_with("proxy_requests_total")).collect();
        assert!(counts.is_sorted() && counts.len() == 3, "{counts:?}");
        let buckets: Vec<f64> = text
            .lines()
            .filter(|l| l.starts_with("proxy_request_duration_seconds_bucket") && l.contains("fig"))
            .map(|l| l.split("le=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!(buckets.is_sorted() && buckets.len() == cluster::BUCKETS.len() + 1, "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
    }
}
