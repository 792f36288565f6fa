//! What tests of connections need: a network in memory, limits and counts.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::task::LocalSet;

use super::pool::Limits;
use crate::config::{ClusterLimits, Http1, Http2};
use crate::telemetry::{EndpointMetrics, Metrics};
use crate::world::{KernelNet, Listener, Net};

/// A network of which the test holds the other ends.
#[derive(Clone, Default)]
pub(super) struct FakeNet {
    /// The servers' ends, in the order in which they were dialled.
    pub(super) servers: Rc<RefCell<Vec<DuplexStream>>>,
    /// What a server says at once.
    pub(super) greeting: &'static [u8],
}

/// Nobody listens.
pub(super) struct Nobody;

impl Net for FakeNet {
    type Io = DuplexStream;
    type Listener = Nobody;

    async fn connect(&self, _: SocketAddr, _: Option<IpAddr>) -> io::Result<DuplexStream> {
        if self.servers.borrow().len() == 8 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (io, mut server) = duplex(65536);
        server.write_all(self.greeting).await?;
        self.servers.borrow_mut().push(server);
        Ok(io)
    }

    async fn bind(&self, _: SocketAddr) -> io::Result<Nobody> {
        Ok(Nobody)
    }

    async fn orig_dst(&self, _: &mut DuplexStream) -> Option<SocketAddr> {
        None
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        KernelNet::default().spawn(name, task);
    }
}

impl Listener for Nobody {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Runs a test that spawns tasks.
pub(super) async fn run(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

pub(super) fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

pub(super) fn metrics() -> EndpointMetrics {
    let metrics = Metrics::default();
    let cluster = metrics.cluster("outbound", "orders");
    metrics.endpoint("outbound", "orders", address(), &cluster)
}

pub(super) fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(1),
        max_idle: Duration::from_secs(60),
        max_age: None,
        connections: 2,
        pending: 8,
        half_close: Duration::from_secs(60),
        cluster: ClusterLimits::default(),
        http1: Http1::default(),
        http2: Http2::default(),
        read: Http1::default(),
        ping: None,
    }
}
