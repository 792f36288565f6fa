//! The configuration in force: immutable, complete, checked. A request takes one snapshot and keeps
//! it to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::defaults;

mod access_log;
mod audit;
mod authorization;
mod balance;
mod cluster;
mod discovery;
mod dump;
mod health;
mod identity;
mod jwt;
mod limits;
mod outlier_detection;
mod retry;
pub mod route;

pub use access_log::{AccessLog, LogFilter, LogTarget};
pub use audit::{Audit, WhenFull};
pub use authorization::{
    Attribute, AttributeTest, Authorization, AuthorizationPolicy, DefaultAction, ExternalAuthorizer,
    PathNormalization, PathTemplate, PolicyAction, PolicyRule, TemplateSegment, ValuePattern,
};
pub use balance::{Balance, BalancePolicy, HashSource, SlowStart};
pub use cluster::{AttemptTimeouts, Cluster, Endpoint, Labels, RequestTimeouts};
pub use discovery::{Discovery, Dns, DnsQuery, Etcd, Register, Source};
pub use health::{App, Health, Probe, ProbeRequest, Thresholds};
pub use identity::{AgentSocket, CaClient, Identity, IdentitySource, Tls, TlsMode};
pub use jwt::{ClaimHeader, JwksSource, JwksUrl, JwtProvider, TokenHeader};
pub use limits::{Adaptive, ClusterLimits};
pub use outlier_detection::OutlierDetection;
pub use retry::{Retry, RetryBudget, RetryCondition, RetryConditions};

/// A configuration with every default filled in and every contradiction refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// Name of the local app's service, for telemetry.
    pub service: String,
    /// Name of this instance, for telemetry and the registry. Only read at start.
    pub instance: String,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
    /// Data-plane threads; `None`: as many as the CPUs that the process may use. Only read at
    /// start.
    pub workers: Option<usize>,
    /// Seed of every random choice; `None`: from the operating system. Only read at start.
    pub seed: Option<u64>,
    /// Ports. Only read at start.
    pub listen: Listen,
    /// SO_MARK of outgoing connections. Only read at start.
    pub mark: Option<u32>,
    /// Whether connections to addresses outside every cluster go where the app meant them to.
    pub passthrough: bool,
    /// How HTTP/1 is read.
    pub http1: Http1,
    /// What a peer may send at once over HTTP/2.
    pub http2: Http2,
    /// What outgoing requests say about who made them.
    pub forwarded: Forwarded,
    /// Ports that are opaque unless somebody said what is spoken there.
    pub opaque_ports: BTreeSet<u16>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// How much is taken on.
    pub limits: Limits,
    /// Whether a scrape lists each endpoint; `None`: as long as there are at most
    /// [`defaults::LISTED_ENDPOINTS`].
    pub per_endpoint_metrics: Option<bool>,
    /// Who this workload is, if it can prove that. Only read at start.
    pub identity: Option<Identity>,
    /// Mutual TLS on the way in.
    pub tls: Tls,
    /// The same for ports of the app where it differs.
    pub inbound_port_tls: BTreeMap<u16, TlsMode>,
    /// Ports of the app that take CONNECT requests.
    pub inbound_connect: BTreeSet<u16>,
    /// What others are told of the app, if anything. Only read at start.
    pub register: Option<Register>,
    /// The file with the token of those who may give orders on the admin port.
    pub admin_token: Option<PathBuf>,
    /// The access log, if there is to be one.
    pub access_log: Option<AccessLog>,
    /// The audit log, if there is to be one.
    pub audit: Option<Audit>,
    /// Clusters, in the order of the file.
    pub clusters: Vec<Arc<Cluster>>,
    /// What the app speaks on its ports; of a port that is not named,
    /// [`Snapshot::inbound_protocol`] knows.
    pub inbound: BTreeMap<u16, Protocol>,
    /// Time limits of requests to the app.
    pub inbound_timeouts: InboundTimeouts,
    /// The same for ports of the app where they differ.
    pub inbound_port_timeouts: BTreeMap<u16, InboundTimeouts>,
    /// Ports of the app whose requests in flight are limited by a adaptive concurrency limit.
    pub inbound_adaptive: BTreeMap<u16, Adaptive>,
    /// What the sidecar asks its app.
    pub app: App,
    /// Who may call the app.
    pub authorization: Arc<Authorization>,
    /// Whose tokens are believed.
    pub jwt: Vec<Arc<JwtProvider>>,
}

