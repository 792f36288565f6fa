//! `lab sim --faults`: histories judged by invariants.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use proxy::mutant::{self, Mutant};
use proxy::telemetry::LogEvent;

use super::tally::Tally;
use super::{FAILED, Faults, INVALID, MACHINE, PASSED, Sim};
use crate::scenario::Scenario;
use crate::sim::{LogLine, SimFailure, jobs, sweep};
use crate::swarm::facts::RunEvent;
use crate::swarm::schedule::GivenMesh;
use crate::swarm::timeline;
use crate::swarm::{self, Drawn, InvariantViolation, SwarmOptions, SwarmRun, coverage, shrink};

/// How much of the log before a violation is shown.
const BEFORE: Duration = Duration::from_millis(150);
/// Lines of it, at most.
const LINES: usize = 30;
/// The most lines about what the violation names, however long before.
const NEWS: usize = 20;
/// Where the smallest run that violates an invariant is kept, unless the command line says.
const KEPT: &str = "lab-runs";

/// Where runs come from.
enum Source {
    /// Mesh and faults are drawn.
    Random,
    /// Faults are drawn for the mesh of a file.
    Mesh(Arc<GivenMesh>),
    /// Everything is the file's, which has this text; only chance differs.
    File(Box<Scenario>, String),
}

impl Source {
    fn run(&self, seed: u64, options: SwarmOptions) -> Result<SwarmRun, SimFailure> {
        match self {
            Source::File(scenario, _) => swarm::run_scenario(scenario, seed, options),
            _ => {
                swarm::run_schedule(&self.drawn(seed).expect("a schedule that is drawn").schedule(), options)
            }
        }
    }

    fn drawn(&self, seed: u64) -> Option<Drawn> {
        match self {
            Source::Random => Some(Drawn::new(seed)),
            Source::Mesh(given) => Some(Drawn::over(Some(given), seed)),
            Source::File(..) => None,
        }
    }

    /// The scenario that a seed runs. Of a file only the seed is another one.
    fn text(&self, seed: u64) -> String {
        match self {
            Source::File(_, text) => text.clone(),
            _ => self.drawn(seed).expect("a schedule that is drawn").schedule().scenario(),
        }
    }
}

/// Simulates every seed of every scenario; each stops at the first seed that violates an invariant.
pub(super) fn run(args: &Sim, faults: Faults) -> ExitCode {
    if args.mutant.is_some() && !mutant::AVAILABLE {
        errln!("--mutant needs a development build with the feature `mutants`");
        return ExitCode::from(MACHINE);
    }
    let options = SwarmOptions { mutant: args.mutant };
    if args.scenarios.is_empty() {
        return match faults {
            Faults::Swarm => ExitCode::from(one_source(args, None, &Source::Random, 0, options)),
            Faults::Scenario => {
                errln!("--faults scenario needs a scenario");
                ExitCode::from(INVALID)
            }
        };
    }
    super::each(&args.scenarios, |path| {
        let (scenario, text) = match super::read_with_text(path) {
            Ok(read) => read,
            Err(code) => return code,
        };
        let first = scenario.seed;
        let source = match faults {
            Faults::Scenario => Source::File(Box::new(scenario), text),
            Faults::Swarm => match GivenMesh::new(&scenario, &text) {
                Ok(given) => Source::Mesh(given),
                Err(why) => {
                    errln!("{}: {why}", path.display());
                    return INVALID;
                }
            },
        };
        one_source(args, Some(path), &source, first, options)
    })
}

fn one_source(args: &Sim, path: Option<&Path>, source: &Source, first: u64, options: SwarmOptions) -> u8 {
    match args.replay {
        Some(seed) => replay(args, path, source, seed, options),
        None => sweep_seeds(args, path, source, args.from.unwrap_or(first), options),
    }
}

/// One run with its whole log.
fn replay(args: &Sim, path: Option<&Path>, source: &Source, seed: u64, options: SwarmOptions) -> u8 {
    let text = source.text(seed);
    outln!("{text}");
    let run = match source.run(seed, options) {
        Ok(run) => run,
        Err(failure) => return super::broken(&failure),
    };
    for line in &run.facts.log {
        outln!("{}", shown(line));
    }
    if let Some(html) = &args.html
        && let Err(error) = std::fs::write(
            html,
            timeline::html(&run.facts, &run.violations, &text, &command(args, path, seed)),
        )
    {
        errln!("cannot write the timeline to {}: {error}", html.display());
        return MACHINE;
    }
    outln!();
    if run.violations.is_empty() {
        outln!("PASSED: seed {seed} violates no invariant");
        return PASSED;
    }
    for violation in &run.violations {
        outln!("FAILED: {violation}");
    }
    FAILED
}

