//! The sidecar's configuration file, key for key, with the place of every value.

use serde::Deserialize;
use serde_spanned::Spanned;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name of the local app's service, for telemetry.
    pub service: Spanned<String>,
    /// Name of this instance. Default: the service's.
    #[serde(default)]
    pub instance: Option<Spanned<String>>,
    /// Data-plane threads. Default: as many as the CPUs that the process may use.
    #[serde(default)]
    pub workers: Option<Spanned<usize>>,
    /// Seed of every random choice. Default: from the operating system.
    #[serde(default)]
    pub seed: Option<u64>,
    /// SO_MARK of outgoing connections; takes CAP_NET_ADMIN. Default: none.
    #[serde(default)]
    pub mark: Option<u32>,
    /// Whether connections to addresses outside every cluster go where the app meant them to. Default: true.
    #[serde(default)]
    pub passthrough: Option<bool>,
    /// Ports that are opaque unless a `protocol` is given: of a cluster's virtual address or endpoints, or of the app.
    /// Replaces the default 25, 587, 3306, 4444, 4567, 4568, 5432, 6379, 9300, 11211.
    #[serde(default)]
    pub opaque_ports: Option<Vec<Spanned<u16>>>,
    /// Ports.
    #[serde(default)]
    pub listen: Listen,
    /// Time limits.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Tries after a failure, for every cluster that does not say otherwise.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// When an endpoint is left alone, for every cluster that does not say otherwise.
    #[serde(default)]
    pub breaker: Option<Breaker>,
    /// Clusters.
    #[serde(default)]
    pub cluster: Vec<Cluster>,
    /// The app's ports.
    #[serde(default)]
    pub inbound: Vec<Inbound>,
}

/// `[listen]`: ports. Defaults: 15001, 15006, 15000, 15020, 15021.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Intercepted outgoing connections.
    #[serde(default)]
    pub outbound: Option<Spanned<u16>>,
    /// Intercepted incoming connections.
    #[serde(default)]
    pub inbound: Option<Spanned<u16>>,
    /// Admin, on loopback.
    #[serde(default)]
    pub admin: Option<Spanned<u16>>,
    /// Metrics.
    #[serde(default)]
    pub metrics: Option<Spanned<u16>>,
    /// Readiness and liveness.
    #[serde(default)]
    pub health: Option<Spanned<u16>>,
}

/// `[timeouts]`: strings with units, such as `"250ms"`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// From SYN to a usable connection.
    #[serde(default)]
    pub connect: Option<Spanned<String>>,
    /// For the first bytes of an undeclared protocol.
    #[serde(default)]
    pub detect: Option<Spanned<String>>,
    /// Idle HTTP/1 connections to endpoints.
    #[serde(default)]
    pub pool_idle: Option<Spanned<String>>,
    /// An opaque TCP connection of which one side has said that it sends no more, and the other is silent. Default `"60s"`.
    #[serde(default)]
    pub half_close: Option<Spanned<String>>,
    /// An opaque TCP connection that moves nothing. Default `"1h"`.
    #[serde(default)]
    pub tcp_idle: Option<Spanned<String>>,
    /// A drain.
    #[serde(default)]
    pub drain: Option<Spanned<String>>,
}

/// `[[cluster]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its name.
    pub name: Spanned<String>,
    /// The virtual addresses that apps dial, `"IP:PORT"`. May be empty if there is `sni`.
    pub addresses: Vec<Spanned<String>>,
    /// Server names of TLS connections to addresses of no cluster that lead here: `"db.example"`, or `"*.example"` for every
    /// name below it. The exact name goes before the longest wildcard. The app's TLS is passed through.
    #[serde(default)]
    pub sni: Vec<Spanned<String>>,
    /// `"detect"` (default, except on `opaque_ports`), `"http"` or `"tcp"`.
    #[serde(default)]
    pub protocol: Option<Spanned<String>>,
    /// Where it really is, `"IP:PORT"`.
    pub endpoints: Vec<Spanned<String>>,
    /// Tries after a failure.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// When an endpoint is left alone.
    #[serde(default)]
    pub breaker: Option<Breaker>,
}

/// `[retry]` and `[cluster.retry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Tries beyond the first. Default 2; 0 switches retries off.
    #[serde(default)]
    pub attempts: Option<Spanned<u32>>,
}

/// `[breaker]` and `[cluster.breaker]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row that eject an endpoint. Default 5; 0 switches ejection off.
    #[serde(default)]
    pub consecutive_failures: Option<Spanned<u32>>,
    /// First ejection. Default `"1s"`.
    #[serde(default)]
    pub base: Option<Spanned<String>>,
    /// Longest ejection. Default `"60s"`.
    #[serde(default)]
    pub max: Option<Spanned<String>>,
    /// Share of the cluster that may be ejected at once. Default `"50%"`.
    #[serde(default)]
    pub cap: Option<Spanned<String>>,
}

/// `[[inbound]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inbound {
    /// The app's port.
    pub port: Spanned<u16>,
    /// `"detect"` (default, except on `opaque_ports`), `"http"` or `"tcp"`.
    #[serde(default)]
    pub protocol: Option<Spanned<String>>,
}
