//! Where endpoints are learned, and where this sidecar tells of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Endpoint, dump};

/// Where a cluster's endpoints are learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Discovery {
    /// From whom.
    pub source: Source,
    /// How long endpoints are kept after the source says that there are none.
    #[serde(serialize_with = "dump::duration")]
    pub empty_grace: Duration,
    /// How long endpoints are kept that the source does not confirm; `None`: for ever.
    #[serde(serialize_with = "dump::optional_duration")]
    pub stale_after: Option<Duration>,
}

/// From whom endpoints are learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file that is followed.
    File(PathBuf),
    /// A prefix in etcd.
    Etcd(Etcd),
    /// A name.
    Dns(Dns),
}

/// A name to be resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// What is asked.
    pub wanted: DnsQuery,
    /// Name servers; none: the machine's.
    pub servers: Vec<SocketAddr>,
    /// The shortest time after which it is asked again.
    #[serde(serialize_with = "dump::duration")]
    pub min_ttl: Duration,
    /// The longest.
    #[serde(serialize_with = "dump::duration")]
    pub max_ttl: Duration,
}

/// What is asked of a name server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsQuery {
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Etcd {
    /// Its servers. At least one.
    pub servers: Vec<SocketAddr>,
    /// What all keys of a service begin with.
    pub prefix: String,
}

/// What this sidecar tells others of its app.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Register {
    /// Where.
    pub etcd: Etcd,
    /// How long it still stands there after the sidecar has vanished.
    #[serde(serialize_with = "dump::duration")]
    pub ttl: Duration,
    /// What it says.
    pub endpoint: Arc<Endpoint>,
}
