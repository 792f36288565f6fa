//! A network in memory for unit tests.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::{KernelNet, Listener, Net};

/// A network of which the test holds the other ends.
#[derive(Clone, Default)]
pub(crate) struct FakeNet {
    /// The servers' ends, in the order in which they were dialled.
    pub(crate) servers: Rc<RefCell<Vec<DuplexStream>>>,
    /// What a server says at once.
    pub(crate) greeting: &'static [u8],
    /// Where connections are refused.
    pub(crate) refuses: Option<SocketAddr>,
    /// Whether they are refused everywhere.
    pub(crate) is_empty: bool,
    /// When each connection was asked for.
    pub(crate) asked: Rc<RefCell<Vec<Instant>>>,
    /// Where accepted connections were meant to go.
    pub(crate) destination: Option<SocketAddr>,
    /// Wakes who waits for one of [`FakeNet::servers`].
    pub(crate) dialled: Rc<Notify>,
}

impl FakeNet {
    /// The server's end of the connection that was dialled first, or will be.
    pub(crate) async fn accept(&self) -> DuplexStream {
        while self.servers.borrow().is_empty() {
            self.dialled.notified().await;
        }
        self.servers.borrow_mut().remove(0)
    }
}

/// Nobody listens.
pub(crate) struct NoListener;

impl Net for FakeNet {
    type Io = DuplexStream;
    type Listener = NoListener;

    async fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> io::Result<DuplexStream> {
        self.asked.borrow_mut().push(Instant::now());
        if self.is_empty || self.refuses == Some(to) || self.servers.borrow().len() == 8 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (io, mut server) = duplex(65536);
        server.write_all(self.greeting).await?;
        self.servers.borrow_mut().push(server);
        self.dialled.notify_one();
        Ok(io)
    }

    async fn bind(&self, _: SocketAddr) -> io::Result<NoListener> {
        Ok(NoListener)
    }

    async fn orig_dst(&self, _: &mut DuplexStream) -> Option<SocketAddr> {
        self.destination
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        KernelNet::default().spawn(name, task);
    }
}

impl Listener for NoListener {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Runs a test that spawns tasks.
pub(crate) async fn run(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}
