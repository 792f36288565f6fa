//! The one way from the data plane to a server: pools, opaque connections and health checks all
//! connect here, so that transport security has one place to be added.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::config;
use crate::error::{Error, Kind};
use crate::world::Net;

/// A server to connect to: where it is, and who it must be. Whatever is remembered of a server is
/// kept by its target, so that an address which passes to another workload inherits nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Where it is.
    pub address: SocketAddr,
    /// Whose it is, as its registry says; `None` if nobody says so.
    pub identity: Option<Arc<str>>,
}

impl From<SocketAddr> for Target {
    /// Whoever is there.
    fn from(address: SocketAddr) -> Self {
        Target { address, identity: None }
    }
}

impl From<&config::Endpoint> for Target {
    fn from(endpoint: &config::Endpoint) -> Self {
        Target { address: endpoint.address, identity: endpoint.identity.clone() }
    }
}

/// Opens connections to servers. Cheap to clone; one for each side of a worker.
#[derive(Debug, Clone)]
pub struct Connector<N> {
    net: N,
    /// Source address of a connection to an address, if one is asked for.
    from: fn(SocketAddr) -> Option<IpAddr>,
}

impl<N: Net> Connector<N> {
    /// One that asks `from` for the source address of each connection.
    pub fn new(net: N, from: fn(SocketAddr) -> Option<IpAddr>) -> Self {
        Connector { net, from }
    }

    /// The network that it connects over.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// Opens a connection to `server`.
    ///
    /// # Errors
    /// What the network says; [`Kind::of_connect`] sorts it.
    pub async fn connect(&self, server: &Target) -> io::Result<N::Io> {
        self.net.connect(server.address, (self.from)(server.address)).await
    }

    /// The same within `limit`.
    ///
    /// # Errors
    /// [`Kind::Connect`] and its relatives, with the server's address.
    pub async fn connect_within(&self, server: &Target, limit: Duration) -> Result<N::Io, Error> {
        let address = server.address;
        match timeout(limit, self.connect(server)).await {
            Ok(connected) => connected.map_err(|cause| Error::at(Kind::of_connect(&cause), address, cause)),
            Err(_) => Err(Error::at(Kind::ConnectTimeout, address, no_answer_within(limit))),
        }
    }
}

/// What is said of a server that does not answer in time.
pub fn no_answer_within(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}