fn sweep_seeds(args: &Sim, path: Option<&Path>, source: &Source, from: u64, options: SwarmOptions) -> u8 {
    super::stop::listen();
    let mut tally = Tally::new(args.seeds);
    let mut reached = vec![0_u64; coverage::ALL.len()];
    let mut failed = None;
    // Little is kept of a run, or a long sweep would fill the memory.
    let run = |seed| {
        source.run(seed, options).map(|run| {
            let seen: Vec<bool> = coverage::ALL.iter().map(|s| s.is_in(&run.facts)).collect();
            (run.violations.first().cloned(), seen, run.simulated, run.facts.calls.len() as u64)
        })
    };
    let jobs = args.jobs.map_or_else(jobs, NonZeroUsize::get);
    sweep(from..from.saturating_add(args.seeds), jobs, run, |seed, result| {
        tally.done();
        match result {
            Ok((violation, seen, time, calls)) => {
                tally.add(time, calls);
                for (reached, seen) in reached.iter_mut().zip(seen) {
                    *reached += u64::from(seen);
                }
                if violation.is_none() {
                    let stops = super::stop::is_requested();
                    return if stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                }
            }
            Err(SimFailure::Unsupported(why)) => {
                failed = Some((seed, Some(SimFailure::Unsupported(why))));
                return ControlFlow::Break(());
            }
            Err(_) => {}
        }
        failed = Some((seed, None));
        ControlFlow::Break(())
    });
    let done = tally.tell(&path.map_or("swarm".into(), |path| path.display().to_string()));
    match failed {
        None if super::stop::is_requested() && done < args.seeds => {
            outln!("INTERRUPTED after {done} of {} seeds, of which none violated an invariant", args.seeds);
            super::INTERRUPTED
        }
        None => {
            if args.seeds > 1 && !matches!(source, Source::File(..)) {
                outln!("runs that reached");
                for (point, runs) in coverage::ALL.iter().zip(reached) {
                    outln!("  {runs:>8}  {}", point.name);
                }
            }
            if let Some(mutant) = args.mutant.filter(|_| !mutant::was_reached()) {
                outln!("INCONCLUSIVE: no seed came to where {} does its harm", mutant.name());
                return super::INCONCLUSIVE;
            }
            outln!("PASSED for every seed from {from} to {}", from.saturating_add(args.seeds) - 1);
            PASSED
        }
        Some((_, Some(failure))) => super::broken(&failure),
        Some((seed, None)) => explain(args, path, source, seed, options),
    }
}

/// Shrinks the run of a seed and prints what led to its violation.
fn explain(args: &Sim, path: Option<&Path>, source: &Source, seed: u64, options: SwarmOptions) -> u8 {
    outln!("seed {seed} violates an invariant");
    let (text, run, complaint) = match source.drawn(seed) {
        Some(drawn) => {
            let before = drawn.schedule().compatible().len();
            let Some(smallest) = shrink(drawn, options) else {
                outln!("FAILED, but not when it was run again: chance from outside got in");
                return FAILED;
            };
            let after = smallest.schedule.compatible().len();
            outln!("made smaller in {} runs: {before} faults, {after} of them needed", smallest.runs);
            (smallest.schedule.scenario(), smallest.run, smallest.complaint)
        }
        None => match source.run(seed, options) {
            Ok(run) => {
                let complaint = run.violations.first().map(ToString::to_string).unwrap_or_default();
                (String::new(), Some(run), complaint)
            }
            Err(failure) => return super::broken(&failure),
        },
    };
    out!("\n{text}");
    if let Some(run) = &run {
        out!("\n{}", story(run));
    }
    outln!("\nFAILED: {complaint}");
    if text.is_empty() {
        outln!("replay: {}", command(args, path, seed));
        return FAILED;
    }
    // The smaller run is what is shown, so it is what must be replayed; a scenario file is the form
    // in which it is kept.
    let folder = args.corpus.as_deref().unwrap_or(Path::new(KEPT));
    match keep(folder, seed, &complaint, args.mutant, &text) {
        Ok(file) => outln!("replay: {}", command_of(&file, args.mutant, seed)),
        Err(error) => {
            errln!("cannot keep it in {}: {error}", folder.display());
            outln!("replay, before it was made smaller: {}", command(args, path, seed));
        }
    }
    FAILED
}

