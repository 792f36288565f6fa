//! The sidecar's configuration file, key for key, with the place of every value.

mod access_log;
mod adaptive;
mod audit;
mod authorization;
mod balance;
mod cluster;
mod discovery;
mod health;
mod identity;
mod jwt;
mod limits;
mod outlier_detection;
mod retry;
mod route;

use serde::Deserialize;
use serde_spanned::Spanned;

pub use access_log::AccessLog;
pub use adaptive::{Adaptive, AdaptiveTable};
pub use audit::Audit;
pub use authorization::{
    Authorization, ExternalAuthorizer, Policy, PolicyCondition, PolicyOperation, PolicyRule, PolicySource,
};
pub use balance::{Balance, SlowStart};
pub use cluster::{Cluster, ClusterTimeouts, Endpoint, EndpointTable};
pub use discovery::{Discovery, Dns, EndpointsFile, Etcd, Register};
pub use health::{App, Health, Probe};
pub use identity::{CaClient, Identity, Tls, WorkloadApi};
pub use jwt::{Jwks, Jwt, TokenHeader};
pub use limits::ClusterLimits;
pub use outlier_detection::OutlierDetection;
pub use retry::{Retry, RetryBudget};
pub use route::{
    Fault, HeaderEdits, Match, Mirror, Redirect, Respond, Rewrite, Route, Target, Value, ValueTable,
};

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name of the local app's service, for telemetry.
    pub service: Spanned<String>,
    /// Name of this instance. Default: the service's.
    pub instance: Option<Spanned<String>>,
    /// The zone that it is in, to prefer endpoints there. Default: none.
    pub zone: Option<Spanned<String>>,
    /// Data-plane threads. Default: as many as the CPUs that the process may use.
    pub workers: Option<Spanned<usize>>,
    /// Seed of every random choice. Default: from the operating system.
    pub seed: Option<u64>,
    /// SO_MARK of outgoing connections; takes CAP_NET_ADMIN. Default: none.
    pub mark: Option<u32>,
    /// Whether connections to addresses outside every cluster go where the app meant them to.
    /// Default: true.
    pub passthrough: Option<bool>,
    /// Whether header names keep their letters' case on the way through, over HTTP/1. Default:
    /// false.
    pub preserve_header_case: Option<bool>,
    /// What outgoing requests say about who made them: `"append"`, `"replace"` or `"off"`
    /// (default).
    pub forwarded: Option<Spanned<String>>,
    /// Ports that are opaque unless a `protocol` is given: of a cluster's virtual address or
    /// endpoints, or of the app. Replaces the default 25, 587, 3306, 4444, 4567, 4568, 5432, 6379,
    /// 9300, 11211.
    pub opaque_ports: Option<Vec<Spanned<u16>>>,
    /// Ports.
    #[serde(default)]
    pub listen: Listen,
    /// Time limits.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How much is taken on.
    #[serde(default)]
    pub limits: Limits,
    /// What a scrape tells.
    #[serde(default)]
    pub metrics: Metrics,
    /// What a peer may send at once over HTTP/2.
    #[serde(default)]
    pub http2: Http2,
    /// Retries after a failure, for every cluster that does not say otherwise.
    pub retry: Option<Retry>,
    /// How many retries there may be, for every cluster that does not say otherwise.
    pub retry_budget: Option<RetryBudget>,
    /// When an endpoint is ejected, for every cluster that does not say otherwise.
    pub outlier_detection: Option<OutlierDetection>,
    /// What the sidecar asks its own app.
    #[serde(default)]
    pub app: App,
    /// Which endpoint gets a request, for every cluster that does not say otherwise.
    pub balance: Option<Balance>,
    /// Who this workload is. Default: nobody in particular, and there is no TLS.
    pub identity: Option<Identity>,
    /// Mutual TLS on the way in.
    #[serde(default)]
    pub tls: Tls,
    /// Orders on the admin port.
    #[serde(default)]
    pub admin: Admin,
    /// The access log. Default: none.
    pub access_log: Option<AccessLog>,
    /// The audit log. Default: none.
    pub audit: Option<Audit>,
    /// Tells others where the app is. Default: nobody is told.
    pub register: Option<Register>,
    /// Who may call the app. Default: everybody.
    #[serde(default)]
    pub authorization: Authorization,
    /// Whose tokens are believed. Default: nobody's.
    #[serde(default)]
    pub jwt: Vec<Jwt>,
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
    pub outbound: Option<Spanned<u16>>,
    /// Intercepted incoming connections.
    pub inbound: Option<Spanned<u16>>,
    /// Admin, on loopback.
    pub admin: Option<Spanned<u16>>,
    /// Metrics.
    pub metrics: Option<Spanned<u16>>,
    /// Readiness and liveness.
    pub health: Option<Spanned<u16>>,
}

/// `[admin]`: who may give orders on the admin port. Only read at start.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// The file with a token that permits them, beside root and the sidecar's own user.
    pub token: Option<Spanned<String>>,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Whether each endpoint has series of its own. Default: as long as there are at most 1000
    /// endpoints.
    pub per_endpoint: Option<bool>,
}

