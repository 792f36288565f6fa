//! The order in which a sidecar starts and stops; no other place knows both.
//!
//! Start: configuration, the sidecar's own identity, listeners of the control pages and of every worker, ready, the app
//! if it is a child ([`crate::command`]).
//!
//! Stop (SIGTERM): not ready and not in the registry, so that callers go elsewhere; after the time they may need for
//! that, no more connections are taken for the app, those that are open are told (`connection: close`, GOAWAY), and
//! what is under way ends; then the app is told, if it is a child. The way out takes connections until the process
//! ends; what is open there is told last. What is left at the deadline is cut, and a second signal cuts it at once.
//!
//! Workers are threads with a runtime, listeners (`SO_REUSEPORT`) and pools of their own, so a request never changes
//! threads; control has its own thread, so readiness and metrics answer under load. In the simulator the same parts run
//! on one simulated host: [`serve`].

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::admin::TEXT;
use crate::balance::Table;
use crate::capture::listener::{accept, accept_always, bind_any};
use crate::config::{Snapshot, Timeouts, defaults};
use crate::discovery::{self, Board};
use crate::drain;
use crate::endpoint::{Endpoint, Health};
use crate::health::app::{AppHealth, Which};
use crate::inbound::{self, Inbound};
use crate::limit;
use crate::mutant;
use crate::outbound::{self, Outbound};
use crate::telemetry::Metrics;
use crate::world::{Net, World};

mod kernel;
mod log;
mod pages;
mod ports;

pub use kernel::{Options, run};
use pages::control;

/// The exit code of a sidecar that failed while running.
pub const FAILED: u8 = 1;
/// How often idle connections are looked at. Also bounds how long one may overstay its idle limit.
const SWEEP: Duration = Duration::from_secs(1);

/// What all threads of a sidecar share.
pub struct Sidecar {
    table: Arc<ArcSwap<Table>>,
    /// The configuration as it was given; the table's has the endpoints that were discovered in it.
    given: Mutex<Arc<Snapshot>>,
    discovered: Arc<Board>,
    /// Until when this sidecar is not ready unless every source of endpoints has answered.
    first_discovery: Instant,
    /// Whether all workers listen and no drain has begun, and whether the app stands in the registry.
    open: watch::Sender<bool>,
    registered: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    /// Workers that do not listen yet; [`DRAINING`] once the sidecar is on its way out.
    unready: AtomicUsize,
    stop: Notify,
    /// All workers listen.
    started: Notify,
    /// What the probes of the local app say.
    app: watch::Sender<AppHealth>,
}

const DRAINING: usize = usize::MAX;

impl Sidecar {
    /// A sidecar with this configuration that will have `workers` workers. Call it on a tokio runtime: endpoints
    /// remember when they were made.
    pub fn new(snapshot: Snapshot, workers: usize) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        let (snapshot, now) = (Arc::new(snapshot), Instant::now());
        let discovered = Arc::new(Board::default());
        discovered.want(&snapshot, &metrics);
        let (app, _) = watch::channel(AppHealth::beginning(&snapshot.app));
        let table = Table::new(snapshot.clone(), None, &metrics, now);
        Arc::new(Sidecar {
            app,
            given: Mutex::new(snapshot),
            discovered,
            first_discovery: now + defaults::FIRST_DISCOVERY,
            open: watch::Sender::new(false),
            registered: watch::Sender::new(false),
            table: Arc::new(ArcSwap::from_pointee(table)),
            metrics,
            unready: AtomicUsize::new(workers),
            stop: Notify::new(),
            started: Notify::new(),
        })
    }

    /// Puts a new configuration in force. Requests under way keep the one that they began with.
    pub fn apply(&self, snapshot: Arc<Snapshot>) {
        self.discovered.want(&snapshot, &self.metrics);
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.prepare();
        self.metrics.reloaded(true);
    }

    /// Watches what the probes of the local app say.
    pub fn app_health(&self) -> watch::Receiver<AppHealth> {
        self.app.subscribe()
    }

    /// Time limits in force.
    fn timeouts(&self) -> Timeouts {
        self.table.load().snapshot.timeouts
    }

    /// Puts the configuration in force with the endpoints that are known now.
    fn prepare(&self) {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let filled = self.discovered.fill(&given);
        let table = Table::new(filled, Some(&self.table.load()), &self.metrics, Instant::now());
        self.table.store(Arc::new(table));
    }

    fn drain(&self) {
        tracing::info!("draining");
        self.unready.store(DRAINING, Ordering::Release);
        self.open.send_replace(false);
    }

    /// Waits until the registry has forgotten the app, but not for long.
    async fn deregistered(&self) {
        let mut registered = self.registered.subscribe();
        let gone = registered.wait_for(|registered| !registered);
        if tokio::time::timeout(defaults::DEREGISTER_TIMEOUT, gone).await.is_err() {
            tracing::warn!("the registry does not answer; callers see this app until its lease ends");
        }
    }

    fn listening(&self) {
        // Never counts up again after a drain has begun.
        let before = self.unready.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            (n != DRAINING).then(|| n.saturating_sub(1))
        });
        if before == Ok(1) {
            self.open.send_replace(true);
            self.started.notify_one();
        }
    }

    fn readiness(&self) -> (StatusCode, &'static str, String) {
        match self.unready.load(Ordering::Acquire) {
            0 if !self.discovered.has_heard_of_all() && Instant::now() < self.first_discovery => {
                let text = "endpoints are not discovered yet; see /clusters\n";
                (StatusCode::SERVICE_UNAVAILABLE, TEXT, text.into())
            }
            0 => match self.app.borrow().unready() {
                None => (StatusCode::OK, TEXT, "ready\n".into()),
                Some((which, said)) => {
                    let text = format!("the app's {} probe does not pass: {}\n", which.label(), said.why);
                    (StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
                }
            },
            DRAINING => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n".into()),
            n => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{n} workers do not listen yet\n")),
        }
    }
}