/// The ports that the sidecar listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// Intercepted outgoing connections.
    pub outbound: u16,
    /// Intercepted incoming connections.
    pub inbound: u16,
    /// Admin, on loopback.
    pub admin: u16,
    /// Metrics.
    pub metrics: u16,
    /// Readiness and liveness.
    pub health: u16,
}

impl Listen {
    /// Each port with its name.
    pub fn ports(&self) -> [(&'static str, u16); 5] {
        let Listen { outbound, inbound, admin, metrics, health } = *self;
        [
            ("outbound", outbound),
            ("inbound", inbound),
            ("admin", admin),
            ("metrics", metrics),
            ("health", health),
        ]
    }
}

/// Time limits of requests to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InboundTimeouts {
    /// From a request's head to its response's end; `None`: as long as it likes.
    #[serde(serialize_with = "dump::optional_duration")]
    pub request: Option<Duration>,
}

/// How large the head of a message may be, and how HTTP/1 is read, from clients and from endpoints.
/// Defaults: [`super::defaults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Http1 {
    /// Bytes of a message's head.
    pub header_bytes: usize,
    /// Header lines of a message.
    pub headers: usize,
    /// Whether header names keep their letters' case.
    pub preserve_header_case: bool,
}

impl Http1 {
    /// How a message is read to which another sidecar may have added what does not count.
    pub fn with_added(self) -> Self {
        let header_bytes = self.header_bytes + defaults::ADDED_HEADER_BYTES;
        Http1 { header_bytes, headers: self.headers + defaults::ADDED_HEADERS, ..self }
    }

    /// HTTP/2's largest list of headers, bytes as RFC 9113 section 6.5.2 counts them: 32 more for
    /// each line.
    pub fn header_list(self) -> u32 {
        let lines = 32 * (self.headers + defaults::ADDED_HEADERS);
        let bytes = defaults::H2_HEADER_LIST * self.header_bytes + defaults::ADDED_HEADER_BYTES + lines;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl Default for Http1 {
    fn default() -> Self {
        let (header_bytes, headers) = (defaults::HEADER_BYTES as usize, defaults::HEADERS as usize);
        Http1 { header_bytes, headers, preserve_header_case: false }
    }
}

/// What a peer may send at once over HTTP/2. Defaults: [`super::defaults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Http2 {
    /// Streams that a client may have open on one connection, and a sidecar on one to an endpoint.
    pub max_concurrent_streams: u32,
    /// Bytes that a peer may send on one stream unread.
    pub initial_stream_window_size: u32,
    /// The same for a whole connection.
    pub initial_connection_window_size: u32,
    /// How often an endpoint is pinged that has calls and is silent, and a client on another
    /// machine that is silent.
    pub connection_keepalive_interval: Duration,
}

impl Http2 {
    /// Streams that one connection carries: no more than its window has room for, or what is left
    /// unread on some would stall the others.
    pub fn streams(self) -> u32 {
        let room = self.initial_connection_window_size / self.initial_stream_window_size;
        room.min(self.max_concurrent_streams).max(1)
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Http2 {
            max_concurrent_streams: defaults::H2_MAX_STREAMS,
            initial_stream_window_size: defaults::H2_STREAM_WINDOW,
            initial_connection_window_size: defaults::H2_CONNECTION_WINDOW,
            connection_keepalive_interval: defaults::H2_KEEPALIVE_INTERVAL,
        }
    }
}

/// What outgoing requests say about who made them, in `X-Forwarded-For` and `X-Forwarded-Proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// Both are left as they are.
    #[default]
    Off,
    /// The app's address is added at the end of the one; the other is set if it is missing.
    Append,
    /// Both are set anew, and a `Forwarded` (RFC 7239) goes.
    Replace,
}

