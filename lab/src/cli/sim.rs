//! `lab sim`

use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use super::tally::Tally;
use super::{INTERRUPTED, INVALID, MACHINE, PASSED, Sim};
use crate::history::{History, Keep, history, replay};
use crate::plan::SidecarKind;
use crate::report::page::{self, Log, Sources};
use crate::report::{self, terminal};
use crate::scenario::Scenario;
use crate::sim::{SimFailure, jobs, sweep};

/// Simulates every seed of every scenario; each stops at its first seed that does not pass, unless
/// it shall keep going.
pub(super) fn run(args: &Sim) -> ExitCode {
    if let Some(faults) = args.faults {
        if args.html.is_some() && args.replay.is_none() {
            errln!("--html is for one history: with --faults, name its seed (--replay)");
            return ExitCode::from(INVALID);
        }
        return super::swarm::run(args, faults);
    }
    if args.search.is_some() {
        return super::search::run(args);
    }
    if args.corpus.is_some() {
        errln!("--corpus is for --faults and --search");
        return ExitCode::from(INVALID);
    }
    if args.trace.is_some() && (args.seeds != 1 || args.scenarios.len() != 1) {
        errln!("--trace is for one scenario and one seed");
        return ExitCode::from(INVALID);
    }
    if args.html.is_some() && (args.seeds != 1 || args.scenarios.len() != 1) {
        errln!("--html is for one scenario and one seed");
        return ExitCode::from(INVALID);
    }
    super::each(&args.scenarios, |path| {
        let scenario = match super::read(path) {
            Ok(scenario) => scenario,
            Err(code) => return code,
        };
        let kind = args.sidecar.unwrap_or_else(|| scenario.sidecars()[0]);
        let from = args.from.unwrap_or(scenario.seed);
        match args.seeds {
            1 => one(args, path, &scenario, kind, from),
            _ => many(args, path, &scenario, kind, from),
        }
    })
}

fn one(args: &Sim, path: &Path, scenario: &Scenario, kind: SidecarKind, seed: u64) -> u8 {
    let keep = Keep { trace: args.trace.is_some(), log: args.html.is_some() };
    let history = history(scenario, kind, seed, keep);
    if let (Some(path), Ok(history)) = (&args.trace, &history)
        && let Err(error) = std::fs::write(path, history.text())
    {
        errln!("cannot write the trace to {}: {error}", path.display());
        return MACHINE;
    }
    if let (Some(html), Ok(history)) = (&args.html, &history)
        && let Err(error) = write_page(html, path, history, &replay(path, args.sidecar, seed))
    {
        errln!("cannot write the page to {}: {error}", html.display());
        return MACHINE;
    }
    tell(&history)
}

/// Writes the page of a history, unless the mesh did not come up.
fn write_page(html: &Path, scenario: &Path, history: &History, command: &str) -> io::Result<()> {
    let Ok(report) = &history.result else { return Ok(()) };
    let sources = Sources {
        scenario: &std::fs::read_to_string(scenario)?,
        command,
        events: &history.events,
        logs: Log::of(history.log.iter().cloned()),
    };
    report::write_whole(html, &page::of(report, &sources))
}

/// Prints what happened and returns the code for it.
fn tell(history: &Result<History, SimFailure>) -> u8 {
    let history = match history {
        Ok(history) => history,
        Err(failure) => return super::broken(failure),
    };
    if !history.passed() {
        outln!("\ntimeline");
        for event in &history.events {
            let at = event.at_us as f64 / 1e6;
            outln!("  {at:>9.3} s  {:<8} {} {}", event.kind, event.subject, event.detail);
        }
    }
    match &history.result {
        Ok(report) => {
            out!("{}", terminal::render(report, super::style()));
        }
        Err(error) => outln!("CANNOT RUN: the mesh did not come up: {error}"),
    }
    code(history)
}

fn many(args: &Sim, path: &Path, scenario: &Scenario, kind: SidecarKind, from: u64) -> u8 {
    super::stop::listen();
    let mut tally = Tally::new(args.seeds);
    let mut failures = Failures::default();
    let mut stopped = false;
    sweep(
        from..from.saturating_add(args.seeds),
        args.jobs.map_or_else(jobs, NonZeroUsize::get),
        |seed| history(scenario, kind, seed, Keep::default()),
        |seed, result| {
            tally.done();
            if let Ok(history) = &result {
                let requests = history.result.iter().flat_map(|r| &r.loads).map(|l| l.requests).sum();
                tally.add(history.simulated, requests);
            }
            let goes_on = if result.as_ref().is_ok_and(History::passed) {
                true
            } else {
                let hopeless = matches!(result, Err(SimFailure::Unsupported(_)));
                failures.add(seed, result);
                args.keep_going && !hopeless
            };
            stopped |= super::stop::is_requested();
            if goes_on && !stopped { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    let done = tally.tell(&path.display().to_string());
    let code = failures.tell(done, |seed| replay(path, args.sidecar, seed));
    if stopped && done < args.seeds {
        outln!("INTERRUPTED after {done} of {} seeds", args.seeds);
        return INTERRUPTED;
    }
    if code == PASSED {
        outln!("PASSED for every seed from {from} to {}", from.saturating_add(args.seeds) - 1);
    }
    code
}

/// Lines of seeds that did not pass, at most; the replay of each is the same but for its number.
const TOLD: usize = 20;

/// The seeds that did not pass.
#[derive(Default)]
struct Failures {
    /// Each with its code and the first reason.
    seeds: Vec<(u64, u8, String)>,
    /// What there is to tell of the first.
    first: Option<Result<History, SimFailure>>,
}

impl Failures {
    fn add(&mut self, seed: u64, result: Result<History, SimFailure>) {
        let (code, why) = match &result {
            Ok(history) => (code(history), history.reasons().into_iter().next().unwrap_or_default()),
            Err(failure) => (super::code_of(failure), failure.to_string()),
        };
        self.seeds.push((seed, code, why));
        self.first.get_or_insert(result);
    }

    /// Prints them, of `done` seeds, and returns the code of all.
    fn tell(&self, done: u64, replay: impl Fn(u64) -> String) -> u8 {
        let (Some(first), Some((seed, ..))) = (&self.first, self.seeds.first()) else { return PASSED };
        if matches!(first, Err(SimFailure::Unsupported(_))) {
            return tell(first);
        }
        outln!("seed {seed} did not pass:");
        tell(first);
        if self.seeds.len() > 1 {
            outln!();
            for (seed, code, why) in self.seeds.iter().take(TOLD) {
                outln!("  seed {seed:<8} {:<12} {why}", super::outcome(*code));
            }
            if let more @ 1.. = self.seeds.len().saturating_sub(TOLD) {
                outln!("  and {more} more");
            }
        }
        outln!("\n{} of {done} seeds did not pass", self.seeds.len());
        outln!("replay: {}", replay(*seed));
        self.seeds.iter().map(|(_, code, _)| *code).fold(PASSED, super::worst)
    }
}

/// The code of a history.
fn code(history: &History) -> u8 {
    history.result.as_ref().map_or(MACHINE, |report| super::code(report.verdict))
}
