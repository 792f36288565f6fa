//! The accept loop.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::task::Poll;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::config::defaults::ACCEPT_REST;
use crate::drain;
use crate::telemetry::Throttle;
use crate::world::{Listener, Net};

/// Listens on all addresses of both families, or of IPv4 alone where the machine has no IPv6.
///
/// # Errors
/// If the port is taken or may not be bound.
pub async fn bind_any<L>(bind: impl AsyncFn(SocketAddr) -> io::Result<L>, port: u16) -> io::Result<L> {
    match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        result => result,
    }
}

/// Accepts connections and runs `serve` for each in a task of its own, until a drain begins. Each
/// task holds a watch, so the drain waits for it.
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
    let each = drain.clone();
    let start = |io, peer| net.spawn(name, serve(io, peer, each.clone()));
    tokio::select! {
        biased;
        () = drain.signaled() => {}
        () = take_all(&mut listener, name, start) => {}
    }
    // The kernel has told the clients in the queue that they are connected; closing the listener
    // would reset them. The runtime has to ask it once more to know of them all.
    yield_now().await;
    while let Some((io, peer)) = already_there(&mut listener).await {
        start(io, peer);
    }
}

/// The same for ever: those that come during a drain are told of it at once, and hold it up like
/// the others.
pub async fn accept_always<N, F>(
    net: N,
    mut listener: N::Listener,
    drain: drain::Source,
    name: &'static str,
    serve: impl Fn(N::Io, SocketAddr, drain::Watch) -> F + 'static,
) where
    N: Net,
    F: Future<Output = ()> + 'static,
{
    take_all(&mut listener, name, |io, peer| net.spawn(name, serve(io, peer, drain.watch()))).await;
}

/// Accepts connections for ever.
async fn take_all<L: Listener>(listener: &mut L, name: &'static str, start: impl Fn(L::Io, SocketAddr)) {
    let failures = Throttle::default();
    loop {
        match listener.accept().await {
            Ok((io, peer)) => start(io, peer),
            // The connection was gone before it was taken out of the queue.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if let Some(withheld) = failures.admit(name, Instant::now()) {
                    tracing::warn!(%error, listener = name, withheld, "cannot accept; resting");
                }
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The next connection in the queue, without waiting for one to come.
async fn already_there<L: Listener>(listener: &mut L) -> Option<(L::Io, SocketAddr)> {
    let mut accepting = pin!(listener.accept());
    poll_fn(|cx| match accepting.as_mut().poll(cx) {
        Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
