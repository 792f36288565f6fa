//! The same plan in virtual time: every instance a host of turmoil, with the same proxy, app and
//! load code.
//!
//! One seed is one history: [`Simulation::run`] gives the same result and the same [`Trace`]
//! wherever and however often it runs. turmoil provides hosts, clocks and the order in which they
//! take turns; the network between and inside them is ours (`stack.rs` says why), with links that
//! obey the same pure model as the kernel's wire. [`SimWorld`] is the world that load, faults and
//! verdict see.
//!
//! Read `route` (who reaches whom), `conn` (one TCP connection), `stack` (all of them), `net` (the
//! seam), `process`, `world`. Left out: CPU time (work takes none), files, and anything below a
//! millisecond: two hosts that exchange bytes over a link without delay see them within one tick.

use std::cell::RefCell;
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use rand::RngExt;
use tokio::sync::{Notify, mpsc};

use crate::plan::{Instance, Plan, TimePoint, Window};

mod chaos;
mod conn;
mod crossing;
mod crypto;
mod disk;
mod files;
mod link;
mod log;
mod net;
mod probe;
mod process;
mod programs;
mod route;
mod signatures;
mod stack;
mod trace;
mod world;

pub use chaos::Chaos;
pub(crate) use conn::RTO_MIN;
pub use crossing::Crossing;
pub use disk::SimDisk;
pub use files::SimFiles;
pub use log::LogLine;
pub(crate) use log::note;
pub use net::{SimIo, SimListener, SimNet, SimWall};
pub use process::Term;
pub use programs::{Main, Mesh, Programs};
pub use route::Who;
pub use trace::Trace;
pub use world::SimWorld;

/// When every simulation begins, since 1970: 2026-01-01 00:00:00 UTC.
pub const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// The step of virtual time. tokio's timers know nothing shorter.
pub const TICK: Duration = Duration::from_millis(1);

/// What a run may take beyond warm-up and duration: starts, restarts, requests in flight,
/// retransmissions.
const SLACK: Duration = Duration::from_secs(120);

/// turmoil's name for the driver's host; no instance can be called so.
const DRIVER: &str = "(lab)";

/// Why a simulation did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimFailure {
    /// Code inside the simulated world panicked.
    #[error("{process} panicked in task {task} at {:.3} s: {message}", at.as_secs_f64())]
    Panic {
        /// `orders-1/app`, or `lab` for the driver.
        process: String,
        /// The name that the task was spawned with.
        task: String,
        /// Virtual time.
        at: Duration,
        /// What it said.
        message: String,
    },
    /// The driver did not end in the virtual time it was given.
    #[error("the run did not end within {:.0} s of virtual time", .0.as_secs_f64())]
    Stuck(Duration),
    /// Something of the plan only the kernel can run; one sentence each.
    #[error("the simulator cannot run this: {}", .0.join("; "))]
    Unsupported(Vec<String>),
    /// turmoil itself gave up.
    #[error("the simulation broke: {0}")]
    Engine(String),
}

/// A simulation that came to its end.
#[derive(Debug)]
pub struct SimRun<T> {
    /// What the driver returned.
    pub value: T,
    /// The history, if it was asked for.
    pub trace: Trace,
    /// What was said, if it was asked for.
    pub log: Vec<LogLine>,
    /// Every connection between two instances, in the order in which they were opened.
    pub crossings: Vec<Crossing>,
    /// Virtual time that passed.
    pub simulated: Duration,
}

/// A plan, a seed and the programs to run: everything that a history follows from.
#[derive(Clone)]
pub struct Simulation {
    plan: Rc<Plan>,
    seed: u64,
    programs: Rc<dyn Programs>,
    trace: bool,
    log: bool,
    tick: Duration,
    chaos: Chaos,
    limit: Duration,
}

impl Simulation {
    /// A simulation of `plan`. The plan's own seed is not used.
    pub fn new(plan: &Plan, seed: u64, programs: impl Programs) -> Self {
        let limit = plan.warmup + plan.duration + SLACK;
        Simulation {
            plan: Rc::new(plan.clone()),
            seed,
            programs: Rc::new(programs),
            trace: false,
            log: false,
            tick: TICK,
            chaos: Chaos::default(),
            limit,
        }
    }