/// Time limits. Defaults: [`super::defaults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From SYN to a usable connection.
    #[serde(serialize_with = "dump::duration")]
    pub connect: Duration,
    /// For the first bytes of an undeclared protocol.
    #[serde(serialize_with = "dump::duration")]
    pub detect: Duration,
    /// Idle HTTP/1 connections to endpoints.
    #[serde(serialize_with = "dump::duration")]
    pub pool_idle: Duration,
    /// From the moment that the sidecar is not ready any more to the beginning of its drain.
    #[serde(serialize_with = "dump::duration")]
    pub drain_min: Duration,
    /// Silence in a tunnel.
    #[serde(serialize_with = "dump::duration")]
    pub tunnel_idle: Duration,
    /// How old a connection to an endpoint may become, give or take a tenth; `None`: as old as it
    /// likes.
    #[serde(serialize_with = "dump::optional_duration")]
    pub pool_age: Option<Duration>,
    /// A half-closed TCP connection whose other half is silent.
    #[serde(serialize_with = "dump::duration")]
    pub half_close: Duration,
    /// A TCP connection that moves nothing.
    #[serde(serialize_with = "dump::duration")]
    pub tcp_idle: Duration,
    /// A drain.
    #[serde(serialize_with = "dump::duration")]
    pub drain: Duration,
    /// How long nothing may move in either direction of a request; `None`: for ever.
    #[serde(serialize_with = "dump::optional_duration")]
    pub stream_idle: Option<Duration>,
    /// How long a client may take to send a request's head, and an HTTP/1 connection may idle
    /// between two.
    #[serde(serialize_with = "dump::duration")]
    pub request_headers: Duration,
    /// How long an accepted HTTP/2 connection may carry nothing; `None`: for ever.
    #[serde(serialize_with = "dump::optional_duration")]
    pub max_connection_idle: Option<Duration>,
    /// How old one may become, give or take a tenth; `None`: as old as it likes.
    #[serde(serialize_with = "dump::optional_duration")]
    pub max_connection_age: Option<Duration>,
}

/// How much is taken on at once. Defaults: [`super::defaults`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// Accepted connections that are open, of each direction.
    pub connections: usize,
    /// Requests in flight, of each direction.
    pub requests: usize,
    /// HTTP/1 connections that one worker opens to one endpoint.
    pub endpoint_connections: usize,
    /// Requests of one worker that may wait for a connection to one endpoint.
    pub pending: usize,
    /// The share of connections and requests, and of a worker's HTTP/1 connections to the app, that
    /// one client may hold.
    pub client_share: f64,
    /// Resident bytes of the process past which it takes on nothing more; `None`: a share of what
    /// its control group allows, if it allows so much and no more.
    pub memory: Option<u64>,
    /// Connections to each of the sidecar's own ports.
    pub admin_connections: usize,
}

impl Snapshot {
    /// Whether a scrape lists each endpoint.
    pub fn lists_endpoints(&self) -> bool {
        let few =
            || self.clusters.iter().map(|c| c.endpoints.len()).sum::<usize>() <= defaults::LISTED_ENDPOINTS;
        self.per_endpoint_metrics.unwrap_or_else(few)
    }

    /// What the app speaks on `port`.
    pub fn inbound_protocol(&self, port: u16) -> Protocol {
        let undeclared = || if self.opaque_ports.contains(&port) { Protocol::Tcp } else { Protocol::Detect };
        self.inbound.get(&port).copied().unwrap_or_else(undeclared)
    }

    /// How long a request to the app's `port` may take.
    pub fn inbound_request_timeout(&self, port: u16) -> Option<Duration> {
        self.inbound_port_timeouts.get(&port).unwrap_or(&self.inbound_timeouts).request
    }
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Look at the first bytes.
    #[default]
    Detect,
    /// HTTP/1.x, or HTTP/2 (gRPC) if the client begins with its preface.
    Http,
    /// Opaque bytes; the server may speak first.
    Tcp,
}
