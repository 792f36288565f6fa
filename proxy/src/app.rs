//! The order in which a sidecar starts and stops; no other place knows both.
//!
//! Start: configuration, listeners of every worker, control pages, ready, the app if it is a child ([`command`]).
//!
//! Stop (SIGTERM): not ready and not in the registry, so that callers go elsewhere; after the time they may need for that, no more connections are
//! taken for the app, those that are open are told (`connection: close`, GOAWAY), and what is under way ends; then the app
//! is told, if it is a child; the way out stays open until it has ended, and is drained last. What is left at the deadline
//! is cut, and a second signal cuts it at once.
//!
//! Workers are threads with a runtime, listeners
//! (`SO_REUSEPORT`) and pools of their own, so a request never changes threads; control has its own thread, so readiness
//! and metrics answer under load. In the simulator the same parts run on one simulated host: [`serve`].

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::admin::{self, Page, TEXT};
use crate::balance::{ClusterStatus, Table};
use crate::capture::listener::{accept, bind_any};
use crate::command;
use crate::config::{self, Snapshot, defaults, reload};
use crate::discovery::{self, Board, SourceStatus};
use crate::drain;
use crate::endpoint::{Endpoint, Health};
use crate::health;
use crate::health::app::{AppHealth, Which};
use crate::inbound::{self, Inbound};
use crate::limit;
use crate::mutant;
use crate::outbound::{self, Outbound};
use crate::telemetry::{Format, Metrics, prometheus_text};
use crate::world::{KernelNet, Net, RngTree, SystemWall, World, raise_nofile};

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
    outbound: drain::Watch,
}

fn drains() -> (Signals, Watches) {
    let (inbound, inbound_watch) = drain::channel();
    let (outbound, outbound_watch) = drain::channel();
    (Signals { inbound, outbound }, Watches { inbound: inbound_watch, outbound: outbound_watch })
}

