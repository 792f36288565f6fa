//! Apps: what stands behind a sidecar, one kind a file or folder.
//!
//! The file of a kind owns everything about it: its table in a scenario, what can be wrong with
//! that, what loads may speak to it, how it is served, and what the kernel world runs in its place.
//! To add a kind, write its file (an implementation of [`App`]) and register it in `kinds!`.
//!
//! The built-in apps are an HTTP echo, a line server that speaks first and a registry, each with
//! plain counters on a metrics port of its own. They are generic over [`Net`], so the very same app
//! serves a network namespace and a simulated host. They are kept dull: whatever a scenario
//! measures should be the mesh and not the app. One thread, no allocation for a response's body, no
//! timeout of their own, no `Date` header (it would read the wall clock).
//!
//! Left out: TLS, and a graceful stop; a killed app ends at once and its connections break, which
//! is what faults are for.

mod command;
pub(crate) mod http;
mod kind;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod registry;
mod store;
mod tcp;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use proxy::world::{Listener, Net, World};
use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

pub use kind::{App, ForeignCommand, ForeignProgram, Place, Server, Start};
use metrics::AppCounters;
pub use store::RegistryData;

use crate::syntax::diagnose::Mistake;

/// The metrics of a built-in app, on loopback.
pub const APP_METRICS_PORT: u16 = 9100;

/// How long to wait before accepting again when the process or the machine is out of descriptors or
/// memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Runs a built-in app until cancelled: on `spec.port` of every address, with its metrics on
/// loopback at [`APP_METRICS_PORT`]. `data` holds what an earlier process of the instance has left.
///
/// # Errors
/// If the app is not built in, a port is taken, or the listening socket breaks.
pub async fn serve<N: Net>(world: World<N>, spec: AppSpec, data: RegistryData) -> io::Result<()> {
    let counters = Rc::new(AppCounters::default());
    let start = Start { instance: &spec.instance, world: &world, data, counters };
    let bind = async || {
        let listener = bind_any(&world.net, spec.port).await?;
        let metrics = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), APP_METRICS_PORT);
        Ok((listener, world.net.bind(metrics).await?))
    };
    spec.kind.serve(start, bind).await
}

/// The same on listening sockets that the caller made, for callers that want other ports.
///
/// # Errors
/// As [`serve`], but for the ports.
pub async fn serve_on<N: Net>(
    world: World<N>,
    spec: AppSpec,
    data: RegistryData,
    listener: N::Listener,
    metrics: N::Listener,
) -> io::Result<()> {
    let counters = Rc::new(AppCounters::default());
    let start = Start { instance: &spec.instance, world: &world, data, counters };
    spec.kind.serve(start, async || Ok((listener, metrics))).await
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

/// An app to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppSpec {
    /// The instance's name; the built-in apps say it in their answers.
    pub instance: String,
    /// The port that it listens on.
    pub port: u16,
    /// Which app.
    pub kind: AppKind,
}

