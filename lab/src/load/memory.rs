//! A network in memory, for tests: with tokio's paused clock, what takes no time takes none, so
//! latencies are exact.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use proxy::world::{Listener, Net};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// Listeners by their port.
#[derive(Clone, Default)]
pub(crate) struct MemoryNet {
    ports: Rc<RefCell<BTreeMap<u16, mpsc::UnboundedSender<DuplexStream>>>>,
}

pub(crate) struct MemoryListener {
    at: SocketAddr,
    incoming: mpsc::UnboundedReceiver<DuplexStream>,
}

impl Net for MemoryNet {
    type Io = DuplexStream;
    type Listener = MemoryListener;

    async fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        self.ports.borrow().get(&to.port()).ok_or_else(refused)?.send(far).map_err(|_| refused())?;
        Ok(near)
    }

    async fn bind(&self, at: SocketAddr) -> io::Result<MemoryListener> {
        let (sender, incoming) = mpsc::unbounded_channel();
        self.ports.borrow_mut().insert(at.port(), sender);
        Ok(MemoryListener { at, incoming })
    }

    async fn orig_dst(&self, _: &mut DuplexStream) -> Option<SocketAddr> {
        None
    }

    #[allow(clippy::disallowed_methods, reason = "this is a seam")]
    fn spawn(&self, _: &'static str, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }
}

impl Listener for MemoryListener {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        let io = self.incoming.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((io, CLIENT))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }
}