    /// Whether to collect the trace. Default: no.
    pub fn trace(mut self, on: bool) -> Self {
        self.trace = on;
        self
    }

    /// The step of virtual time, in whole milliseconds. Hosts that exchange bytes see them a step
    /// later at most, so a larger one is coarser and quicker. Default: [`TICK`].
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// How badly streams behave. Default: not at all.
    pub fn chaos(mut self, chaos: Chaos) -> Self {
        self.chaos = chaos;
        self
    }

    /// Whether to collect what processes say. Default: no.
    pub fn log(mut self, on: bool) -> Self {
        self.log = on;
        self
    }

    /// Virtual time after which the run counts as stuck. Default: warm-up, duration and two
    /// minutes.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs until `drive` ends. It runs inside the simulation, so its `tokio::time` is virtual.
    ///
    /// # Errors
    /// If the plan is not for the simulator, anything panics, or the time is up. What the driver
    /// returns is its own.
    #[allow(clippy::disallowed_methods, reason = "the timers of all simulated kernels belong to no process")]
    pub fn run<T, F>(self, drive: impl FnOnce(Rc<SimWorld>) -> F + 'static) -> Result<SimRun<T>, SimFailure>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        SimWorld::supports(&self.plan).map_err(SimFailure::Unsupported)?;
        let mut sim = builder(self.seed, self.tick, self.limit).build();
        if self.log && !log::listen() {
            let why = "another tracing subscriber is installed in this program, so nothing that processes say can be heard";
            return Err(SimFailure::Engine(why.into()));
        }
        let changed = Arc::new(Notify::new());
        let stack = stack::Shared::new(&self.plan, self.seed, self.trace, changed.clone());
        stack.with(|s, _| s.chaos = self.chaos);
        let failure: process::Failure = Rc::default();

        let hosts = hosts(&mut sim, &self.plan);
        let world = SimWorld::new(
            self.plan.clone(),
            self.seed,
            stack.clone(),
            hosts,
            self.programs,
            failure.clone(),
            changed,
        );
        let world = Rc::new(world);

        let value = Rc::new(RefCell::new(None));
        sim.client(DRIVER, {
            let (world, value, stack, failure) =
                (world.clone(), value.clone(), stack.clone(), failure.clone());
            async move {
                tokio::task::spawn_local(stack.run_timers());
                match AssertUnwindSafe(async { drive(world).await }).catch_unwind().await {
                    Ok(result) => *value.borrow_mut() = Some(result),
                    Err(payload) => {
                        failure.borrow_mut().get_or_insert(SimFailure::Panic {
                            process: "lab".into(),
                            task: "driver".into(),
                            at: turmoil::sim_elapsed().unwrap_or_default(),
                            message: process::message(&*payload),
                        });
                    }
                }
                Ok(())
            }
        });

        let ended = steps(&mut sim, &failure, self.limit);
        let simulated = sim.elapsed();
        let (trace, crossings) = stack.with(|s, _| {
            s.over = true;
            (std::mem::take(&mut s.trace), s.take_crossings())
        });
        world.bury();
        drop(sim);
        let log = log::take();
        ended?;
        let value =
            value.take().ok_or_else(|| SimFailure::Engine("the driver ended without a result".into()))?;
        Ok(SimRun { value, trace, log, crossings, simulated })
    }
}

/// A host for each instance, and where what it has to do is sent.
fn hosts(sim: &mut turmoil::Sim<'_>, plan: &Plan) -> Vec<mpsc::UnboundedSender<process::Command>> {
    let host = |instance: &Instance| {
        let (tx, rx) = mpsc::unbounded_channel();
        let rx = RefCell::new(Some(rx));
        sim.host(instance.name.as_str(), move || {
            let commands = rx.take();
            async move {
                if let Some(commands) = commands {
                    process::supervise(commands).await;
                }
                Ok(())
            }
        });
        tx
    };
    plan.instances.iter().map(host).collect()
}

