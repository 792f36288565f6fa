//! The one way from the data plane to a server: pools, opaque connections and health checks all
//! connect here. A server of which it is known which workload it is must prove that by TLS, if this
//! workload has an identity too; any other is talked to as it is.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::config;
use crate::error::{Error, Kind};
use crate::mutant::Mutant;
use crate::spiffe_id::SpiffeId;
use crate::telemetry::HandshakeMetrics;
use crate::tls::{self, Alpn, Io, Preface, Stream, TlsStore};
use crate::world::Net;

/// A server to connect to: where it is, and who it must be. Whatever is remembered of a server is
/// kept by its target, so that an address which passes to another workload inherits nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Where it is.
    pub address: SocketAddr,
    /// Whose it is, as its registry says; `None` if nobody says so.
    pub identity: Option<SpiffeId>,
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
    /// This workload's certificate, and what counts the handshakes; `None` if it has no identity.
    tls: Option<(Arc<TlsStore>, HandshakeMetrics)>,
}

impl<N: Net> Connector<N> {
    /// One that asks `from` for the source address of each connection.
    pub fn new(net: N, from: fn(SocketAddr) -> Option<IpAddr>) -> Self {
        Connector { net, from, tls: None }
    }

    /// The same for a workload with an identity.
    pub fn with_tls(self, tls: Option<Arc<TlsStore>>, handshakes: &HandshakeMetrics) -> Self {
        Connector { tls: tls.map(|tls| (tls, handshakes.clone())), ..self }
    }

    /// The network that it connects over.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// Opens a connection to `server`, to speak `alpn` on it.
    ///
    /// # Errors
    /// What the network or the handshake says; [`Kind::of_connect`] sorts it.
    pub async fn connect(&self, server: &Target, alpn: Alpn) -> io::Result<Io<N>> {
        let address = server.address;
        let dial = || self.net.connect(address, (self.from)(address));
        let (Some((tls, handshakes)), Some(expected)) = (&self.tls, &server.identity) else {
            return dial().await.map(Stream::Plain);
        };
        if Mutant::TalksWithoutACertificate.is_planted() && tls.current().is_none() {
            return dial().await.map(Stream::Plain);
        }
        // Never without: whoever is known is talked to in private or not at all.
        tls.for_handshake()?;
        let io = dial().await?;
        let handshake = handshakes.begin();
        let secured = tls::connect(tls, io, address, expected, alpn).await?;
        handshake.succeeded();
        Ok(secured)
    }

    /// Opens a connection to `server` for bytes that the app has sent to `destination`.
    async fn connect_opaque(&self, server: &Target, destination: SocketAddr) -> io::Result<Io<N>> {
        let mut io = self.connect(server, Alpn::Opaque).await?;
        if matches!(io, Stream::Tls(_)) {
            io.write_all(&Preface { destination: Some(destination) }.encode()).await?;
            io.flush().await?;
        }
        Ok(io)
    }

    /// [`Connector::connect`] within `limit`.
    ///
    /// # Errors
    /// [`Kind::Connect`] and its relatives, with the server's address.
    pub async fn connect_within(&self, server: &Target, alpn: Alpn, limit: Duration) -> Result<Io<N>, Error> {
        within(limit, server.address, Box::pin(self.connect(server, alpn))).await
    }

    /// Opens a connection to `server` within `limit`, for bytes that nobody looks into and that the
    /// app has sent to `destination`.
    ///
    /// # Errors
    /// [`Kind::Connect`] and its relatives, with the server's address.
    pub async fn connect_opaque_within(
        &self,
        server: &Target,
        destination: SocketAddr,
        limit: Duration,
    ) -> Result<Io<N>, Error> {
        within(limit, server.address, Box::pin(self.connect_opaque(server, destination))).await
    }
}

/// Waits for a connection to `address`, but not longer than `limit`. `connecting` is boxed, because
/// every request would keep the kilobytes of a handshake, and most find a connection.
async fn within<I>(
    limit: Duration,
    address: SocketAddr,
    connecting: impl Future<Output = io::Result<I>>,
) -> Result<I, Error> {
    match timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(|cause| Error::at(Kind::of_connect(&cause), address, cause)),
        Err(_) => Err(Error::at(Kind::ConnectTimeout, address, no_answer_within(limit))),
    }
}

/// What is said of a server that does not answer in time.
pub fn no_answer_within(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}
