//! `lab sim`

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{FAILED, INVALID, MACHINE, PASSED, Sim, Stand};
use crate::events::{Event, EventLog};
use crate::plan::{Plan, SidecarKind};
use crate::report::terminal::{self, Style};
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

/// Simulates every seed and stops at the first that does not pass.
pub(super) fn run(args: Sim) -> ExitCode {
    let scenario = match super::read(&args.scenario) {
        Ok(scenario) => scenario,
        Err(code) => return code,
    };
    if args.trace.is_some() && args.seeds != 1 {
        eprintln!("--trace is for one seed");
        return ExitCode::from(INVALID);
    }
    let kind = args.sidecar.map_or_else(|| scenario.sidecars()[0], SidecarKind::from);
    let from = args.from.unwrap_or(scenario.seed);
    if args.seeds == 1 {
        return one(&args, &scenario, kind, from);
    }
    many(&args, &scenario, kind, from)
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

fn one(args: &Sim, scenario: &Scenario, kind: SidecarKind, seed: u64) -> ExitCode {
    let history = match history(scenario, kind, seed, args.trace.is_some()) {
        Ok(history) => history,
        Err(SimFailure::Unsupported(what)) => {
            eprintln!("the simulator cannot run this scenario: {}", what.join("; "));
            return ExitCode::from(MACHINE);
        }
        Err(failure) => {
            eprintln!("{failure}");
            return ExitCode::from(FAILED);
        }
    };
    if let Some(path) = &args.trace
        && let Err(error) = write_trace(path, &history)
    {
        eprintln!("cannot write the trace to {}: {error}", path.display());
        return ExitCode::from(FAILED);
    }
    tell(&history);
    ExitCode::from(if history.passed() { PASSED } else { FAILED })
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
        text += &serde_json::to_string(report).map_err(io::Error::other)?;
        text.push('\n');
    }
    std::fs::write(path, text)
}

fn tell(history: &History) {
    match &history.result {
        Ok(report) => {
            let style = if io::stdout().is_terminal() { Style::Colour } else { Style::Plain };
            print!("{}", terminal::render(report, style));
        }
        Err(error) => println!("the mesh did not come up: {error}"),
    }
    println!("\ntimeline");
    for event in &history.events {
        let at = event.at_us as f64 / 1e6;
        println!("  {at:>9.3} s  {:<8} {} {}", event.kind, event.subject, event.detail);
    }
}

fn many(args: &Sim, scenario: &Scenario, kind: SidecarKind, from: u64) -> ExitCode {
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
            match result {
                Ok(history) if history.passed() => {
                    simulated += history.simulated;
                    requests += history.result.iter().flat_map(|r| &r.loads).map(|l| l.requests).sum::<u64>();
                    ControlFlow::Continue(())
                }
                other => {
                    failed = Some((seed, other));
                    ControlFlow::Break(())
                }
            }
        },
    );
    let elapsed = clock.elapsed().as_secs_f64();
    bar.finish_and_clear();
    println!(
        "{}: {done} seeds in {elapsed:.1} s, {:.1} seeds/s, {:.0} s simulated, {requests} requests",
        args.scenario.display(),
        done as f64 / elapsed,
        simulated.as_secs_f64(),
    );
    let Some((seed, result)) = failed else {
        println!("PASSED for every seed from {from} to {}", from + args.seeds - 1);
        return ExitCode::from(PASSED);
    };
    println!("FAILED at seed {seed}");
    match result {
        Ok(history) => tell(&history),
        Err(SimFailure::Unsupported(what)) => {
            eprintln!("the simulator cannot run this scenario: {}", what.join("; "));
            return ExitCode::from(MACHINE);
        }
        Err(failure) => println!("{failure}"),
    }
    let sidecar = match args.sidecar {
        Some(Stand::Ours) => " --sidecar ours",
        Some(Stand::None) => " --sidecar none",
        None => "",
    };
    println!("\nreplay: lab sim {} --from {seed}{sidecar}", args.scenario.display());
    ExitCode::from(FAILED)
}