/// Lets time pass until the driver has ended, something has failed or the time is up.
fn steps(sim: &mut turmoil::Sim<'_>, failure: &process::Failure, limit: Duration) -> Result<(), SimFailure> {
    loop {
        let step = sim.step();
        if let Some(failure) = failure.take() {
            return Err(failure);
        }
        match step {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(_) if sim.elapsed() > limit => return Err(SimFailure::Stuck(limit)),
            Err(e) => return Err(SimFailure::Engine(e.to_string())),
        }
    }
}

fn builder(seed: u64, tick: Duration, limit: Duration) -> turmoil::Builder {
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH + EPOCH)
        .tick_duration(tick)
        .simulation_duration(limit)
        // Hosts take turns in an order that differs in every tick: races between them are part of
        // the history.
        .enable_random_order();
    builder
}

/// By how much a fault may begin later in one history than in another: a few requests' time at any
/// usual rate.
const SHIFT: Duration = Duration::from_millis(50);

/// The plan of one history: its story begins up to 50 ms later, so that faults meet requests in
/// different states.
///
/// All of the story moves together, faults, windows and loads that send for a part of the run: what
/// comes before what, and how long after, is what the scenario says. Only what lasts from the
/// beginning of the run or to its end is that much longer or shorter. A story that begins with the
/// run, or has no room before its end, stays where it is.
pub fn vary(mut plan: Plan, seed: u64) -> Plan {
    let end = plan.duration;
    let begins = plan.timeline.iter().map(|entry| entry.at).min();
    let times = moments(&mut plan).into_iter().map(|time| *time).filter(|time| *time != end).max();
    let recoveries = plan.expectations.iter().map(|expectation| match expectation.window {
        Window::Recovery { start, within, hold } => plan.time(start) + within + hold,
        Window::During { .. } | Window::Evidence { .. } => Duration::ZERO,
    });
    let last = recoveries.chain(times).max().unwrap_or_default();
    let most = SHIFT.min(end.saturating_sub(last));
    if begins.is_none_or(|begins| begins.is_zero()) || most.is_zero() {
        return plan;
    }
    let shift = proxy::world::RngTree::new(seed).child("shift", 0).rng().random_range(Duration::ZERO..most);
    for time in moments(&mut plan).into_iter().filter(|time| !time.is_zero() && **time != end) {
        *time += shift;
    }
    plan
}

/// Every point in time that a plan says by itself. Windows that belong to an entry move with it.
fn moments(plan: &mut Plan) -> Vec<&mut Duration> {
    let mut times: Vec<&mut Duration> = Vec::new();
    for entry in &mut plan.timeline {
        times.push(&mut entry.at);
        times.extend(&mut entry.until);
    }
    for part in plan.loads.iter_mut().filter_map(|load| load.part.as_mut()) {
        times.extend([&mut part.from, &mut part.to]);
    }
    for expectation in &mut plan.expectations {
        let points = match &mut expectation.window {
            Window::During { from, to } => vec![from, to],
            Window::Recovery { start, .. } => vec![start],
            Window::Evidence { .. } => vec![],
        };
        times.extend(points.into_iter().filter_map(|point| match point {
            TimePoint::At(time) => Some(time),
            TimePoint::Begin(_) | TimePoint::End(_) => None,
        }));
    }
    times
}

/// The same for a plan of which nothing is expected at any time: each fault by itself up to 50 ms
/// later.
pub(crate) fn scatter(mut plan: Plan, seed: u64) -> Plan {
    let tree = proxy::world::RngTree::new(seed);
    for (position, entry) in (0..).zip(&mut plan.timeline) {
        let shift = tree.child("shift", position).rng().random_range(Duration::ZERO..SHIFT);
        entry.at += shift;
        entry.until = entry.until.map(|until| until + shift);
    }
    plan
}