/// Registers the kinds: the key of each in `app = { .. }`, and its type.
macro_rules! kinds {
    ($($key:literal: $kind:ident($module:ident::$app:ident),)*) => {
        $(pub use $module::$app;)*

        /// `app = { .. }`: exactly one of the kinds.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct AppTable {
            $(
                #[doc = concat!("See [`", stringify!($app), "`].")]
                #[serde(default, rename = $key)]
                pub $module: Option<Spanned<<$app as App>::Table>>,
            )*
        }

        /// Which app.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum AppKind {
            $(
                #[doc = concat!("See [`", stringify!($app), "`].")]
                #[serde(rename = $key)]
                $kind($app),
            )*
        }

        /// How a scenario writes each, in the fewest words.
        const EXAMPLES: &[&str] = &[$(<$app as App>::EXAMPLE),*];

        impl AppTable {
            /// The kinds that it has, and where each is written.
            fn kinds(&self) -> Vec<(&'static str, Range<usize>)> {
                let all = [$(($key, self.$module.as_ref().map(Spanned::span))),*];
                all.into_iter().filter_map(|(key, at)| at.map(|at| (key, at))).collect()
            }

            /// Whether the timeline can change how the app answers.
            pub fn is_controlled(&self) -> bool {
                $((self.$module.is_some() && <$app as App>::IS_CONTROLLED))||*
            }

            fn resolve_first(&self, mistakes: &mut Vec<Mistake>) -> Option<AppKind> {
                $(if let Some(table) = &self.$module {
                    return <$app as App>::resolve(table, mistakes).map(AppKind::$kind);
                })*
                None
            }
        }

        impl AppKind {
            /// Its key in a scenario.
            pub fn key(&self) -> &'static str {
                match self { $(AppKind::$kind(_) => $key,)* }
            }

            /// The schemes of the loads that it answers; empty if that cannot be known.
            pub fn speaks(&self) -> &'static [&'static str] {
                match self { $(AppKind::$kind(_) => <$app as App>::SPEAKS,)* }
            }

            /// Whether it speaks before its clients do.
            pub fn speaks_first(&self) -> bool {
                match self { $(AppKind::$kind(_) => <$app as App>::SPEAKS_FIRST,)* }
            }

            /// Whether the lab brings it, and the simulator can run it.
            pub fn is_built_in(&self) -> bool {
                match self { $(AppKind::$kind(_) => <$app as App>::IS_BUILT_IN,)* }
            }

            /// What the kernel world runs in place of the built-in app, if it does.
            pub fn foreign(&self) -> Option<&dyn ForeignProgram> {
                match self { $(AppKind::$kind(app) => app.foreign(),)* }
            }

            async fn serve<N: Net>(
                &self,
                start: Start<'_, N>,
                listener: impl AsyncFnOnce() -> io::Result<(N::Listener, N::Listener)>,
            ) -> io::Result<()> {
                let (net, counters) = (start.world.net.clone(), start.counters.clone());
                match self {
                    $(AppKind::$kind(app) => {
                        let server = Rc::new(app.server(start)?);
                        let (listener, metrics) = listener().await?;
                        run(server, net, counters, listener, metrics).await
                    })*
                }
            }
        }
    };
}

kinds! {
    "http": Http(http::HttpEcho),
    "tcp": Tcp(tcp::LineServer),
    "registry": Registry(registry::Registry),
    "cmd": Command(command::CommandApp),
}

/// Resolves `app = { .. }`.
pub fn resolve(table: &Spanned<AppTable>, mistakes: &mut Vec<Mistake>) -> Option<AppKind> {
    let mut kinds = table.get_ref().kinds().into_iter().map(|(_, at)| at);
    let mistake = match (kinds.next(), kinds.next()) {
        (Some(_), None) => return table.get_ref().resolve_first(mistakes),
        (None, _) => Mistake::new(table.span(), "this app is of no kind", "which app?"),
        (Some(first), Some(second)) => {
            let mistake = Mistake::new(first, "this app is of several kinds at once", "one kind");
            kinds.fold(mistake.also(second, "another"), |mistake, at| mistake.also(at, "another"))
        }
    };
    let (last, others) = EXAMPLES.split_last().expect("there are kinds");
    mistakes.push(mistake.help(format!("exactly one: {} or {last}", others.join(", "))));
    None
}

/// Serves a built-in app, for as long as its sockets work.
async fn run<N: Net, S: Server>(
    server: Rc<S>,
    net: N,
    counters: Rc<AppCounters>,
    mut listener: N::Listener,
    mut metrics: N::Listener,
) -> io::Result<()> {
    let app = accept(&mut listener, |io| {
        let (server, open) = (server.clone(), counters.connection());
        net.spawn(S::TASK, async move {
            let _open = open;
            server.connection(io).await;
        });
    });
    let metrics = accept(&mut metrics, |io| {
        let (server, counters) = (server.clone(), counters.clone());
        let control = move |query: &str| server.control(query);
        net.spawn("app-metrics", metrics::connection(io, counters, control));
    });
    tokio::select! {
        biased;
        () = server.background() => Ok(()),
        end = app => end,
        end = metrics => end,
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

#[cfg(test)]
mod tests;
