//! The built-in apps: what stands behind a sidecar when a scenario brings no program of its own.
//!
//! An HTTP echo, a line server that speaks first and a registry ([`registry`]), each with three
//! plain counters on a metrics port of its own. They are generic over [`Net`], so the very same app
//! serves a network namespace and a simulated host. They are kept dull: whatever a scenario
//! measures should be the mesh and not the app. One thread, no allocation for a response's body, no
//! time-out of their own, no `Date` header (it would read the wall clock).
//!
//! The HTTP echo speaks gRPC as well.
//!
//! Left out: TLS, and a graceful stop; a killed app ends at once and its connections break, which
//! is what faults are for.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use proxy::world::{Listener, Net, World};

use crate::plan::{APP_METRICS_PORT, AppKind, AppSpec};

pub mod body;
pub(crate) mod grpc;
pub mod http;
pub(crate) mod malformed;
pub mod metrics;
pub mod process;
pub mod registry;
pub mod tcp;

use metrics::AppCounters;
pub use registry::Disk;

/// How long to wait before accepting again when the process or the machine is out of descriptors or
/// memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Runs a built-in app until cancelled: on `spec.port` of every address, with its metrics on
/// loopback at [`APP_METRICS_PORT`].
///
/// # Errors
/// If `spec` asks for a program ([`AppKind::Command`]), a port is taken, or the listening socket
/// breaks.
pub async fn serve<N: Net>(world: World<N>, spec: AppSpec) -> io::Result<()> {
    serve_from(world, spec, Disk::default()).await
}

/// The same, with what an earlier process of the instance has left on its disk.
///
/// # Errors
/// As [`serve`].
pub async fn serve_from<N: Net>(world: World<N>, spec: AppSpec, disk: Disk) -> io::Result<()> {
    let app = App::new(&spec, &world, disk)?;
    let listener = bind_any(&world.net, spec.port).await?;
    let metrics = world.net.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), APP_METRICS_PORT)).await?;
    app.serve(world.net, listener, metrics).await
}

/// The same on listening sockets that the caller made, for callers that want other ports.
///
/// # Errors
/// As [`serve`], but for the ports.
pub async fn serve_on<N: Net>(
    world: World<N>,
    spec: AppSpec,
    listener: N::Listener,
    metrics: N::Listener,
) -> io::Result<()> {
    serve_on_disk(world, spec, Disk::default(), listener, metrics).await
}

/// The same, with what an earlier process of the instance has left on its disk.
///
/// # Errors
/// As [`serve_on`].
pub async fn serve_on_disk<N: Net>(
    world: World<N>,
    spec: AppSpec,
    disk: Disk,
    listener: N::Listener,
    metrics: N::Listener,
) -> io::Result<()> {
    App::new(&spec, &world, disk)?.serve(world.net, listener, metrics).await
}

/// Listens on every address of both families, or of IPv4 alone where IPv6 is off.
async fn bind_any<N: Net>(net: &N, port: u16) -> io::Result<N::Listener> {
    match net.bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).await {
        // A taken port stays taken: the fallback is for a machine without IPv6 and must not hide
        // this.
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            net.bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).await
        }
        done => done,
    }
}

/// An app with everything prepared that can be.
struct App {
    server: AppServer,
    counters: Rc<AppCounters>,
}

enum AppServer {
    Http(Rc<http::Echo>),
    Tcp(Rc<tcp::Lines>),
    Registry(Rc<registry::Registry>),
}

impl App {
    fn new<N: Net>(spec: &AppSpec, world: &World<N>, disk: Disk) -> io::Result<Self> {
        let counters = Rc::new(AppCounters::default());
        let net = world.net.clone();
        let spawn = move |work| net.spawn("app-work", work);
        let server = match &spec.kind {
            AppKind::Http(echo) => AppServer::Http(Rc::new(http::Echo::new(
                &spec.instance,
                echo,
                &world.rng,
                spawn,
                counters.clone(),
            )?)),
            AppKind::Tcp { greeting } => {
                AppServer::Tcp(Rc::new(tcp::Lines::new(&spec.instance, greeting, counters.clone())))
            }
            AppKind::Registry => {
                AppServer::Registry(Rc::new(registry::Registry::new(disk, counters.clone())))
            }
            AppKind::Command(words) => {
                let message = format!("`{}` is a program of its own, not a built-in app", words.join(" "));
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        };
        Ok(App { server, counters })
    }

    async fn serve<N: Net>(
        self,
        net: N,
        mut listener: N::Listener,
        mut metrics: N::Listener,
    ) -> io::Result<()> {
        let app = accept(&mut listener, |io| {
            let open = self.counters.connection();
            match &self.server {
                AppServer::Http(echo) => {
                    let echo = echo.clone();
                    net.spawn("app-http", async move {
                        let _open = open;
                        echo.connection(io).await;
                    });
                }
                AppServer::Registry(registry) => {
                    let registry = registry.clone();
                    net.spawn("app-registry", async move {
                        let _open = open;
                        registry.connection(io).await;
                    });
                }
                AppServer::Tcp(lines) => {
                    let lines = lines.clone();
                    net.spawn("app-tcp", async move {
                        let _open = open;
                        lines.connection(io).await;
                    });
                }
            }
        });
        let metrics = accept(&mut metrics, |io| {
            let echo = match &self.server {
                AppServer::Http(echo) => Some(echo.clone()),
                AppServer::Tcp(_) | AppServer::Registry(_) => None,
            };
            net.spawn("app-metrics", metrics::connection(io, self.counters.clone(), echo));
        });
        let leases = async {
            match &self.server {
                AppServer::Registry(registry) => registry.keep_leases().await,
                AppServer::Http(_) | AppServer::Tcp(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = leases => Ok(()),
            end = app => end,
            end = metrics => end,
        }
    }
}

/// Hands every connection to `each`, for as long as the socket works.
async fn accept<L: Listener>(listener: &mut L, mut each: impl FnMut(L::Io)) -> io::Result<()> {
    loop {
        match listener.accept().await {
            Ok((io, _)) => each(io),
            // The client gave up between its handshake and our accept.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                ) =>
            {
                tracing::warn!("cannot accept for now: {e}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Adds one to a counter of this thread.
fn bump(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

#[cfg(test)]
mod tests;
