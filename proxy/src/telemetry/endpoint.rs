//! What is counted for each endpoint: connections and requests there now. Gauges only: counters of
//! each endpoint would grow with every address that ever was.
//!
//! A label set lives as long as somebody holds its [`EndpointMetrics`]: the endpoint, or a
//! connection that has outlived it. So there are as many as there are endpoints in the
//! configuration, and an endpoint that comes back while its old connections are open goes on
//! counting where it was.
//!
//! Balancers and limits read these numbers, so they are always kept; whether a scrape lists them is
//! the configuration's choice, since four series for each of ten thousand endpoints are more than
//! most want to store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};

use super::cluster::LIMITS;
use super::{ClusterMetrics, LimitReason, Open, Sockets};

/// Labels of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct SideClusterEndpoint {
    side: &'static str,
    cluster: String,
    endpoint: String,
}

/// The gauges of all endpoints. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Endpoints(Arc<Held>);

/// Those that somebody holds.
#[derive(Debug, Default)]
struct Held {
    by_labels: Mutex<BTreeMap<SideClusterEndpoint, Weak<Inner>>>,
    /// Whether a scrape leaves them out.
    omitted: AtomicBool,
}

/// What is counted for one endpoint, and for its cluster whenever something happens at an endpoint.
/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct EndpointMetrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// In the order of [`NAMES`].
    gauges: [Gauge; 4],
    cluster: Shared,
    listed: Option<(Endpoints, SideClusterEndpoint)>,
}

/// The cluster's part.
#[derive(Debug, Default)]
struct Shared {
    connects: Counter,
    connect_failures: Counter,
    sockets: Sockets,
    waiting: Gauge,
    limited: [Counter; LIMITS.len()],
}

const NAMES: [(&str, &str); 4] = [
    ("endpoint_connections_open", "Connections to an endpoint that are open"),
    ("endpoint_connections_idle", "Connections to an endpoint that are open and carry nothing"),
    ("endpoint_requests_pending", "Active requests and opaque connections at an endpoint"),
    ("endpoint_requests_waiting", "Requests that wait for a connection or a stream to an endpoint"),
];
const OMITTED: (&str, &str) = (
    "endpoint_series_omitted",
    "Endpoints whose series are left out: there are more than 1000, or metrics.per_endpoint says so",
);
const OPEN: usize = 0;
const IDLE: usize = 1;
const PENDING: usize = 2;
const WAITING: usize = 3;

impl Endpoints {
    /// Sets whether a scrape lists them.
    pub(super) fn set_listed(&self, listed: bool) {
        self.0.omitted.store(!listed, Ordering::Relaxed);
    }

    /// The metrics of one endpoint: those that are held, or new ones.
    pub(super) fn get(
        &self,
        side: &'static str,
        cluster: &str,
        endpoint: String,
        metrics: &ClusterMetrics,
    ) -> EndpointMetrics {
        let labels = SideClusterEndpoint { side, cluster: cluster.to_owned(), endpoint };
        let mut held = self.0.by_labels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = held.get(&labels).and_then(Weak::upgrade) {
            return EndpointMetrics(inner);
        }
        let inner = Arc::new(Inner {
            gauges: Default::default(),
            cluster: Shared {
                connects: metrics.connects.clone(),
                connect_failures: metrics.connect_failures.clone(),
                sockets: metrics.open.clone(),
                waiting: metrics.waiting.clone(),
                limited: metrics.limited.clone(),
            },
            listed: Some((self.clone(), labels.clone())),
        });
        held.insert(labels, Arc::downgrade(&inner));
        EndpointMetrics(inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some((all, labels)) = &self.listed else { return };
        let mut held = all.0.by_labels.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have made new ones since the last holder let go.
        if held.get(labels).is_some_and(|weak| weak.strong_count() == 0) {
            held.remove(labels);
        }
    }
}

impl Collector for Endpoints {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let held = self.0.by_labels.lock().unwrap_or_else(PoisonError::into_inner);
        // Upgraded first: whoever lets one go meanwhile wants the lock.
        let all: Vec<_> = held.values().filter_map(Weak::upgrade).collect();
        drop(held);
        let omitted = self.0.omitted.load(Ordering::Relaxed);
        let mut listed = all.iter().filter_map(|inner| Some((inner, &inner.listed.as_ref()?.1)));
        for (gauge, (name, help)) in NAMES.into_iter().enumerate() {
            if omitted {
                break;
            }
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (inner, labels) in listed.clone() {
                inner.gauges[gauge].encode(family.encode_family(labels)?)?;
            }
        }
        let count = ConstGauge::new(if omitted { listed.by_ref().count() as i64 } else { 0 });
        let (name, help) = OMITTED;
        count.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
}

impl EndpointMetrics {
    /// Counts a connection that was opened, until the guard is dropped.
    pub fn connected(&self) -> OpenConnection {
        self.0.cluster.connects.inc();
        OpenConnection {
            _open: Open::new(&self.0.gauges[OPEN]),
            _sockets: self.0.cluster.sockets.open(),
            metrics: self.clone(),
        }
    }

