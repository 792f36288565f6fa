//! The story of one run, the same in both worlds: bring the mesh up, drive load, let faults strike, watch, take it down,
//! judge.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use crate::events::EventLog;
use crate::load::Record;
use crate::metrics::{Series, is_counter};
use crate::plan::{Entry, Plan};
use crate::verdict::{self, Evidence, Judged, Summary};
use crate::world::{Error, Fidelity, World};

/// How often every process is asked for its metrics. Windows of expectations are sharp for load, which keeps every
/// request, and to this grain for metrics.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// How this executable was built.
pub const BUILD: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was run.
    pub plan: Plan,
    /// How the lab was built: `debug` (dependencies and hot paths optimised all the same) or `release`.
    pub build: &'static str,
    /// Pass, fail, or neither.
    pub verdict: Verdict,
    /// Why, if it did not pass.
    pub reasons: Vec<String>,
    /// Each expectation with the numbers that decided.
    pub expectations: Vec<Judged>,
    /// Each load generator over the measured part.
    pub loads: Vec<Summary>,
    /// Each fault: when it was really in force and what proves it.
    pub faults: Vec<Struck>,
    /// Each process's counters over the whole run, restarts added up.
    pub totals: BTreeMap<String, BTreeMap<String, f64>>,
    /// How far the world can be trusted.
    pub fidelity: Fidelity,
}

/// The end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every expectation held.
    Passed,
    /// Some expectation did not hold.
    Failed,
    /// The world was not good enough to say.
    Inconclusive,
    /// The user stopped it.
    Interrupted,
}

/// A fault as it really happened.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Struck {
    /// Its name.
    pub name: String,
    /// When it came into force and when it was fully taken back, microseconds from the start of the measured part.
    pub start_us: Option<i64>,
    /// See [`Struck::start_us`].
    pub end_us: Option<i64>,
    /// Why it could not be applied or taken back.
    pub failed: Option<String>,
    /// What proves that it bit.
    pub evidence: BTreeMap<String, f64>,
}

/// Who is told how a run is getting on.
pub trait Progress {
    /// A new phase has begun, in a few words.
    fn phase(&self, what: &str);
    /// A request has ended.
    fn request(&self, load: usize, record: &Record);
    /// The clock of the measured part, once in a while.
    fn tick(&self, at: Duration, of: Duration);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _: &str) {}
    fn request(&self, _: usize, _: &Record) {}
    fn tick(&self, _: Duration, _: Duration) {}
}

/// Runs a plan in a world. The world is taken down again in every case, also when `stop` ends the run early.
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
    let mut stop = pin!(stop);
    progress.phase("bringing the mesh up");
    let up = tokio::select! {
        biased;
        () = stop.as_mut() => Err(Error::Interrupted),
        up = world.up() => up,
    };
    if let Err(error) = up {
        events.note("failed", "up", error.to_string());
        let _ = world.down().await;
        return Err(error);
    }
    events.note("up", "", "every process is ready");

    let t0 = Instant::now() + plan.warmup;
    let watch = Watch::new(plan);
    let interrupted = tokio::select! {
        biased;
        () = stop.as_mut() => true,
        () = live(plan, world, events, &watch, progress.clone(), t0) => false,
    };
    progress.phase("taking the mesh down");
    let last = world.final_metrics().await;
    watch.series.borrow_mut().push(since(t0), last);
    for (position, entry) in plan.timeline.iter().enumerate() {
        let evidence = world.evidence(entry).await;
        watch.faults.borrow_mut()[position].evidence = evidence;
    }
    let fidelity = world.fidelity().await;
    let down = world.down().await;
    events.note("down", "", down.as_ref().err().map(ToString::to_string).unwrap_or_default());
    Ok(judge(plan, watch, events, fidelity, interrupted, down.err()))
}

/// What is gathered while a run is live.
struct Watch {
    records: Rc<RefCell<Vec<Vec<Record>>>>,
    series: RefCell<Series>,
    faults: RefCell<Vec<Struck>>,
    failures: RefCell<Vec<String>>,
}

impl Watch {
    fn new(plan: &Plan) -> Self {
        let struck = |entry: &Entry| Struck { name: entry.name.clone(), ..Struck::default() };
        Watch {
            records: Rc::new(RefCell::new(vec![Vec::new(); plan.loads.len()])),
            series: RefCell::default(),
            faults: RefCell::new(plan.timeline.iter().map(struck).collect()),
            failures: RefCell::default(),
        }
    }

    async fn sample<W: World>(&self, world: &W, t0: Instant) {
        let samples = world.metrics().await;
        self.series.borrow_mut().push(since(t0), samples);
    }
}

/// Microseconds from `t0`, negative before it.
fn since(t0: Instant) -> i64 {
    let now = Instant::now();
    match now.checked_duration_since(t0) {
        Some(after) => after.as_micros() as i64,
        None => -(t0.duration_since(now).as_micros() as i64),
    }
}

