//! `lab sim`

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{FAILED, INVALID, MACHINE, PASSED, Sim, Stand};
use crate::events::{Event, EventLog};
use crate::plan::{Plan, SidecarKind};
use crate::report::{results, terminal};
use crate::run::{self, Report, Silent, Verdict};
use crate::scenario::Scenario;
use crate::sim::{Mesh, SimFailure, Simulation, Trace, sweep, vary};

/// One history.
struct History {
    result: Result<Report, String>,
    events: Vec<Event>,
    trace: Trace,
    simulated: Duration,
}

impl History {
    fn passed(&self) -> bool {
        matches!(&self.result, Ok(report) if report.verdict == Verdict::Passed)
    }
}

/// Simulates every seed of every scenario; each stops at its first seed that does not pass.
pub(super) fn run(args: &Sim) -> ExitCode {
    if args.trace.is_some() && (args.seeds != 1 || args.scenarios.len() != 1) {
        eprintln!("--trace is for one scenario and one seed");
        return ExitCode::from(INVALID);
    }
    super::each(&args.scenarios, |path| {
        let scenario = match super::read(path) {
            Ok(scenario) => scenario,
            Err(code) => return code,
        };
        let kind = args.sidecar.map_or_else(|| scenario.sidecars()[0], SidecarKind::from);
        let from = args.from.unwrap_or(scenario.seed);
        match args.seeds {
            1 => one(args, &scenario, kind, from),
            _ => many(args, path, &scenario, kind, from),
        }
    })
}

/// The plan of one history: every seed in it follows from `seed`, and faults strike at slightly other times.
fn plan(scenario: &Scenario, kind: SidecarKind, seed: u64) -> Plan {
    let mut scenario = scenario.clone();
    scenario.seed = seed;
    vary(scenario.plan(kind), seed)
}

fn history(scenario: &Scenario, kind: SidecarKind, seed: u64, trace: bool) -> Result<History, SimFailure> {
    let plan = plan(scenario, kind, seed);
    let drive = {
        let plan = plan.clone();
        async move |world: Rc<crate::sim::SimWorld>| {
            let events = EventLog::new(None);
            let never = std::future::pending();
            let result = run::run(&plan, &*world, &events, Rc::new(Silent), never).await;
            (result.map_err(|e| e.to_string()), events.events())
        }
    };
    let run = Simulation::new(&plan, seed, Mesh).trace(trace).run(drive)?;
    let (result, events) = run.value;
    Ok(History { result, events, trace: run.trace, simulated: run.simulated })
}

fn one(args: &Sim, scenario: &Scenario, kind: SidecarKind, seed: u64) -> u8 {
    let history = history(scenario, kind, seed, args.trace.is_some());
    if let (Some(path), Ok(history)) = (&args.trace, &history)
        && let Err(error) = write_trace(path, history)
    {
        eprintln!("cannot write the trace to {}: {error}", path.display());
        return MACHINE;
    }
    tell(&history)
}

/// Everything that happened: the log of events, then every packet and process.
fn write_trace(path: &Path, history: &History) -> io::Result<()> {
    let mut text = String::new();
    for event in &history.events {
        text += &serde_json::to_string(event).map_err(io::Error::other)?;
        text.push('\n');
    }
    for line in history.trace.lines() {
        text += line;
        text.push('\n');
    }
    if let Ok(report) = &history.result {
        text += &serde_json::to_string(&results::of(report)).map_err(io::Error::other)?;
        text.push('\n');
    }
    std::fs::write(path, text)
}

/// Prints what happened and returns the code for it.
fn tell(history: &Result<History, SimFailure>) -> u8 {
    let history = match history {
        Ok(history) => history,
        Err(failure) => {
            eprintln!("{failure}");
            return if matches!(failure, SimFailure::Unsupported(_)) { MACHINE } else { FAILED };
        }
    };
    if !history.passed() {
        println!("\ntimeline");
        for event in &history.events {
            let at = event.at_us as f64 / 1e6;
            println!("  {at:>9.3} s  {:<8} {} {}", event.kind, event.subject, event.detail);
        }
    }
    match &history.result {
        Ok(report) => {
            print!("{}", terminal::render(report, super::style()));
            super::code(report.verdict)
        }
        Err(error) => {
            println!("FAILED: the mesh did not come up: {error}");
            FAILED
        }
    }
}

fn many(args: &Sim, path: &Path, scenario: &Scenario, kind: SidecarKind, from: u64) -> u8 {
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let bar = ProgressBar::new(args.seeds);
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}").expect("the template is right");
    bar.set_style(style);
    let mut simulated = Duration::ZERO;
    let mut done = 0_u64;
    let mut failed = None;
    let mut requests = 0_u64;
    let clock = bar.clone();
    sweep(
        from..from.saturating_add(args.seeds),
        jobs,
        |seed| history(scenario, kind, seed, false),
        |seed, result| {
            bar.inc(1);
            done += 1;
            let passed = result.as_ref().is_ok_and(History::passed);
            if let Ok(history) = &result {
                simulated += history.simulated;
                requests += history.result.iter().flat_map(|r| &r.loads).map(|l| l.requests).sum::<u64>();
            }
            if passed {
                return ControlFlow::Continue(());
            }
            failed = Some((seed, result));
            ControlFlow::Break(())
        },
    );
    let elapsed = clock.elapsed().as_secs_f64();
    bar.finish_and_clear();
    println!(
        "{}: {done} {} in {elapsed:.1} s, {:.1} seeds/s, {:.0} s simulated, {requests} requests",
        path.display(),
        if done == 1 { "seed" } else { "seeds" },
        done as f64 / elapsed,
        simulated.as_secs_f64(),
    );
    let Some((seed, result)) = failed else {
        println!("PASSED for every seed from {from} to {}", from.saturating_add(args.seeds) - 1);
        return PASSED;
    };
    if !matches!(result, Err(SimFailure::Unsupported(_))) {
        println!("seed {seed} did not pass:");
    }
    let code = tell(&result);
    if code != MACHINE {
        let sidecar = match args.sidecar {
            Some(Stand::Ours) => " --sidecar ours",
            Some(Stand::None) => " --sidecar none",
            None => "",
        };
        println!("\nreplay: lab sim {} --from {seed}{sidecar}", path.display());
    }
    code
}
