//! `lab sim`

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use super::tally::Tally;
use super::{INVALID, MACHINE, PASSED, Sim};
use crate::history::{History, history, replay};
use crate::plan::SidecarKind;
use crate::report::terminal;
use crate::scenario::Scenario;
use crate::sim::{SimFailure, jobs, sweep};

/// Simulates every seed of every scenario; each stops at its first seed that does not pass.
pub(super) fn run(args: &Sim) -> ExitCode {
    if let Some(faults) = args.faults {
        return super::swarm::run(args, faults);
    }
    if args.hunt.is_some() {
        return super::hunt::run(args);
    }
    if args.corpus.is_some() {
        eprintln!("--corpus is for --faults and --hunt");
        return ExitCode::from(INVALID);
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
        Err(failure) => return super::broken(failure),
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
            println!("CANNOT RUN: the mesh did not come up: {error}");
            MACHINE
        }
    }
}

fn many(args: &Sim, path: &Path, scenario: &Scenario, kind: SidecarKind, from: u64) -> u8 {
    let mut tally = Tally::new(args.seeds);
    let mut failed = None;
    sweep(
        from..from.saturating_add(args.seeds),
        args.jobs.unwrap_or_else(jobs),
        |seed| history(scenario, kind, seed, false),
        |seed, result| {
            tally.done();
            if let Ok(history) = &result {
                let requests = history.result.iter().flat_map(|r| &r.loads).map(|l| l.requests).sum();
                tally.add(history.simulated, requests);
            }
            if result.as_ref().is_ok_and(History::passed) {
                return ControlFlow::Continue(());
            }
            failed = Some((seed, result));
            ControlFlow::Break(())
        },
    );
    tally.tell(&path.display().to_string());
    let Some((seed, result)) = failed else {
        println!("PASSED for every seed from {from} to {}", from.saturating_add(args.seeds) - 1);
        return PASSED;
    };
    if !matches!(result, Err(SimFailure::Unsupported(_))) {
        println!("seed {seed} did not pass:");
    }
    let code = tell(&result);
    if !matches!(result, Err(SimFailure::Unsupported(_))) {
        let kind = args.sidecar.map(SidecarKind::from);
        println!("\nreplay: {}", replay(path, kind, seed));
    }
    code
}