/// Load, faults and sampling side by side, until the last request has ended.
async fn live<W: World>(
    plan: &Plan,
    world: &W,
    events: &EventLog,
    watch: &Watch,
    progress: Rc<dyn Progress>,
    t0: Instant,
) {
    let end = t0 + plan.duration;
    watch.sample(world, t0).await;
    progress.phase("warming up");
    let loads = plan.loads.iter().enumerate().map(|(position, load)| {
        let (records, progress) = (watch.records.clone(), progress.clone());
        let sink = Rc::new(move |record: Record| {
            progress.request(position, &record);
            records.borrow_mut()[position].push(record);
        });
        async move {
            if let Err(error) = world.load(load, t0, end, sink).await {
                events.note("failed", &load.name, error.to_string());
                watch.failures.borrow_mut().push(format!("load {}: {error}", load.name));
            }
        }
    });
    let faults = plan.timeline.iter().enumerate().map(|(position, entry)| async move {
        let result = strike(world, entry, t0, events, &watch.faults, position).await;
        if let Err(error) = result {
            events.note("failed", &entry.name, error.to_string());
            watch.faults.borrow_mut()[position].failed = Some(error.to_string());
        }
    });
    let sampling = async {
        sleep_until(t0).await;
        progress.phase("measuring");
        loop {
            watch.sample(world, t0).await;
            progress.tick(t0.elapsed().min(plan.duration), plan.duration);
            sleep(SAMPLE_EVERY).await;
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

/// One timeline entry, from its time to its revert. Each runs by itself: a revert never queues behind another fault.
async fn strike<W: World>(
    world: &W,
    entry: &Entry,
    t0: Instant,
    events: &EventLog,
    faults: &RefCell<Vec<Struck>>,
    position: usize,
) -> Result<(), Error> {
    sleep_until(t0 + entry.at).await;
    world.apply(entry).await?;
    let start = since(t0);
    events.note("fault", &entry.name, format!("in force {} us after its time", start - micros(entry.at)));
    faults.borrow_mut()[position].start_us = Some(start);
    let Some(until) = entry.until else { return Ok(()) };
    sleep_until(t0 + until).await;
    world.revert(entry).await?;
    let end = since(t0);
    events.note("revert", &entry.name, format!("complete {} us after its time", end - micros(until)));
    faults.borrow_mut()[position].end_us = Some(end);
    Ok(())
}

fn micros(time: Duration) -> i64 {
    time.as_micros() as i64
}

fn judge(
    plan: &Plan,
    watch: Watch,
    events: &EventLog,
    fidelity: Fidelity,
    interrupted: bool,
    left_behind: Option<Error>,
) -> Report {
    let records = watch.records.take();
    let series = watch.series.into_inner();
    let faults = watch.faults.into_inner();
    let loads: Vec<Summary> = records.iter().map(|records| verdict::summary(records)).collect();
    let evidence: Vec<_> = faults.iter().map(|f| f.evidence.clone()).collect();
    let actual: Vec<_> = faults.iter().map(|f| Some((f.start_us?, f.end_us.unwrap_or(i64::MAX)))).collect();
    let mut expectations = verdict::judge(&Evidence {
        plan,
        loads: &records,
        series: &series,
        faults: &evidence,
        actual: &actual,
    });
    expectations.extend(verdict::account(plan, &records, &series));
    let totals = totals(plan, &series);

    // Broken promises of the plan first, then the world's own shortcomings: those make a verdict worthless.
    let mut failures: Vec<String> = Vec::new();
    for judged in expectations.iter().filter(|j| !j.passed) {
        failures.push(format!("expectation not met: {}", judged.name));
    }
    for event in events.events().iter().filter(|e| e.kind == "unexpected-exit") {
        failures.push(format!("{} ended although nothing asked it to: {}", event.subject, event.detail));
    }
    failures.extend(left_behind.map(|e| format!("not everything could be taken down: {e}")));
    let mut doubts = watch.failures.into_inner();
    for fault in &faults {
        match (&fault.failed, fault.start_us) {
            (Some(why), _) => doubts.push(format!("fault {} could not be carried out: {why}", fault.name)),
            (None, None) => doubts.push(format!("fault {} never came into force", fault.name)),
            _ => {}
        }
    }
    doubts.extend(verdict::trustworthy(&fidelity, plan, &loads).err().into_iter().flatten());
    let (verdict, reasons) = if interrupted {
        (Verdict::Interrupted, vec!["interrupted by the user".to_owned()])
    } else if !doubts.is_empty() {
        doubts.extend(failures);
        (Verdict::Inconclusive, doubts)
    } else if !failures.is_empty() {
        (Verdict::Failed, failures)
    } else {
        (Verdict::Passed, Vec::new())
    };
    Report {
        plan: plan.clone(),
        build: BUILD,
        verdict,
        reasons,
        expectations,
        loads,
        faults,
        totals,
        fidelity,
    }
}

/// Every counter of every process over the whole run.
fn totals(plan: &Plan, series: &Series) -> BTreeMap<String, BTreeMap<String, f64>> {
    let processes = plan.processes().map(|id| plan.process_name(id)).chain(["fabric".to_owned()]);
    let of = |process: &str| {
        let counters = series.names(process).into_iter().filter(|name| is_counter(name));
        let total = |name: &str| series.increase(process, name, &[], i64::MIN, i64::MAX);
        counters.filter_map(|name| Some((name.to_owned(), total(name)?))).collect()
    };
    processes.map(|process| (process.clone(), of(&process))).collect()
}
