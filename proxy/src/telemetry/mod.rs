//! What the sidecar counts. Every counter that a request touches is looked up when its cluster or listener is made:
//! adding costs a nanosecond, finding by label some hundred.

mod carried;
mod cluster;
mod endpoint;
mod format;
mod load;
mod route;
mod side;
mod throttle;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use carried::Carried;
pub use cluster::{Asked, ClusterMetrics, Ejections, Failures, Limited, Picks, RetryDenied};
pub use endpoint::{EndpointMetrics, OpenConnection};
pub use format::{Format, prometheus_text};
pub use load::{Direction, DirectionGauges, LoadGauges, Open, Sockets};
pub use route::{MirrorEnd, RouteMetrics};
pub use side::{DetectionResult, RaceEnd, SideMetrics};
pub use throttle::Throttle;

use cluster::{CLASSES, LIMITS, PICKS, REASONS};
use side::{DETECTIONS, HELLOS, RACES};

use crate::config::Condition;
use crate::error::Kind;

/// Labels of a metric of one side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Side {
    side: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideCluster {
    side: &'static str,
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideClusterClass {
    side: &'static str,
    cluster: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideClusterKind {
    side: &'static str,
    cluster: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideClusterReason {
    side: &'static str,
    cluster: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideClusterResult {
    side: &'static str,
    cluster: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterState {
    cluster: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Probe {
    probe: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideClusterPick {
    side: &'static str,
    cluster: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Detection {
    side: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCluster {
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Update {
    cluster: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    result: &'static str,
}

/// Upper bounds of the request duration buckets, seconds: 100 us to 10 s, two or three a decade.
const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// All metrics of a sidecar.
pub struct Metrics {
    registry: Registry,
    connections: Family<Side, Counter>,
    connections_open: Family<Side, Gauge>,
    refused: Family<Detection, Counter>,
    detections: Family<Detection, Counter>,
    requests: Family<SideCluster, Counter>,
    responses: Family<SideClusterClass, Counter>,
    abandoned: Family<SideCluster, Counter>,
    errors: Family<SideClusterKind, Counter>,
    retries: Family<SideClusterReason, Counter>,
    retries_denied: Family<SideClusterReason, Counter>,
    retry_budget: Family<SideCluster, Gauge>,
    hedges: Family<SideCluster, Counter>,
    hedges_won: Family<SideCluster, Counter>,
    picks: Family<SideClusterPick, Counter>,
    ejections: Family<SideClusterReason, Counter>,
    probes: Family<SideCluster, Counter>,
    limited: Family<SideClusterReason, Counter>,
    concurrency: Family<SideCluster, Gauge>,
    in_flight: Family<SideCluster, Gauge>,
    checks: Family<SideClusterResult, Counter>,
    states: Family<ClusterState, Gauge>,
    app: Family<Probe, Gauge>,
    connects: Family<SideCluster, Counter>,
    connect_failures: Family<SideCluster, Counter>,
    upstream_open: Family<SideCluster, Gauge>,
    tunnels: Family<SideCluster, Gauge>,
    waiting: Family<SideCluster, Gauge>,
    endpoints: endpoint::Endpoints,
    bytes_sent: Family<SideCluster, Counter>,
    bytes_received: Family<SideCluster, Counter>,
    bytes_spliced: Family<SideCluster, Counter>,
    hellos: Family<Detection, Counter>,
    races: Family<Detection, Counter>,
    duration: Family<SideCluster, Histogram, fn() -> Histogram>,
    reloads: Family<Reload, Counter>,
    routes: route::Families,
    discovery_updates: Family<Update, Counter>,
    discovery_endpoints: Family<OfCluster, Gauge>,
    discovery_stale: Family<OfCluster, Gauge<f64, AtomicU64>>,
    /// 1 while the app stands in the registry.
    pub registered: Gauge,
    load: LoadGauges,
    /// Clusters that are gone, and may have gauges that count what is still open.
    gone: Mutex<BTreeSet<String>>,
}

/// Metrics of a cluster that counts as one endpoint: the local app, or everything that is passed through.
#[derive(Debug, Clone)]
pub struct Single {
    /// The cluster's.
    pub cluster: ClusterMetrics,
    /// The endpoint's.
    pub endpoint: EndpointMetrics,
}

/// Metrics of the source of a cluster's endpoints.
#[derive(Debug, Clone)]
pub struct DiscoveryMetrics {
    /// Changes that came into force.
    pub applied: Counter,
    /// What it told that could not be used.
    pub rejected: Counter,
    /// Endpoints in force.
    pub endpoints: Gauge,
    /// For how long they may have been wrong, seconds.
    pub stale_seconds: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("proxy");
        macro_rules! family {
            ($name:literal, $help:literal) => {{
                let family = Family::default();
                registry.register($name, $help, family.clone());
                family
            }};
        }
        let duration: Family<SideCluster, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register_with_unit(
            "request_duration",
            "From the request's head to the response's head",
            Unit::Seconds,
            duration.clone(),
        );
        macro_rules! gauge {
            ($name:literal, $help:literal) => {{
                let gauge = Gauge::default();
                registry.register($name, $help, gauge.clone());
                gauge
            }};
        }
        let load_connections: Family<Side, Gauge> =
            family!("load_connections", "Accepted connections that count against the limit");
        let load_requests: Family<Side, Gauge> =
            family!("load_requests", "Requests in flight that count against the limit");
        let one_way = |direction: Direction| {
            let side = Side { side: direction.label() };
            DirectionGauges {
                connections: load_connections.get_or_create_owned(&side),
                requests: load_requests.get_or_create_owned(&side),
                upstream: Gauge::default(),
            }
        };
        let load = LoadGauges {
            inbound: one_way(Direction::Inbound),
            outbound: one_way(Direction::Outbound),
            shedding: gauge!("load_shedding", "1 while nothing is taken on for want of memory"),
        };
        let endpoints = endpoint::Endpoints::default();
        registry.register_collector(Box::new(endpoints.clone()));
        let discovery_stale = Family::default();
        registry.register_with_unit(
            "discovery_stale",
            "For how long the endpoints of a cluster may have been wrong, because their source does not answer",
            Unit::Seconds,
            discovery_stale.clone(),
        );
        Metrics {
            load,
            gone: Mutex::default(),
            endpoints,
            discovery_updates: family!("discovery_updates", "Changes of discovered endpoints by result"),
            discovery_endpoints: family!("discovery_endpoints", "Endpoints that were discovered"),
            discovery_stale,
            registered: gauge!("registered", "1 while the app stands in the registry"),
            connections: family!("connections", "Connections accepted"),
            connections_open: family!("connections_open", "Accepted connections that are open"),
            refused: family!(
                "connections_refused",
                "Accepted connections that were closed at once, by reason"
            ),
            detections: family!("detections", "Outcomes of looking at the first bytes"),
            requests: family!("requests", "Requests from clients"),
            responses: family!("responses", "Responses to clients by class of status"),
            abandoned: family!("abandoned", "Requests whose client went away before the response began"),
            errors: family!("errors", "Failed tries by kind"),
            retries: family!("retries", "Tries beyond the first, by the failure that they followed"),
            retries_denied: family!(
                "retries_denied",
                "Failures that called for another try and got none, by reason"
            ),
            retry_budget: family!("retry_budget", "Retries that the budget has left"),
            hedges: family!("hedges", "Second tries that began while the first was silent"),
            hedges_won: family!("hedges_won", "Second tries that were answered before the first"),
            picks: family!(
                "picks",
                "Choices of endpoints out of the ordinary, by kind; one may be of several"
            ),
            ejections: family!("ejections", "Ejections of endpoints by reason"),
            probes: family!(
                "ejection_probes",
                "Requests that were let through to see whether an ejection may end"
            ),
            limited: family!("limited", "Requests that a limit of their cluster refused, by limit"),
            concurrency: family!(
                "concurrency_limit",
                "Requests that may be in flight, where that follows latency"
            ),
            in_flight: family!(
                "requests_in_flight",
                "Requests in flight by cluster, or to the app's ports that follow latency"
            ),
            checks: family!("health_checks", "Active checks of endpoints by result"),
            states: family!("endpoints", "Endpoints by state"),
            app: family!("app_probe", "Whether the local app passes a probe"),
            connects: family!("connects", "Connections opened to endpoints"),
            connect_failures: family!("connect_failures", "Attempts to connect to endpoints that failed"),
            waiting: family!(
                "requests_waiting",
                "Requests that wait for a connection or a stream to an endpoint"
            ),
            tunnels: family!("tunnels_open", "Tunnels (Upgrade, CONNECT) that are open"),
            upstream_open: family!("upstream_connections_open", "Connections to endpoints that are open"),
            bytes_sent: family!("tcp_bytes_sent", "Bytes of opaque connections from clients to endpoints"),
            bytes_received: family!(
                "tcp_bytes_received",
                "Bytes of opaque connections from endpoints to clients"
            ),
            bytes_spliced: family!(
                "tcp_bytes_spliced",
                "Bytes of opaque connections, of either direction, that the kernel moved by splice"
            ),
            hellos: family!(
                "tls_hellos",
                "TLS handshakes of apps that were passed through, by what their first message told"
            ),
            races: family!(
                "server_first_races",
                "Connections that were opened to hear whether the server speaks first, by what became of them"
            ),
            duration,
            reloads: family!("config_reloads", "Changes of the configuration by result"),
            routes: route::Families::new(&mut registry),
            registry,
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// What [`Metrics::set_endpoints`] counts.
pub const ENDPOINT_STATES: [&str; 3] = ["known", "ejected", "unhealthy"];

impl Metrics {
    /// The metrics of one listener: `"outbound"` or `"inbound"`.
    pub fn side(&self, side: &'static str) -> SideMetrics {
        let label = Side { side };
        SideMetrics {
            connections: self.connections.get_or_create_owned(&label),
            open: self.connections_open.get_or_create_owned(&label),
            detections: DETECTIONS
                .map(|result| self.detections.get_or_create_owned(&Detection { side, result })),
            hellos: HELLOS.map(|result| self.hellos.get_or_create_owned(&Detection { side, result })),
            races: RACES.map(|result| self.races.get_or_create_owned(&Detection { side, result })),
            refused: Kind::ALL
                .map(|kind| self.refused.get_or_create_owned(&Detection { side, result: kind.label() })),
        }
    }

    /// The metrics of one cluster.
    pub fn cluster(&self, side: &'static str, cluster: &str) -> ClusterMetrics {
        self.gone().remove(cluster);
        let label = SideCluster { side, cluster: cluster.to_owned() };
        let class = |class| SideClusterClass { side, cluster: cluster.to_owned(), class };
        let kind = |kind: Kind| SideClusterKind { side, cluster: cluster.to_owned(), kind: kind.label() };
        let reason = |reason| SideClusterReason { side, cluster: cluster.to_owned(), reason };
        ClusterMetrics {
            requests: self.requests.get_or_create_owned(&label),
            responses: CLASSES.map(|c| self.responses.get_or_create_owned(&class(c))),
            abandoned: self.abandoned.get_or_create_owned(&label),
            errors: Failures(Arc::new(Kind::ALL.map(|k| self.errors.get_or_create_owned(&kind(k))))),
            retries: Condition::ALL.map(|c| self.retries.get_or_create_owned(&reason(c.name()))),
            denied: RetryDenied::ALL.map(|d| self.retries_denied.get_or_create_owned(&reason(d.label()))),
            retry_budget: self.retry_budget.get_or_create_owned(&label),
            hedges: self.hedges.get_or_create_owned(&label),
            hedges_won: self.hedges_won.get_or_create_owned(&label),
            picks: Picks(PICKS.map(|kind| {
                let cluster = cluster.to_owned();
                self.picks.get_or_create_owned(&SideClusterPick { side, cluster, kind })
            })),
            ejections: Ejections {
                by_reason: REASONS.map(|why| self.ejections.get_or_create_owned(&reason(why))),
                probes: self.probes.get_or_create_owned(&label),
            },
            limited: LIMITS.map(|limit| self.limited.get_or_create_owned(&reason(limit))),
            checks: ["fail", "pass"].map(|result| {
                let cluster = cluster.to_owned();
                self.checks.get_or_create_owned(&SideClusterResult { side, cluster, result })
            }),
            connects: self.connects.get_or_create_owned(&label),
            connect_failures: self.connect_failures.get_or_create_owned(&label),
            open: Sockets {
                cluster: self.upstream_open.get_or_create_owned(&label),
                all: self.load.one_way(Direction::of(side)).upstream.clone(),
            },
            tunnels: self.tunnels.get_or_create_owned(&label),
            waiting: self.waiting.get_or_create_owned(&label),
            bytes_sent: self.bytes_sent.get_or_create_owned(&label),
            bytes_received: self.bytes_received.get_or_create_owned(&label),
            bytes_spliced: self.bytes_spliced.get_or_create_owned(&label),
            duration: self.duration.get_or_create_owned(&label),
        }
    }

    /// The metrics of one endpoint of a cluster whose own are `metrics`. They are listed for as long as somebody holds them.
    pub fn endpoint(
        &self,
        side: &'static str,
        cluster: &str,
        endpoint: impl ToString,
        metrics: &ClusterMetrics,
    ) -> EndpointMetrics {
        self.endpoints.get(side, cluster, endpoint.to_string(), metrics)
    }

    /// The metrics of a cluster of which only one endpoint is told apart, under the name `endpoint`.
    pub fn single(&self, side: &'static str, cluster: &str, endpoint: &str) -> Single {
        let all = self.cluster(side, cluster);
        Single { endpoint: self.endpoint(side, cluster, endpoint, &all), cluster: all }
    }

    /// Sets how many endpoints of a cluster are in a state.
    pub fn set_endpoints(&self, cluster: &str, state: &'static str, count: usize) {
        let label = ClusterState { cluster: cluster.to_owned(), state };
        self.states.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets how many requests are in flight, and may be if there is such a limit: of a cluster, or of a port of the app.
    pub fn set_concurrency(&self, side: &'static str, of: &str, in_flight: u32, limit: Option<u32>) {
        let label = SideCluster { side, cluster: of.to_owned() };
        self.in_flight.get_or_create(&label).set(in_flight.into());
        if let Some(limit) = limit {
            self.concurrency.get_or_create(&label).set(limit.into());
        }
    }

    /// Sets whether the local app passes a probe.
    pub fn set_probe(&self, probe: &'static str, passes: bool) {
        self.app.get_or_create(&Probe { probe }).set(passes.into());
    }

    /// The metrics of one route of a cluster.
    pub fn route(&self, cluster: &str, route: &str) -> RouteMetrics {
        self.routes.route(cluster, route)
    }

    /// The metrics of the source of a cluster's endpoints.
    pub fn discovery(&self, cluster: &str) -> DiscoveryMetrics {
        let label = OfCluster { cluster: cluster.to_owned() };
        let update = |result| Update { cluster: cluster.to_owned(), result };
        DiscoveryMetrics {
            applied: self.discovery_updates.get_or_create_owned(&update("applied")),
            rejected: self.discovery_updates.get_or_create_owned(&update("rejected")),
            endpoints: self.discovery_endpoints.get_or_create_owned(&label),
            stale_seconds: self.discovery_stale.get_or_create_owned(&label),
        }
    }

    /// Leaves out the gauges of a cluster that is not discovered any more.
    pub fn forget_discovery(&self, cluster: &str) {
        let label = OfCluster { cluster: cluster.to_owned() };
        self.discovery_endpoints.remove(&label);
        self.discovery_stale.remove(&label);
    }

    /// Leaves out the gauges of a cluster that requests go to no more. Those that count what is still open stay until that is
    /// closed. Counters stay: they are true for ever.
    pub fn forget_cluster(&self, cluster: &str) {
        for state in ENDPOINT_STATES {
            self.states.remove(&ClusterState { cluster: cluster.to_owned(), state });
        }
        let label = SideCluster { side: "outbound", cluster: cluster.to_owned() };
        for gauge in [&self.retry_budget, &self.concurrency, &self.in_flight] {
            gauge.remove(&label);
        }
        self.gone().insert(cluster.to_owned());
    }

    /// Leaves out gauges of clusters that are gone and have nothing open any more.
    fn forget_the_idle(&self) {
        let counting = [&self.upstream_open, &self.tunnels, &self.waiting];
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

    /// Sets whether a scrape lists the endpoints of clusters one by one.
    pub fn list_endpoints(&self, listed: bool) {
        self.endpoints.set_listed(listed);
    }

    /// What the sidecar carries now.
    pub fn load(&self) -> LoadGauges {
        self.load.clone()
    }

    /// Counts a change of the configuration.
    pub fn reloaded(&self, ok: bool) {
        let result = if ok { "applied" } else { "rejected" };
        self.reloads.get_or_create(&Reload { result }).inc();
    }

    /// Everything in the OpenMetrics text format, in an order that does not change from run to run.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.forget_the_idle();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        format::in_stable_order(&text)
    }
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
        assert!(buckets.is_sorted() && buckets.len() == BUCKETS.len() + 1, "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
    }
}
