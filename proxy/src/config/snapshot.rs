//! The configuration in force: immutable, complete, checked. A request takes one snapshot and keeps it to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A configuration with every default filled in and every contradiction refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Name of the local app's service, for telemetry.
    pub service: String,
    /// Name of this instance, for telemetry.
    pub instance: String,
    /// Data-plane threads; `None`: as many as the CPUs that the process may use. Only read at start.
    pub workers: Option<usize>,
    /// Seed of every random choice; `None`: from the operating system. Only read at start.
    pub seed: Option<u64>,
    /// Ports. Only read at start.
    pub listen: Listen,
    /// SO_MARK of outgoing connections. Only read at start.
    pub mark: Option<u32>,
    /// Whether connections to addresses outside every cluster go where the app meant them to.
    pub passthrough: bool,
    /// Ports that are opaque unless somebody said what is spoken there.
    pub opaque_ports: BTreeSet<u16>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Clusters, in the order of the file.
    pub clusters: Vec<Arc<Cluster>>,
    /// What the app speaks on its ports; of a port that is not named, [`Snapshot::inbound_protocol`] knows.
    pub inbound: BTreeMap<u16, Protocol>,
}

/// The ports that the sidecar listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Time limits. Defaults: [`super::defaults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From SYN to a usable connection.
    pub connect: Duration,
    /// For the first bytes of an undeclared protocol.
    pub detect: Duration,
    /// Idle HTTP/1 connections to endpoints.
    pub pool_idle: Duration,
    /// A half-closed TCP connection whose other half is silent.
    pub half_close: Duration,
    /// A TCP connection that moves nothing.
    pub tcp_idle: Duration,
    /// A drain.
    pub drain: Duration,
}

/// A set of endpoints behind virtual addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The addresses that apps dial.
    pub addresses: Vec<SocketAddr>,
    /// Server names of TLS connections to addresses of no cluster that lead here, in lower case; `*.` stands for every
    /// name below.
    pub sni: Vec<String>,
    /// What its endpoints speak.
    pub protocol: Protocol,
    /// Ports of its addresses that are opaque although [`Cluster::protocol`] says to detect, since nobody declared it.
    pub opaque_at: BTreeSet<u16>,
    /// Where it really is.
    pub endpoints: Vec<SocketAddr>,
    /// Tries after a failure.
    pub retry: Retry,
    /// When an endpoint is left alone.
    pub breaker: Breaker,
}

impl Snapshot {
    /// What the app speaks on `port`.
    pub fn inbound_protocol(&self, port: u16) -> Protocol {
        let undeclared = || if self.opaque_ports.contains(&port) { Protocol::Tcp } else { Protocol::Detect };
        self.inbound.get(&port).copied().unwrap_or_else(undeclared)
    }
}

impl Cluster {
    /// What is spoken with the virtual address at `port`.
    pub fn protocol_at(&self, port: u16) -> Protocol {
        if self.opaque_at.contains(&port) { Protocol::Tcp } else { self.protocol }
    }
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Look at the first bytes.
    #[default]
    Detect,
    /// HTTP/1.x.
    Http,
    /// Opaque bytes; the server may speak first.
    Tcp,
}

/// Tries after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first; 0 switches retries off.
    pub attempts: u32,
}

/// When an endpoint is left alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Failures in a row that eject it; 0 switches ejection off.
    pub consecutive_failures: u32,
    /// First ejection; each further one doubles it.
    pub base: Duration,
    /// Longest ejection.
    pub max: Duration,
    /// Share of the cluster that may be ejected at once, 0 to 1; one endpoint always may.
    pub cap: f64,
}