impl Sidecar {
    /// What a probe of the app said last.
    fn probe(&self, which: Which) -> (StatusCode, &'static str, String) {
        match self.app.borrow().get(which) {
            None => (StatusCode::NOT_FOUND, TEXT, format!("there is no [app.{}]\n", which.label())),
            Some(said) if said.passes => (StatusCode::OK, TEXT, "passes\n".into()),
            Some(said) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{}\n", said.why)),
        }
    }

    /// Everything that is counted. What is read off a state and not counted up is brought up to date first.
    fn scrape(&self) -> String {
        let table = self.table.load();
        for cluster in &table.clusters {
            let name = &cluster.config.name;
            let count = |wanted: &dyn Fn(&Endpoint) -> bool| {
                cluster.endpoints.iter().filter(|endpoint| wanted(endpoint)).count()
            };
            let metrics = &self.metrics;
            metrics.set_endpoints(name, "known", cluster.endpoints.len());
            metrics.set_endpoints(name, "ejected", count(&Endpoint::is_ejected));
            metrics.set_endpoints(name, "unhealthy", count(&|e| e.health() == Health::Unhealthy));
            let (in_flight, limit) = (cluster.concurrency.in_flight(), cluster.concurrency.limit());
            metrics.set_concurrency("outbound", name, in_flight, limit);
        }
        for (port, concurrency) in &table.app {
            let (in_flight, limit) = (concurrency.in_flight(), concurrency.limit());
            self.metrics.set_concurrency("inbound", &port.to_string(), in_flight, limit);
        }
        let app = self.app.borrow();
        for which in Which::ALL {
            if let Some(said) = app.get(which) {
                self.metrics.set_probe(which.label(), said.passes);
            }
        }
        self.metrics.text()
    }
}

/// Tells the two sides to drain.
struct Signals {
    inbound: drain::Signal,
    outbound: drain::Signal,
}

/// Learns that the sides drain.
#[derive(Clone)]
pub struct Watches {
    inbound: drain::Watch,
    /// A listener does not hold up the drain of the way out, because it is open until the end.
    outbound: drain::Source,
}

fn drains() -> (Signals, Watches) {
    let (inbound, inbound_watch) = drain::channel();
    let (outbound, _) = drain::channel();
    let watches = Watches { inbound: inbound_watch, outbound: outbound.source() };
    (Signals { inbound, outbound }, watches)
}

/// Binds one worker's listeners and accepts connections: for the app until the drain begins, of the app for ever. The
/// connections end in tasks of their own, each of which holds a watch of its side's drain.
///
/// # Errors
/// If a listener cannot be bound.
pub async fn work<N: Net>(world: World<N>, sidecar: Arc<Sidecar>, drains: Watches) -> io::Result<()> {
    let listen = sidecar.table.load().snapshot.listen;
    let bind = |at| world.net.bind(at);
    let out = bind_any(bind, listen.outbound).await.map_err(named("outbound", listen.outbound))?;
    let into = bind_any(bind, listen.inbound).await.map_err(named("inbound", listen.inbound))?;
    let outbound = Outbound::new(&world, sidecar.table.clone(), sidecar.metrics.clone());
    let inbound = Inbound::new(&world, sidecar.table.clone(), sidecar.metrics.clone());
    sidecar.listening();

    let (o, i) = (outbound.clone(), inbound.clone());
    let accepting = async {
        tokio::join!(
            accept_always(world.net.clone(), out, drains.outbound, "outbound", move |io, peer, drain| {
                outbound::connection(o.clone(), io, peer, drain)
            }),
            accept(world.net.clone(), into, drains.inbound, "inbound", move |io, peer, drain| {
                inbound::connection(i.clone(), io, peer, drain)
            }),
        );
    };
    let sweeping = async {
        let mut before = sidecar.table.load_full();
        loop {
            sleep(SWEEP).await;
            let table = sidecar.table.load_full();
            if !Arc::ptr_eq(&before, &table) {
                for gone in table.gone_since(&before) {
                    outbound.pool.forget(gone);
                }
                if mutant::is_planted("reload-forgets-connections") {
                    outbound.pool.clear();
                }
                before = table;
            }
            let max_idle = before.snapshot.timeouts.pool_idle;
            outbound.pool.sweep(max_idle);
            inbound.pool.sweep(max_idle);
        }
    };
    tokio::select! {
        biased;
        () = accepting => {}
        () = sweeping => {}
    }
    Ok(())
}

