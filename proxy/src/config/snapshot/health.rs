//! Questions that the sidecar asks, of endpoints and of its own app.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::dump;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeRequest {
    /// `GET` over HTTP/1.1.
    Http {
        /// Path and query.
        #[serde(serialize_with = "dump::without_query")]
        path: String,
        /// `Host`; `None`: the address.
        host: Option<String>,
        /// Statuses that pass; empty: 200 to 399.
        status: Vec<u16>,
    },
    /// The gRPC health protocol (`grpc.health.v1`).
    Grpc {
        /// Which service; empty: the whole server.
        service: String,
    },
    /// Whether a connection opens.
    Tcp,
}

/// How many results in a row change what something counts as; at least 1 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Thresholds {
    /// Successes.
    pub healthy: u32,
    /// Failures.
    pub unhealthy: u32,
}

/// Active checks of a cluster's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// What is asked.
    pub ask: ProbeRequest,
    /// Between two checks of an endpoint.
    #[serde(serialize_with = "dump::duration")]
    pub interval: Duration,
    /// The same while the last results contradict what it counts as.
    #[serde(serialize_with = "dump::duration")]
    pub edge_interval: Duration,
    /// The same while nobody uses the cluster.
    #[serde(serialize_with = "dump::duration")]
    pub no_traffic_interval: Duration,
    /// How long an answer may take.
    #[serde(serialize_with = "dump::duration")]
    pub timeout: Duration,
    /// What changes an endpoint's state.
    pub thresholds: Thresholds,
}

/// What the sidecar asks its own app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct App {
    /// Whether it has started. The other two wait for it.
    pub startup: Option<Probe>,
    /// Whether it takes requests.
    pub readiness: Option<Probe>,
    /// Whether it is alive.
    pub liveness: Option<Probe>,
}

/// A probe of the app. The fields mean what they mean in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Where the app listens.
    pub address: SocketAddr,
    /// What is asked.
    pub ask: ProbeRequest,
    /// Before the first one.
    #[serde(serialize_with = "dump::duration")]
    pub initial_delay: Duration,
    /// Between two of them.
    #[serde(serialize_with = "dump::duration")]
    pub period: Duration,
    /// How long an answer may take.
    #[serde(serialize_with = "dump::duration")]
    pub timeout: Duration,
    /// What changes its result.
    pub thresholds: Thresholds,
}
