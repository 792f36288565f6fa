//! Where endpoints are learned, and where this sidecar tells of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Endpoint;

/// Where a cluster's endpoints are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// From whom.
    pub source: Source,
    /// How long endpoints are kept after the source says that there are none.
    pub empty_grace: Duration,
    /// How long endpoints are kept that the source does not confirm; `None`: for ever.
    pub stale_after: Option<Duration>,
}

/// From whom endpoints are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file that is followed.
    File(PathBuf),
    /// A prefix in etcd.
    Etcd(Etcd),
    /// A name.
    Dns(Dns),
}

/// A name to be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// What is asked.
    pub wanted: Wanted,
    /// Name servers; none: the machine's.
    pub servers: Vec<SocketAddr>,
    /// The shortest time after which it is asked again.
    pub min_ttl: Duration,
    /// The longest.
    pub max_ttl: Duration,
}

/// What is asked of a name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The addresses of a host, all with this port.
    Host {
        /// Its name, absolute.
        name: String,
        /// The port.
        port: u16,
    },
    /// The servers of a service: `_http._tcp.orders.example`.
    Service(String),
}

/// A prefix in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// Its servers. At least one.
    pub servers: Vec<SocketAddr>,
    /// What all keys of a service begin with.
    pub prefix: String,
}

/// What this sidecar tells others of its app.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    /// Where.
    pub etcd: Etcd,
    /// How long it still stands there after the sidecar has vanished.
    pub ttl: Duration,
    /// What it says.
    pub endpoint: Arc<Endpoint>,
}
