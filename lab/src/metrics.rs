//! Measured values by name, in Prometheus' terms.

use std::collections::BTreeMap;

use serde::Serialize;

/// One value of one process at one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// `orders-1/app`, `web/sidecar`, or `fabric` for the world itself.
    pub process: String,
    /// Metric name, such as `proxy_requests_total`.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}
