//! How much one cluster may take of this sidecar.

use serde::Serialize;

use crate::config::defaults;

/// Limits of a cluster, all workers together. Envoy's circuit breakers: `max_connections`,
/// `max_pending_requests`, `max_requests`, `max_retries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClusterLimits {
    /// Connections to its endpoints. An endpoint that has none from a worker gets one nevertheless.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Retries in flight.
    pub retries: u32,
}

impl Default for ClusterLimits {
    fn default() -> Self {
        ClusterLimits {
            connections: defaults::CLUSTER_CONNECTIONS,
            pending: defaults::CLUSTER_PENDING,
            requests: defaults::CLUSTER_REQUESTS,
            retries: defaults::CLUSTER_RETRIES,
        }
    }
}

/// Bounds of a limit of requests in flight that follows latency ([`crate::limit::adaptive`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Adaptive {
    /// Where it begins.
    pub initial: u32,
    /// Lowest; at least 1.
    pub min: u32,
    /// Highest.
    pub max: u32,
}

impl Default for Adaptive {
    fn default() -> Self {
        let (initial, min, max) =
            (defaults::ADAPTIVE_INITIAL, defaults::ADAPTIVE_MIN, defaults::ADAPTIVE_MAX);
        Adaptive { initial, min, max }
    }
}
