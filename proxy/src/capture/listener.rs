//! The accept loop.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use crate::drain;
use crate::world::{Listener, Net};

/// How long accepting rests after a failure. A process out of file descriptors would otherwise spin on EMFILE, since
/// the connection that it cannot accept stays in the queue; in this time some descriptor may be freed.
pub const REST: Duration = Duration::from_millis(50);

/// Listens on all addresses of both families, or of IPv4 alone where the machine has no IPv6.
///
/// # Errors
/// If the port is taken or may not be bound.
pub async fn bind_any<N: Net>(net: &N, port: u16) -> io::Result<N::Listener> {
    match net.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            net.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        result => result,
    }
}

/// Accepts connections and runs `serve` for each in a task of its own, until a drain begins. Each task holds a watch, so
/// the drain waits for it.
pub async fn accept<N, F>(
    net: N,
    mut listener: N::Listener,
    mut drain: drain::Watch,
    name: &'static str,
    serve: impl Fn(N::Io, SocketAddr, drain::Watch) -> F + 'static,
) where
    N: Net,
    F: Future<Output = ()> + 'static,
{
    let serve = Rc::new(serve);
    let each = drain.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.signaled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((io, peer)) => net.spawn(name, serve(io, peer, each.clone())),
            Err(error) => {
                tracing::warn!(%error, listener = name, "cannot accept; resting");
                sleep(REST).await;
            }
        }
    }
}