/// `[timeouts]`: strings with units, such as `"250ms"`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// From SYN to a usable connection.
    pub connect: Option<Spanned<String>>,
    /// For the first bytes of an undeclared protocol.
    pub detect: Option<Spanned<String>>,
    /// Idle HTTP/1 connections to endpoints.
    pub pool_idle: Option<Spanned<String>>,
    /// How old a connection to an endpoint may become, give or take a tenth. Default `"10m"`;
    /// `"0s"` switches it off.
    pub pool_age: Option<Spanned<String>>,
    /// How long the sidecar still takes requests after it has stopped to be ready, because callers
    /// need time to notice.
    pub drain_min: Option<Spanned<String>>,
    /// Silence in a tunnel (WebSocket, CONNECT). Default `"1h"`.
    pub tunnel_idle: Option<Spanned<String>>,
    /// An opaque TCP connection of which one side has said that it sends no more, and the other is
    /// silent. Default `"60s"`.
    pub half_close: Option<Spanned<String>>,
    /// An opaque TCP connection that moves nothing. Default `"1h"`.
    pub tcp_idle: Option<Spanned<String>>,
    /// A drain.
    pub drain: Option<Spanned<String>>,
    /// How long nothing may move in either direction of a request. Default `"5m"`; `"0s"` switches
    /// it off.
    pub stream_idle: Option<Spanned<String>>,
    /// How long a client may take to send a request's head, and an HTTP/1 connection may idle
    /// between two. Default `"30s"`.
    pub request_headers: Option<Spanned<String>>,
    /// How long an accepted HTTP/2 connection may carry nothing. Default `"10m"`; `"0s"` switches
    /// it off.
    pub max_connection_idle: Option<Spanned<String>>,
    /// How old an accepted HTTP/2 connection may become, give or take a tenth. Default `"1h"`;
    /// `"0s"` switches it off.
    pub max_connection_age: Option<Spanned<String>>,
    /// From a request's head to its response's end, with all attempts, for every cluster and every
    /// port of the app that does not say otherwise. Off by default.
    pub request: Option<Spanned<String>>,
    /// From the beginning of an attempt to the response's head. Off by default.
    pub per_try: Option<Spanned<String>>,
    /// From the end of a request to the response's head. Off by default.
    pub response: Option<Spanned<String>>,
}

/// `[http2]`: Envoy's names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http2 {
    /// Streams that a client may have open on one connection. Default 200.
    pub max_concurrent_streams: Option<Spanned<u32>>,
    /// Bytes that a peer may send on one stream unread. Default `"64KiB"`.
    pub initial_stream_window_size: Option<Spanned<String>>,
    /// The same for a whole connection. Default `"256MiB"`.
    pub initial_connection_window_size: Option<Spanned<String>>,
    /// How often an endpoint is pinged that has calls and is silent, and a client on another
    /// machine that is silent. Default `"5m"`.
    pub connection_keepalive_interval: Option<Spanned<String>>,
}

/// `[limits]`: past them the sidecar says no at once (503, or the connection is closed;
/// 431 for a head that is too large).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Accepted connections that are open, of each direction. Default 50000, or fewer if the
    /// process may not open so many files.
    pub connections: Option<Spanned<usize>>,
    /// Requests in flight, of each direction. Default 10000.
    pub requests: Option<Spanned<usize>>,
    /// HTTP/1 connections that one worker opens to one endpoint. Default 2048.
    pub endpoint_connections: Option<Spanned<usize>>,
    /// Requests of one worker that may wait for a connection to, or a stream at, one endpoint.
    /// Default 1024.
    pub pending: Option<Spanned<usize>>,
    /// The share of connections and requests, and of a worker's HTTP/1 connections to the app, that
    /// one client of the app may hold. Default `"75%"`.
    pub client_share: Option<Spanned<String>>,
    /// Resident size of the process, such as `"256MiB"`. Default: 80 % of the memory limit of its
    /// control group; without such a limit, none.
    pub memory: Option<Spanned<String>>,
    /// Connections to each of the admin, metrics and health ports. Default 32.
    pub admin_connections: Option<Spanned<usize>>,
    /// Bytes of the head of a message: request line or status line and headers. Default 65536.
    pub header_bytes: Option<Spanned<u32>>,
    /// Header lines of a message. Default 100.
    pub headers: Option<Spanned<u32>>,
}

/// `[[inbound]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inbound {
    /// The app's port.
    pub port: Spanned<u16>,
    /// `"detect"` (default, except on `opaque_ports`), `"http"` or `"tcp"`.
    pub protocol: Option<Spanned<String>>,
    /// `"strict"`, `"permissive"` or `"disabled"`: whom it is open to. Default: the `mode` of
    /// `[tls]`.
    pub tls: Option<Spanned<String>>,
    /// Whether the app gets CONNECT requests. What passes in a tunnel nobody looks at. Default:
    /// false.
    #[serde(default)]
    pub connect: bool,
    /// What differs from `[timeouts]`.
    #[serde(default)]
    pub timeouts: InboundTimeouts,
    /// Whether requests in flight are limited by a limit that follows the app's latency: true, or a
    /// table with its bounds. Default: false.
    pub adaptive_concurrency: Option<Spanned<Adaptive>>,
}

/// `[inbound.timeouts]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundTimeouts {
    /// From a request's head to its response's end. Default: that of `[timeouts]`; `"0s"` switches
    /// it off.
    pub request: Option<Spanned<String>>,
}
