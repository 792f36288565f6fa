//! One run, the same in both worlds: bring the mesh up, drive load, inject faults, observe, take it
//! down, judge.
//!
//! Nothing here may hang: a fault that never gets done is given up a while after the end, and
//! `down` is called in every case. Each fault and its revert is a future of its own, so one that is
//! slow delays no other. What a run came to is decided in `judge.rs`.

mod judge;
mod report;
mod sampling;

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

pub(crate) use judge::Seen;
pub use report::{AppliedFault, BUILD, Measurements, Report, UnexpectedExit, Verdict};

use crate::events::EventLog;
use crate::fault::{Action, Entry, Repeat, Restart};
use crate::load::{LoadTimes, Record};
use crate::mesh::Role;
use crate::metrics::{Scrape, Series};
use crate::plan::Plan;
use crate::world::{Error, ProcessExit, World};

/// How often every process is asked for its metrics, beside the edges of windows ([`sampling`]).
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// How long after the end of the measured part a fault may still be busy, for example with a
/// process that takes its time to end; longer than the worlds' own limits for that.
const FAULT_GRACE: Duration = Duration::from_secs(60);

/// What the measured part is called in the progress of a run.
pub(crate) const MEASURING: &str = "measuring";
/// What comes after it.
pub(crate) const TAKING_DOWN: &str = "taking the mesh down";

/// Observer of the progress of a run.
pub trait Progress {
    /// A new phase has begun, in a few words.
    fn phase(&self, what: &str);
    /// A request has ended.
    fn request(&self, load: usize, record: &Record);
    /// The clock of the measured part, once in a while.
    fn tick(&self, at: Duration, of: Duration);
    /// A fault has come into force, or is no longer in force.
    fn fault(&self, name: &str, in_force: bool);
}

/// Ignores the progress.
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _: &str) {}
    fn request(&self, _: usize, _: &Record) {}
    fn tick(&self, _: Duration, _: Duration) {}
    fn fault(&self, _: &str, _: bool) {}
}