    /// Counts an attempt to connect that failed.
    pub fn connect_failed(&self) {
        self.0.cluster.connect_failures.inc();
    }

    /// Counts an active request, until the guard is dropped.
    pub fn pending(&self) -> Open {
        Open::new(&self.0.gauges[PENDING])
    }

    /// How many requests are active.
    pub fn pending_now(&self) -> u32 {
        u32::try_from(self.0.gauges[PENDING].get()).unwrap_or(0)
    }

    /// How many connections to endpoints of the cluster are open.
    pub fn open_in_cluster(&self) -> i64 {
        self.0.cluster.sockets.count()
    }

    /// How many requests wait for a connection to an endpoint of the cluster.
    pub fn waiting_in_cluster(&self) -> i64 {
        self.0.cluster.waiting.get()
    }

    /// Counts a request that a limit of the cluster refused.
    pub fn limited(&self, limit: LimitReason) {
        self.0.cluster.limited[limit as usize].inc();
    }

    /// Counts a request that waits, until the guards are dropped.
    pub fn waiting(&self) -> [Open; 2] {
        [Open::new(&self.0.gauges[WAITING]), Open::new(&self.0.cluster.waiting)]
    }
}

/// A connection that is open.
#[derive(Debug)]
pub struct OpenConnection {
    _open: Open,
    _sockets: [Open; 2],
    metrics: EndpointMetrics,
}

impl OpenConnection {
    /// It carries nothing, until the guard is dropped.
    pub fn idle(&self) -> Open {
        Open::new(&self.metrics.0.gauges[IDLE])
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;

    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text();
        let ours = |l: &&str| l.starts_with("proxy_endpoint_") && !l.contains("omitted");
        text.lines().filter(ours).map(str::to_owned).collect()
    }

    #[test]
    fn an_endpoint_is_listed_while_somebody_holds_it_and_counts_on_if_it_comes_back_before() {
        let metrics = Metrics::default();
        let cluster = metrics.cluster("outbound", "orders");
        let get = || metrics.endpoint("outbound", "orders", "10.0.0.1:80", &cluster);
        let first = get();
        let connection = first.connected();
        let idle = connection.idle();
        let _pending = first.pending();
        assert_eq!(lines(&metrics).len(), 4);
        drop(first);
        // The connection holds it.
        let again = get();
        assert_eq!(again.pending_now(), 1);
        let open = "proxy_endpoint_connections_open{side=\"outbound\",cluster=\"orders\",endpoint=\"10.0.0.1:80\"} 1";
        assert!(lines(&metrics).iter().any(|l| l == open), "{:?}", lines(&metrics));
        drop((idle, connection, again));
        assert_eq!(lines(&metrics), Vec::<String>::new());
        assert_eq!(get().pending_now(), 0, "nothing is known of one that is new");
    }
}