/// How many jobs there should be at a time if nobody says: as many as there are CPUs.
pub fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Runs `f` for every seed on `jobs` threads and hands the results to `done` in the order of the
/// seeds, each as soon as all before it are there. Stops early when `done` breaks; runs under way
/// are finished and dropped.
///
/// # Panics
/// If `f` does.
pub fn sweep<R: Send>(
    seeds: Range<u64>,
    jobs: usize,
    f: impl Fn(u64) -> R + Sync,
    mut done: impl FnMut(u64, R) -> ControlFlow<()>,
) {
    let next = AtomicU64::new(seeds.start);
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (tx, next, f, end) = (tx.clone(), &next, &f, seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // A closed channel means that nobody wants more.
                    if seed >= end || tx.send((seed, f(seed))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tx);
        let mut early = std::collections::BTreeMap::new();
        let mut expected = seeds.start;
        'results: for (seed, result) in rx {
            early.insert(seed, result);
            while let Some(result) = early.remove(&expected) {
                if done(expected, result).is_break() {
                    next.store(seeds.end, Ordering::Relaxed);
                    break 'results;
                }
                expected += 1;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Expectation;

    /// Two faults that follow each other closely, a load that surges with the first, and windows of
    /// all kinds.
    const STORY: &str = include_str!("story.toml");

    #[test]
    fn a_story_moves_as_a_whole_and_keeps_its_order() {
        let scenario = crate::scenario::parse("test.toml", STORY).expect("the scenario is right");
        let plan = || scenario.plan(crate::plan::SidecarKind::Ours);
        let mut shifts = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let varied = vary(plan(), seed);
            let shift = varied.timeline[0].at - Duration::from_secs(1);
            assert!(shift < SHIFT);
            shifts.insert(shift);
            let after = |seconds| Duration::from_secs(seconds) + shift;
            let ends = |entry: &crate::fault::Entry| (entry.at, entry.until);
            assert_eq!(ends(&varied.timeline[0]), (after(1), Some(after(2))));
            // 10 ms after the first has ended, whatever the shift.
            assert_eq!(ends(&varied.timeline[1]), (after(2) + Duration::from_millis(10), Some(after(3))));
            let part = varied.loads[1].part.expect("a part");
            assert_eq!((part.from, part.to), (after(1), after(2)));
            let edges = |expectation: &Expectation| match expectation.window {
                Window::During { from, to } => (varied.time(from), varied.time(to)),
                Window::Recovery { start, within, hold } => (varied.time(start), within + hold),
                Window::Evidence { .. } => unreachable!("there is none in the story"),
            };
            let windows: Vec<_> = varied.expectations.iter().map(edges).collect();
            let (zero, end, good) = (Duration::ZERO, Duration::from_secs(5), Duration::from_millis(1500));
            assert_eq!(windows, [(after(1), after(2)), (zero, after(1)), (after(3), end), (after(3), good)]);
        }
        assert!(shifts.len() > 20, "{shifts:?}");
    }

    #[test]
    fn a_story_that_begins_with_the_run_or_fills_it_stays_where_it_is() {
        let from_the_start =
            STORY.replacen("at = \"1s\"\nfor = \"1s\"\npause", "at = \"0s\"\nfor = \"1s\"\npause", 1);
        let to_the_end = STORY.replace("within = \"500ms\"", "within = \"1s\"");
        for text in [from_the_start, to_the_end] {
            let scenario = crate::scenario::parse("test.toml", &text).expect("the scenario is right");
            let plan = || scenario.plan(crate::plan::SidecarKind::Ours);
            let text = |plan: &Plan| serde_json::to_string(plan).expect("plain data");
            assert_eq!(text(&vary(plan(), 7)), text(&plan()));
        }
    }

    #[test]
    fn a_sweep_reports_in_the_order_of_the_seeds_on_any_number_of_threads() {
        for jobs in [1, 2, 5] {
            let mut seen = Vec::new();
            sweep(
                3..40,
                jobs,
                |seed| seed * seed,
                |seed, square| {
                    seen.push((seed, square));
                    ControlFlow::Continue(())
                },
            );
            assert_eq!(seen, (3..40).map(|seed| (seed, seed * seed)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_sweep_stops_when_it_is_told_to() {
        let mut seen = Vec::new();
        sweep(
            0..1_000_000,
            2,
            |seed| seed,
            |seed, _| {
                seen.push(seed);
                if seed == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }
}