/// Runs a plan in a world. The world is taken down again in every case, also when `stop` ends the
/// run early.
///
/// # Errors
/// If the world could not be brought up.
pub async fn run<W: World>(
    plan: &Plan,
    world: &W,
    events: &EventLog,
    progress: Rc<dyn Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Report, Error> {
    observe(plan, world, events, progress, stop, Some(SAMPLE_EVERY))
        .await
        .map(|seen| judge::judge(plan, seen))
}

/// The same without a judgement: what was seen. Metrics are sampled so often, and at the end;
/// `None`: only then.
pub(crate) async fn observe<W: World>(
    plan: &Plan,
    world: &W,
    events: &EventLog,
    progress: Rc<dyn Progress>,
    stop: impl Future<Output = ()>,
    sample_every: Option<Duration>,
) -> Result<Seen, Error> {
    let mut stop = pin!(stop);
    progress.phase("bringing the mesh up");
    let up = tokio::select! {
        biased;
        () = stop.as_mut() => Err(Error::Interrupted),
        up = world.up() => up,
    };
    if let Err(error) = up {
        events.note("failed", "up", error.to_string());
        return Err(also(error, world.down().await.err(), events, &*progress));
    }
    events.note("up", "", "every process is ready");

    let t0 = Instant::now() + plan.warmup;
    events.zero(t0);
    let observations = Observations::new(plan);
    let interrupted = tokio::select! {
        biased;
        () = stop.as_mut() => Some(since(t0)),
        () = live(plan, world, events, &observations, &progress, (t0, sample_every)) => None,
    };
    progress.phase(TAKING_DOWN);
    let last = world.final_metrics().await;
    observations.add(last, t0);
    for (position, entry) in plan.timeline.iter().enumerate() {
        let evidence = world.evidence(entry).await;
        observations.faults.borrow_mut()[position].evidence = evidence;
    }
    // Before `down`: from then on every end is asked for.
    let unexpected_exits = world.ended().await.into_iter().map(|ended| unexpected_exit(ended, t0)).collect();
    let fidelity = world.fidelity().await;
    let down = world.down().await;
    events.note("down", "", down.as_ref().err().map(ToString::to_string).unwrap_or_default());
    Ok(Seen {
        world: world.kind(),
        started: events.clock().at(t0),
        records: observations.records.take(),
        series: observations.series.take(),
        faults: observations.faults.take(),
        load_failures: observations.failures.take(),
        unexpected_exits,
        fidelity,
        interrupted,
        left_behind: down.err(),
    })
}

/// Why there was no run, and what was left behind of it.
fn also(error: Error, left: Option<Error>, events: &EventLog, progress: &dyn Progress) -> Error {
    let Some(left) = left else { return error };
    events.note("failed", "down", left.to_string());
    let both = format!("{error}; and not everything could be taken down: {left}");
    match error {
        Error::Machine(_) => Error::Machine(both),
        Error::Failed(_) => Error::Failed(both),
        Error::Interrupted => {
            progress.phase(&both);
            error
        }
    }
}

/// What is gathered while a run is live.
struct Observations {
    duration: Duration,
    records: Rc<RefCell<Vec<Vec<Record>>>>,
    series: RefCell<Series>,
    faults: RefCell<Vec<AppliedFault>>,
    failures: RefCell<Vec<String>>,
}

impl Observations {
    fn new(plan: &Plan) -> Self {
        let applied = |entry: &Entry| AppliedFault { name: entry.name.clone(), ..AppliedFault::default() };
        Observations {
            duration: plan.duration,
            records: Rc::new(RefCell::new(vec![Vec::new(); plan.loads.len()])),
            series: RefCell::default(),
            faults: RefCell::new(plan.timeline.iter().map(applied).collect()),
            failures: RefCell::default(),
        }
    }

    fn add(&self, scrapes: Vec<Scrape>, t0: Instant) {
        let mut series = self.series.borrow_mut();
        for Scrape { process, asked, answered, samples } in scrapes {
            series.push(&process, (offset(asked, t0), offset(answered, t0)), samples);
        }
    }
}

/// Microseconds from `t0`, negative before it.
fn since(t0: Instant) -> i64 {
    offset(Instant::now(), t0)
}

fn offset(now: Instant, t0: Instant) -> i64 {
    match now.checked_duration_since(t0) {
        Some(after) => after.as_micros() as i64,
        None => -(t0.duration_since(now).as_micros() as i64),
    }
}

fn unexpected_exit(ended: ProcessExit, t0: Instant) -> UnexpectedExit {
    let ProcessExit { process, at, how, log_tail } = ended;
    UnexpectedExit { process, at_us: at.map(|at| offset(at, t0)), how, log_tail }
}

/// Load, faults and sampling side by side, until the last request has ended.
async fn live<W: World>(
    plan: &Plan,
    world: &W,
    events: &EventLog,
    observations: &Observations,
    progress: &Rc<dyn Progress>,
    (t0, sample_every): (Instant, Option<Duration>),
) {
    let end = t0 + plan.duration;
    if sample_every.is_some() {
        observations.add(world.metrics().await, t0);
    }
    progress.phase("warming up");
    let loads = plan.loads.iter().enumerate().map(|(position, load)| {
        let (records, progress) = (observations.records.clone(), progress.clone());
        let sink = Rc::new(move |record: Record| {
            progress.request(position, &record);
            records.borrow_mut()[position].push(record);
        });
        async move {
            if let Err(error) = world.load(load, LoadTimes { t0, end }, sink).await {
                events.note("failed", &load.name, error.to_string());
                observations.failures.borrow_mut().push(format!("load {}: {error}", load.name));
            }
        }
    });
    let faults = plan.timeline.iter().enumerate().map(|(position, entry)| async move {
        let inject = inject(world, (position, entry), t0, events, observations, progress);
        let failed = match timeout_at(end + FAULT_GRACE, inject).await {
            Ok(result) => result.err().map(|error| error.to_string()),
            Err(_) => {
                let rolls = matches!(entry.action, Action::Restart(_));
                observations.faults.borrow_mut()[position].outlasted = rolls;
                Some(format!("still not done {} s after the end", FAULT_GRACE.as_secs()))
            }
        };
        if let Some(why) = failed {
            events.note("failed", &entry.name, &why);
            observations.faults.borrow_mut()[position].failed = Some(why);
        }
    });
    let sampling = async {
        sleep_until(t0).await;
        progress.phase(MEASURING);
        let Some(every) = sample_every else { return std::future::pending().await };
        let rules = sampling::asks_rules(plan);
        let mut times = sampling::times(plan, every).into_iter().map(|at| t0 + at).peekable();
        loop {
            // What is still under way after the end is watched too.
            sleep_until(times.next().unwrap_or_else(|| Instant::now() + every)).await;
            // One scrape serves all that was due when it began.
            while times.next_if(|at| *at <= Instant::now()).is_some() {}
            let scrapes = if rules { world.final_metrics().await } else { world.metrics().await };
            observations.add(scrapes, t0);
            progress.tick(t0.elapsed().min(plan.duration), plan.duration);
        }
    };
    let work = async {
        tokio::join!(join_all(loads), join_all(faults), sleep_until(end));
    };
    tokio::select! {
        biased;
        () = work => {}
        () = sampling => {}
    }
}

/// One timeline entry, from its time to its revert. Each runs by itself: a revert never queues
/// behind another fault.
async fn inject<W: World>(
    world: &W,
    (position, entry): (usize, &Entry),
    t0: Instant,
    events: &EventLog,
    observations: &Observations,
    progress: &Rc<dyn Progress>,
) -> Result<(), Error> {
    sleep_until(t0 + entry.at).await;
    if let Action::Restart(restart) = &entry.action {
        return roll(world, (position, entry), restart, t0, events, observations, progress).await;
    }
    world.apply(entry).await?;
    let start = since(t0);
    events.note("fault", &entry.name, format!("in force {} us after its time", start - micros(entry.at)));
    observations.faults.borrow_mut()[position].start_us = Some(start);
    progress.fault(&entry.name, true);
    let Some(until) = entry.until else { return Ok(()) };
    if let Some(Repeat { every, times }) = entry.repeat {
        let lasts = until - entry.at - every * (times - 1);
        for round in 1..times {
            sleep_until(t0 + entry.at + every * (round - 1) + lasts).await;
            world.revert(entry).await?;
            sleep_until(t0 + entry.at + every * round).await;
            world.apply(entry).await?;
        }
    }
    sleep_until(t0 + until).await;
    world.revert(entry).await?;
    let end = since(t0);
    events.note("revert", &entry.name, format!("complete {} us after its time", end - micros(until)));
    observations.faults.borrow_mut()[position].end_us = Some(end);
    progress.fault(&entry.name, false);
    Ok(())
}

/// A rolling restart: one instance after another is ended, its sidecar first so that it can still
/// drain into its app, and started again; the next one's turn comes when it is ready and some time
/// has passed.
async fn roll<W: World>(
    world: &W,
    (position, entry): (usize, &Entry),
    restart: &Restart,
    t0: Instant,
    events: &EventLog,
    observations: &Observations,
    progress: &Rc<dyn Progress>,
) -> Result<(), Error> {
    observations.faults.borrow_mut()[position].start_us = Some(since(t0));
    progress.fault(&entry.name, true);
    let instances = restart.instances();
    for (turn, &instance) in instances.iter().enumerate() {
        if turn > 0 {
            sleep(restart.wait).await;
        }
        let kill = |roles: &[Role]| {
            let action = Action::Kill(restart.kill_of(instance, roles));
            Entry { action, ..entry.clone() }
        };
        world.apply(&kill(&[Role::Sidecar])).await?;
        world.apply(&kill(&[Role::App])).await?;
        world.revert(&kill(&[Role::App, Role::Sidecar])).await?;
        events.note("restart", &entry.name, format!("{} of {} are back", turn + 1, instances.len()));
    }
    let end = since(t0);
    observations.faults.borrow_mut()[position].end_us = Some(end);
    progress.fault(&entry.name, false);
    if end > micros(observations.duration) {
        observations.faults.borrow_mut()[position].outlasted = true;
        return Err(Error::Failed(
            "the run was over before the last instance was back: lengthen `duration`".into(),
        ));
    }
    Ok(())
}

fn micros(time: Duration) -> i64 {
    time.as_micros() as i64
}

#[cfg(test)]
mod tests;
