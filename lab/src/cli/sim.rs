//! `lab sim`

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{FAILED, INVALID, MACHINE, PASSED, Sim};
use crate::history::{History, history, replay};
use crate::plan::SidecarKind;
use crate::report::terminal;
use crate::scenario::Scenario;
use crate::sim::{SimFailure, sweep};

/// Simulates every seed of every scenario; each stops at its first seed that does not pass.
pub(super) fn run(args: &Sim) -> ExitCode {
    if let Some(faults) = args.faults {
        return super::swarm::run(args, faults);
    }
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

fn one(args: &Sim, scenario: &Scenario, kind: SidecarKind, seed: u64) -> u8 {
    let history = history(scenario, kind, seed, args.trace.is_some());
    if let (Some(path), Ok(history)) = (&args.trace, &history)
        && let Err(error) = std::fs::write(path, history.text())
    {
        eprintln!("cannot write the trace to {}: {error}", path.display());
        return MACHINE;
    }
    tell(&history)
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
        let kind = args.sidecar.map(SidecarKind::from);
        println!("\nreplay: {}", replay(path, kind, seed));
    }
    code
}
