//! `[cluster.health]` and `[app]`: questions that the sidecar asks, of endpoints and of its own
//! app.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[cluster.health]`: active checks of the cluster's endpoints. One of `http`, `grpc` and `tcp`
/// says what is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// A path: `"/healthz"`.
    pub http: Option<Spanned<String>>,
    /// A service of the gRPC health protocol; `""` for the whole server.
    pub grpc: Option<Spanned<String>>,
    /// Whether a connection opens.
    pub tcp: Option<Spanned<bool>>,
    /// Statuses that pass. Default: 200 to 399.
    pub status: Option<Spanned<Vec<u16>>>,
    /// `Host` of the HTTP request. Default: the endpoint's address.
    pub host: Option<Spanned<String>>,
    /// Between two checks of an endpoint. Default `"5s"`.
    pub interval: Option<Spanned<String>>,
    /// The same while the last results contradict what the endpoint counts as. Default `"1s"`.
    pub edge_interval: Option<Spanned<String>>,
    /// The same while nobody uses the cluster. Default `"60s"`.
    pub no_traffic_interval: Option<Spanned<String>>,
    /// How long an answer may take. Default `"1s"`.
    pub timeout: Option<Spanned<String>>,
    /// Failures in a row that make a healthy endpoint unhealthy. Default 3.
    pub unhealthy_threshold: Option<Spanned<u32>>,
    /// Successes in a row that make it healthy again. Default 2.
    pub healthy_threshold: Option<Spanned<u32>>,
}

/// `[app]`: what the sidecar asks its own app.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Whether it has started. The other two wait for it.
    pub startup: Option<Probe>,
    /// Whether it takes requests.
    pub readiness: Option<Probe>,
    /// Whether it is alive.
    pub liveness: Option<Probe>,
}

/// `[app.startup]`, `[app.readiness]`, `[app.liveness]`. The fields mean what they mean in
/// Kubernetes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Where the app listens: `"127.0.0.1:8080"`.
    pub address: Spanned<String>,
    /// A path: `"/ready"`.
    pub http: Option<Spanned<String>>,
    /// A service of the gRPC health protocol; `""` for the whole server.
    pub grpc: Option<Spanned<String>>,
    /// Whether a connection opens.
    pub tcp: Option<Spanned<bool>>,
    /// Statuses that pass. Default: 200 to 399.
    pub status: Option<Spanned<Vec<u16>>>,
    /// `Host` of the HTTP request. Default: the address.
    pub host: Option<Spanned<String>>,
    /// Before the first one. Default `"0s"`.
    pub initial_delay: Option<Spanned<String>>,
    /// Between two of them. Default `"10s"`.
    pub period: Option<Spanned<String>>,
    /// How long an answer may take. Default `"1s"`.
    pub timeout: Option<Spanned<String>>,
    /// Successes in a row that make it pass. Default 1.
    pub success_threshold: Option<Spanned<u32>>,
    /// Failures in a row that make it fail. Default 3.
    pub failure_threshold: Option<Spanned<u32>>,
}