/// Keeps the app in the registry while it should be there.
async fn register<N: Net>(world: World<N>, sidecar: &Sidecar) {
    let table = sidecar.table.load_full();
    let Some(register) = table.snapshot.register.clone() else { return };
    let tell = |registered: bool| {
        sidecar.metrics.registered.set(registered.into());
        sidecar.registered.send_replace(registered);
    };
    // It should be there while the workers listen, no drain has begun, and the app's own probes have nothing against it.
    let (want, wanted) = watch::channel(false);
    let deciding = async {
        let (mut open, mut app) = (sidecar.open.subscribe(), sidecar.app.subscribe());
        loop {
            let ready = *open.borrow_and_update() && app.borrow_and_update().unready().is_none();
            want.send_if_modified(|wanted| std::mem::replace(wanted, ready) != ready);
            tokio::select! {
                biased;
                _ = open.changed() => {}
                _ = app.changed() => {}
            }
        }
    };
    let instance = table.snapshot.instance.clone();
    tokio::select! {
        biased;
        () = deciding => {}
        () = discovery::register::run(world, register, instance, wanted, tell) => {}
    }
}

/// Sheds load while memory is short, and gives back what is not needed any more.
async fn watch_memory<N: Net>(net: N, sidecar: &Sidecar) {
    let default = net.memory_limit().map(|limit| (limit as f64 * defaults::MEMORY_SHARE) as u64);
    let mut shedding = false;
    let mut give_back = limit::memory::GiveBack::default();
    while let Some(used) = net.resident() {
        let table = sidecar.table.load();
        if let Some(budget) = table.snapshot.limits.memory.or(default) {
            shedding = limit::memory::is_short(used, budget, shedding);
            if table.load.set_out_of_memory(shedding) {
                let (used, budget) = (used >> 20, budget >> 20);
                match shedding {
                    true => tracing::warn!(used, budget, "memory is short (MiB): nothing more is taken on"),
                    false => tracing::info!(used, budget, "memory is no longer short (MiB)"),
                }
            }
        }
        if give_back.is_due(Instant::now(), table.load.carried(), shedding) {
            net.give_memory_back();
        }
        drop(table);
        sleep(limit::memory::INTERVAL).await;
    }
}

/// A whole sidecar on one thread, until `stop` ends and the drain after it: what a simulated host runs.
///
/// # Errors
/// If a listener cannot be bound.
pub async fn serve<N: Net>(
    world: World<N>,
    snapshot: Snapshot,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_and_reload(world, snapshot, std::future::pending, stop).await
}

/// The same, with every configuration that `next` comes to, in force from then on.
///
/// # Errors
/// As [`serve`].
pub async fn serve_and_reload<N: Net>(
    world: World<N>,
    snapshot: Snapshot,
    mut next: impl AsyncFnMut() -> Snapshot,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let sidecar = Sidecar::new(snapshot, 1);
    let (signals, watches) = drains();
    let working = work(world.clone(), sidecar.clone(), watches);
    let reloading = async {
        loop {
            let next = Arc::new(next().await);
            if !mutant::is_planted("ignores-reloads") {
                sidecar.apply(next);
            }
            tracing::info!("the new configuration is in force");
        }
    };
    let running = async {
        tokio::select! {
            biased;
            result = async { tokio::try_join!(working, control(world, sidecar.clone())) } => result,
            never = reloading => never,
        }
    };
    let stopping = async {
        stop.await;
        sidecar.drain();
        let timeouts = sidecar.timeouts();
        tokio::join!(sleep(timeouts.drain_min), sidecar.deregistered());
        let limit = if mutant::is_planted("drains-in-no-time") { Duration::ZERO } else { timeouts.drain };
        let deadline = Instant::now() + limit;
        signals.inbound.drain(deadline).await;
        signals.outbound.drain(deadline).await;
        tracing::info!("drained");
    };
    tokio::select! {
        biased;
        result = running => result.map(|_| ()),
        () = stopping => Ok(()),
    }
}

fn named(what: &'static str, port: u16) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("cannot listen on port {port} ({what}): {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_whose_app_is_not_ready_is_not_ready_and_says_why() {
        let text = "service = 'web'\n[app.readiness]\naddress = '127.0.0.1:8080'\nhttp = '/ready'";
        let sidecar = Sidecar::new(config::parse("sidecar.toml", text).unwrap(), 1);
        sidecar.listening();
        let (status, _, why) = sidecar.readiness();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(why, "the app's readiness probe does not pass: it has not been asked yet\n");
        assert_eq!(sidecar.probe(Which::Readiness).0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(sidecar.probe(Which::Liveness).0, StatusCode::NOT_FOUND);
        assert!(!sidecar.app_health().borrow().is_ready());
        assert!(sidecar.scrape().contains("proxy_app_probe{probe=\"readiness\"} 0"));
    }
}
