//! What tests of connections need: limits and counts, beside a network in memory.

use std::net::SocketAddr;
use std::time::Duration;

use super::pool::PoolLimits;
use crate::config::{ClusterLimits, Http1, Http2, OutlierDetection};
use crate::connect::Target;
use crate::telemetry::{EndpointMetrics, Metrics};
pub(super) use crate::world::fake::{FakeNet, run};

pub(super) fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

pub(super) fn target() -> Target {
    address().into()
}

pub(super) fn metrics() -> EndpointMetrics {
    let metrics = Metrics::default();
    let cluster = metrics.cluster("outbound", "orders");
    metrics.endpoint("outbound", "orders", address(), &cluster)
}

pub(super) fn limits() -> PoolLimits {
    PoolLimits {
        connect: Duration::from_secs(1),
        max_idle: Duration::from_secs(60),
        max_age: None,
        connections: 2,
        pending: 8,
        half_close: Duration::from_secs(60),
        cluster: ClusterLimits::default(),
        http1: Http1::default(),
        http2: Http2::default(),
        read: Http1::default(),
        ping: None,
    }
}

/// Ejects soon, and for as long as a test likes to wait.
pub(super) const OUTLIER_DETECTION: OutlierDetection = OutlierDetection {
    consecutive_failures: 3,
    success_rate: 0.8,
    min_requests: 10,
    window: Duration::from_secs(10),
    base: Duration::from_secs(1),
    max: Duration::from_secs(60),
    cap: 0.5,
};