/// Binds one worker's listeners and accepts connections until the drains begin. The connections end in tasks of their
/// own, each of which holds a watch of its side's drain.
///
/// # Errors
/// If a listener cannot be bound.
pub async fn work<N: Net>(world: World<N>, sidecar: Arc<Sidecar>, drains: Watches) -> io::Result<()> {
    let listen = sidecar.table.load().snapshot.listen;
    let out = bind_any(&world.net, listen.outbound).await.map_err(named("outbound", listen.outbound))?;
    let into = bind_any(&world.net, listen.inbound).await.map_err(named("inbound", listen.inbound))?;
    let outbound = Outbound::new(&world, sidecar.table.clone(), sidecar.metrics.clone());
    let inbound = Inbound::new(&world, sidecar.table.clone(), sidecar.metrics.clone());
    sidecar.listening();

    let (o, i) = (outbound.clone(), inbound.clone());
    let accepting = async {
        tokio::join!(
            accept(world.net.clone(), out, drains.outbound, "outbound", move |io, peer, drain| {
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

/// Binds and serves the control pages for ever.
///
/// # Errors
/// If a listener cannot be bound.
pub async fn control<N: Net>(world: World<N>, sidecar: Arc<Sidecar>) -> io::Result<()> {
    let listen = sidecar.table.load().snapshot.listen;
    let loopback = (Ipv4Addr::LOCALHOST, listen.admin).into();
    let admin = world.net.bind(loopback).await.map_err(named("admin", listen.admin))?;
    let health_port = bind_any(&world.net, listen.health).await.map_err(named("health", listen.health))?;
    let metrics = bind_any(&world.net, listen.metrics).await.map_err(named("metrics", listen.metrics))?;
    let page = |path, method, about, answer| Page { path, method, about, answer };
    let ready = || {
        let sidecar = sidecar.clone();
        page("/ready", Method::GET, "200 once it carries traffic", Box::new(move |_| sidecar.readiness()))
    };
    let live = || {
        let ok = |_: &_| (StatusCode::OK, TEXT, "live\n".to_owned());
        page("/live", Method::GET, "200 while the control thread runs", Box::new(ok))
    };
    let scrape = || {
        let sidecar = sidecar.clone();
        let answer = move |request: &Request<Incoming>| {
            sidecar.discovered.measure(Instant::now());
            let (format, text) = (Format::accepted(request.headers()), sidecar.scrape());
            let text = if format == Format::Prometheus { prometheus_text(&text) } else { text };
            (StatusCode::OK, format.content_type(), text)
        };
        page("/metrics", Method::GET, "counters, as OpenMetrics or text/plain", Box::new(answer))
    };
    let probe = |path, which| {
        let sidecar = sidecar.clone();
        page(path, Method::GET, "what a probe of the app said last", Box::new(move |_| sidecar.probe(which)))
    };
    let probes = [
        probe("/app-health/startup", Which::Startup),
        probe("/app-health/readiness", Which::Readiness),
        probe("/app-health/liveness", Which::Liveness),
    ];
    let clusters = {
        let sidecar = sidecar.clone();
        let answer = move |request: &Request<Incoming>| match describe(&sidecar) {
            described if admin::wants_json(request) => admin::json(&described),
            described => (StatusCode::OK, TEXT, described.iter().map(ToString::to_string).collect()),
        };
        let about = "clusters and the state of their endpoints; also ?format=json";
        page("/clusters", Method::GET, about, Box::new(answer))
    };
    let dump = {
        let sidecar = sidecar.clone();
        let answer = move |_: &_| admin::json(&sidecar.table.load().snapshot);
        page(
            "/config_dump",
            Method::GET,
            "the configuration in force, as JSON, without secrets",
            Box::new(answer),
        )
    };
    let shutdown = {
        let sidecar = sidecar.clone();
        let answer = move |_: &_| {
            sidecar.stop.notify_one();
            (StatusCode::ACCEPTED, TEXT, "draining\n".to_owned())
        };
        page("/shutdown", Method::POST, "drains and exits", Box::new(answer))
    };
    let (net, rng) = (world.net.clone(), world.rng);
    let applied = sidecar.clone();
    tokio::join!(
        discovery::run(world.clone(), sidecar.discovered.clone(), move || applied.prepare()),
        register(world, &sidecar),
        health::active::run(net.clone(), rng.child("checks", 0), sidecar.table.clone()),
        health::app::run(net.clone(), sidecar.table.clone(), inbound::source_for, &sidecar.app),
        watch_memory(net.clone(), &sidecar),
        admin::serve(net.clone(), admin, vec![ready(), live(), scrape(), clusters, dump, shutdown]),
        admin::serve(net.clone(), health_port, [ready(), live()].into_iter().chain(probes).collect()),
        admin::serve(net, metrics, vec![scrape()]),
    );
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
    let (drain_min, limit) = (snapshot.timeouts.drain_min, snapshot.timeouts.drain);
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
        tokio::join!(sleep(drain_min), sidecar.deregistered());
        let limit = if mutant::is_planted("drains-in-no-time") { Duration::ZERO } else { limit };
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

/// How a sidecar is started, beside its configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Data-plane threads, instead of what the configuration says.
    pub workers: Option<usize>,
    /// The app and its arguments, to run as a child; empty if it runs elsewhere.
    pub command: Vec<OsString>,
    /// The group to take once the app has started.
    pub group: Option<u32>,
}

/// Runs a sidecar on the kernel until it is told to stop, or its app ends. The exit code is the app's, if it is a child.
pub fn run(path: &Path, options: Options) -> ExitCode {
    start_logging();
    let snapshot = match config::load(path) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            return ExitCode::from(2);
        }
    };
    match run_kernel(path, snapshot, options) {
        Ok(ended) => {
            if ended.left > 0 {
                tracing::warn!(connections = ended.left, "drain deadline passed; connections cut");
            }
            ExitCode::from(ended.code)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// How a sidecar ended.
#[derive(Default)]
struct Ended {
    /// Connections that were cut.
    left: usize,
    /// The app's exit code.
    code: u8,
}

fn run_kernel(path: &Path, snapshot: Snapshot, options: Options) -> io::Result<Ended> {
    let files = raise_nofile()?;
    let net = KernelNet::with_mark(snapshot.mark)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot set SO_MARK (it takes CAP_NET_ADMIN): {e}")))?;
    let rng = snapshot.seed.map_or_else(RngTree::from_os, RngTree::new);
    let cpus = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let workers = options.workers.or(snapshot.workers).unwrap_or_else(cpus);
    let timeouts = snapshot.timeouts;
    let (over, life) = watch::channel(());
    let (living, gone) = std::sync::mpsc::channel();
    let result = local_runtime()?.block_on(async move {
        let sidecar = Sidecar::new(snapshot.clone(), workers);
        sidecar.table.load().load.set_files(files);
        let (signals, watches) = drains();
        let (failed, mut failure) = mpsc::unbounded_channel();
        for n in 0..workers {
            let world = World::new(net.clone(), SystemWall, rng.child("worker", n as u64));
            let life = (life.clone(), living.clone());
            spawn_worker(n, world, sidecar.clone(), watches.clone(), failed.clone(), life)?;
        }
        drop(watches);
        let world = World::new(net.clone(), SystemWall, rng.child("control", 0));
        let controlling = control(world, sidecar.clone());
        // Its own task, because pages answer during the drain too.
        net.spawn("control", async move {
            let _alarm = Alarm { thread: "control".into(), failed: failed.clone() };
            if let Err(error) = controlling.await {
                let _ = failed.send(error);
            }
        });
        tracing::info!(workers, files, service = %snapshot.service, "sidecar started");
        let mut app = None;
        let working = async {
            if !options.command.is_empty() {
                // An app that starts earlier would find its first connections refused (istio#11130).
                sidecar.started.notified().await;
                app = Some(command::start(&options.command)?);
            }
            options.group.map_or(Ok(()), command::become_group)?;
            match &mut app {
                Some(app) => app.wait().await.map(Some),
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            result = told_to_stop(&sidecar) => result.map(|()| None)?,
            Some(error) = failure.recv() => return Err(error),
            ended = working => ended?,
            () = follow(path, Arc::new(snapshot), &sidecar) => None,
        };
        if let Some(code) = ended {
            tracing::info!(code, "the app has ended");
            // Nobody is left to drain for, but its last words may still be on their way.
            return Ok(Ended { left: signals.outbound.drain(Instant::now() + timeouts.drain).await, code });
        }
        sidecar.drain();
        // A second signal ends the wait.
        tokio::select! {
            biased;
            ended = stop(&sidecar, &signals, timeouts, app.as_mut()) => ended,
            result = told_to_stop(&sidecar) => result.map(|()| Ended::default()),
        }
    });
    // What is left is reset by those who carry it; the kernel would end it as if that were all.
    drop(over);
    let _ = gone.recv_timeout(defaults::CUT_WITHIN);
    result
}

/// The order in which everything ends, once the sidecar is not ready any more.
async fn stop(
    sidecar: &Sidecar,
    signals: &Signals,
    timeouts: config::Timeouts,
    app: Option<&mut command::App>,
) -> io::Result<Ended> {
    tokio::join!(sleep(timeouts.drain_min), sidecar.deregistered());
    let deadline = Instant::now() + timeouts.drain;
    let mut left = signals.inbound.drain(deadline).await;
    let code = match app {
        Some(app) => app.stop(deadline.saturating_duration_since(Instant::now())).await?,
        None => 0,
    };
    left += signals.outbound.drain(deadline).await;
    Ok(Ended { left, code })
}

fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// Ends the process when the code around it panics: a sidecar that has lost a worker, or its pages, must not go on
/// saying that it is ready.
struct Alarm {
    thread: String,
    failed: mpsc::UnboundedSender<io::Error>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // If nobody listens any more, the process ends already.
            let _ = self.failed.send(io::Error::other(format!("{} panicked", self.thread)));
        }
    }
}

/// Starts a worker on a thread of its own, which lives until the first of `life` is dropped, so that connections can end after
/// the listeners have closed. The second is held until all that the worker carried has been dropped.
fn spawn_worker(
    n: usize,
    world: World<KernelNet>,
    sidecar: Arc<Sidecar>,
    drains: Watches,
    failed: mpsc::UnboundedSender<io::Error>,
    (mut life, living): (watch::Receiver<()>, std::sync::mpsc::Sender<()>),
) -> io::Result<()> {
    let run = move || {
        let _living = living;
        let _alarm = Alarm { thread: format!("worker-{n}"), failed: failed.clone() };
        let worked = local_runtime().and_then(|runtime| {
            runtime.block_on(async {
                work(world, sidecar, drains).await?;
                // An error says that it was dropped.
                let _ = life.changed().await;
                Ok(())
            })
        });
        if let Err(error) = worked {
            let _ = failed.send(error);
        }
    };
    std::thread::Builder::new().name(format!("worker-{n}")).spawn(run)?;
    Ok(())
}

/// Waits for SIGTERM, SIGINT, or `POST /shutdown`.
async fn told_to_stop(sidecar: &Sidecar) -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = sidecar.stop.notified() => {}
    }
    Ok(())
}

/// Applies changes of the configuration file for ever. A wrong one is reported and the last good one stays in force.
async fn follow(path: &Path, current: Arc<Snapshot>, sidecar: &Sidecar) {
    reload::follow(path.to_owned(), current, |outcome| match outcome {
        reload::Outcome::Applied { snapshot, ignored } => {
            sidecar.apply(snapshot);
            tracing::info!("the new configuration is in force");
            if !ignored.is_empty() {
                tracing::warn!(keys = ?ignored, "these are only read at start; restart to change them");
            }
        }
        reload::Outcome::Unchanged => tracing::info!("the configuration has not changed"),
        reload::Outcome::Refused(error) => {
            sidecar.metrics.reloaded(false);
            tracing::error!("the new configuration is not in force: {:?}", miette::Report::new(error));
        }
        reload::Outcome::Blind(error) => {
            tracing::warn!(%error, "cannot watch the configuration file; SIGHUP still reloads it");
        }
    })
    .await
}

/// Logs go to standard error; `RUST_LOG` sets the level, `info` by default.
fn start_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A process has one log; a second call, in a test, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}

fn named(what: &'static str, port: u16) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("cannot listen on port {port} ({what}): {e}"))
}

/// A cluster and the source of its endpoints, if it has one.
#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    cluster: ClusterStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    discovery: Option<SourceStatus>,
}

fn describe(sidecar: &Sidecar) -> Vec<Described> {
    let (table, now) = (sidecar.table.load(), Instant::now());
    let described = table.clusters.iter().map(|cluster| Described {
        discovery: sidecar.discovered.status(&cluster.config.name, now),
        cluster: cluster.status(now),
    });
    described.collect()
}

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(source) = &self.discovery {
            writeln!(f, "{}  {source}", self.cluster.name)?;
        }
        self.cluster.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_is_reported_and_one_that_ends_is_not() {
        let (failed, mut failure) = mpsc::unbounded_channel();
        let alarm = |panics: bool| {
            let failed = failed.clone();
            let run = move || {
                let _alarm = Alarm { thread: "worker-3".into(), failed };
                assert!(!panics, "on purpose");
            };
            let _ = std::thread::spawn(run).join();
        };
        alarm(false);
        assert!(failure.try_recv().is_err());
        alarm(true);
        assert_eq!(failure.try_recv().unwrap().to_string(), "worker-3 panicked");
    }

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
