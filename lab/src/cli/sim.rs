//! `lab sim`

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{FAILED, INVALID, MACHINE, PASSED, Sim};
use crate::history::{History, history, replay};
use crate::plan::SidecarKind;
use crate::report::terminal::{self, Style};
use crate::scenario::Scenario;
use crate::sim::{SimFailure, sweep};

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
        && let Err(error) = std::fs::write(path, history.text())
    {
        eprintln!("cannot write the trace to {}: {error}", path.display());
        return ExitCode::from(FAILED);
    }
    tell(&history);
    ExitCode::from(if history.passed() { PASSED } else { FAILED })
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
    let kind = args.sidecar.map(SidecarKind::from);
    println!("\nreplay: {}", replay(&args.scenario, kind, seed));
    ExitCode::from(FAILED)
}
