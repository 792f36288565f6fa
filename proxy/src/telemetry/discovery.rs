//! What is counted of the sources of endpoints.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::families::families;
use super::labels::{Cluster, ClusterResult};

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

families! {
    struct Counts {
        updates: Family<ClusterResult, Counter> =
            "discovery_updates", "Changes of discovered endpoints by result";
        endpoints: Family<Cluster, Gauge> = "discovery_endpoints", "Endpoints that were discovered";
    }
}

/// The metrics of all sources.
#[derive(Debug)]
pub(super) struct DiscoveryFamilies {
    counts: Counts,
    stale: Family<Cluster, Gauge<f64, AtomicU64>>,
}

impl DiscoveryFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let stale = Family::default();
        registry.register_with_unit(
            "discovery_stale",
            "For how long the endpoints of a cluster may have been wrong, because their source does not answer",
            Unit::Seconds,
            stale.clone(),
        );
        DiscoveryFamilies { counts: Counts::register(registry), stale }
    }

    pub(super) fn of(&self, cluster: &str) -> DiscoveryMetrics {
        let label = Cluster { cluster: cluster.to_owned() };
        let updates = |result| {
            let label = ClusterResult { cluster: cluster.to_owned(), result };
            self.counts.updates.get_or_create_owned(&label)
        };
        DiscoveryMetrics {
            applied: updates("applied"),
            rejected: updates("rejected"),
            endpoints: self.counts.endpoints.get_or_create_owned(&label),
            stale_seconds: self.stale.get_or_create_owned(&label),
        }
    }

    /// Leaves out the gauges of a cluster that is not discovered any more.
    pub(super) fn forget(&self, cluster: &str) {
        let label = Cluster { cluster: cluster.to_owned() };
        self.counts.endpoints.remove(&label);
        self.stale.remove(&label);
    }
}