/// What led to the first violation: all lines shortly before, and from any time before, what the
/// lab did and what happened to the endpoints, requests and processes that the violation names.
fn story(run: &SwarmRun) -> String {
    let mut text = String::new();
    let Some(InvariantViolation { violation, .. }) = run.violations.first() else { return text };
    // A violation by the whole run has no time.
    let at = if violation.at == 0 { run.facts.end_us() } else { violation.at };
    let near = at.saturating_sub(BEFORE.as_micros() as u64);
    let before: Vec<&LogLine> = run.facts.log.iter().take_while(|line| line.at_us <= at).collect();
    let last = |most: usize, matters: &dyn Fn(&LogLine) -> bool| {
        let found: Vec<usize> = (0..before.len()).filter(|&position| matters(before[position])).collect();
        found[found.len().saturating_sub(most)..].to_vec()
    };
    let mut chosen = BTreeSet::from_iter(last(LINES, &|line| line.at_us >= near));
    chosen.extend(last(NEWS, &|line| is_news(line) && is_about(line, &violation.what)));
    chosen.extend(last(NEWS, &|line| &*line.process == "lab"));
    let mut next = 0;
    for position in chosen {
        if position > next {
            let _ = writeln!(text, "  ({} lines)", position - next);
        }
        let _ = writeln!(text, "{}", shown(before[position]));
        next = position + 1;
    }
    text
}

/// Whether a line tells of a change. Picks and answers of endpoints are too frequent to count.
fn is_news(line: &LogLine) -> bool {
    match RunEvent::read(line) {
        Some(RunEvent::Sidecar(
            LogEvent::EndpointPicked { .. }
            | LogEvent::EndpointAnswered { .. }
            | LogEvent::CheckPassed { .. },
        )) => false,
        Some(RunEvent::Sidecar(LogEvent::Draining | LogEvent::Drained)) => true,
        event => event.is_some_and(|event| event.subject().is_some()),
    }
}

/// Whether a line is about an endpoint, a request or a process that a sentence names.
fn is_about(line: &LogLine, sentence: &str) -> bool {
    let names = |name: &str| {
        sentence.match_indices(name).any(|(at, _)| {
            !sentence[at + name.len()..].starts_with(|next: char| next.is_ascii_digit())
                && !sentence[..at].ends_with(|before: char| before.is_ascii_alphanumeric())
        })
    };
    let event = RunEvent::read(line);
    let subject = event.as_ref().and_then(RunEvent::subject);
    subject.into_iter().chain([&*line.process]).any(names)
}

fn shown(line: &LogLine) -> String {
    format!("  {:>9.3} s  {:<16} {line}", line.at_us as f64 / 1e6, line.process)
}

/// Writes a run to where the tests find it.
fn keep(
    folder: &Path,
    seed: u64,
    complaint: &str,
    mutant: Option<Mutant>,
    text: &str,
) -> std::io::Result<String> {
    std::fs::create_dir_all(folder)?;
    let invariant = complaint.split(':').next().unwrap_or("end");
    let file = folder.join(format!("{invariant}-{seed}.toml"));
    let mutant =
        mutant.map(|mutant| format!("# With the mutant {} it fails.\n", mutant.name())).unwrap_or_default();
    std::fs::write(&file, format!("# Found by seed {seed}.\n# {complaint}\n{mutant}\n{text}"))?;
    Ok(file.display().to_string())
}

/// The command that replays a run from its scenario file.
fn command_of(file: &str, mutant: Option<Mutant>, seed: u64) -> String {
    let mutant = mutant.map(|mutant| format!(" --mutant {}", mutant.name())).unwrap_or_default();
    format!("lab sim {file} --faults scenario --replay {seed}{mutant}")
}

fn command(args: &Sim, path: Option<&Path>, seed: u64) -> String {
    let mut command = String::from("lab sim");
    if let Some(path) = path {
        let _ = write!(command, " {}", path.display());
    }
    let faults = if args.faults == Some(Faults::Scenario) { "scenario" } else { "swarm" };
    let _ = write!(command, " --faults {faults} --replay {seed}");
    if let Some(mutant) = &args.mutant {
        let _ = write!(command, " --mutant {}", mutant.name());
    }
    command
}
