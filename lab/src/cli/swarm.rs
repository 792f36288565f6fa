//! `lab sim --faults`: histories judged by laws.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::tally::Tally;
use super::{FAILED, Faults, INVALID, MACHINE, PASSED, Sim};
use crate::scenario::Scenario;
use crate::sim::{Line, SimFailure, jobs, sweep};
use crate::swarm::schedule::Given;
use crate::swarm::timeline;
use crate::swarm::{self, Day, Drawn, Options, Violation, shrink, situation};

/// How much of the log before a breach is shown.
const BEFORE: Duration = Duration::from_millis(150);
/// Lines of it, at most.
const LINES: usize = 30;
/// Lines about what the sentence speaks of, however long before, at most.
const NEWS: usize = 20;
/// Where the smallest day that breaks a law is kept, unless the command line says.
const KEPT: &str = "lab-runs";

/// What days are made of.
enum Source {
    /// Mesh and faults are drawn.
    Random,
    /// Faults are drawn for the mesh of a file.
    Mesh(Arc<Given>),
    /// Everything is the file's, which has this text; only chance differs.
    File(Box<Scenario>, String),
}

impl Source {
    fn run(&self, seed: u64, options: Options) -> Result<Day, SimFailure> {
        match self {
            Source::File(scenario, _) => swarm::day(scenario, seed, options),
            _ => swarm::scheduled(&self.drawn(seed).expect("a day that is drawn").schedule(), options),
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
            _ => self.drawn(seed).expect("a day that is drawn").schedule().scenario(),
        }
    }
}

/// Simulates every seed of every scenario; each stops at the first seed that breaks a law.
pub(super) fn run(args: &Sim, faults: Faults) -> ExitCode {
    if args.mutant.is_some() && !cfg!(debug_assertions) {
        errln!("--mutant needs a build with debug assertions; a release build has no mistakes to plant");
        return ExitCode::from(MACHINE);
    }
    // There is one for the whole run, and it is needed as long.
    let mutant = args.mutant.clone().map(|name| &*name.leak());
    let options = Options { mutant };
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
            Faults::Swarm => match Given::new(&scenario, &text) {
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

fn one_source(args: &Sim, path: Option<&Path>, source: &Source, first: u64, options: Options) -> u8 {
    match args.replay {
        Some(seed) => replay(args, path, source, seed, options),
        None => search(args, path, source, args.from.unwrap_or(first), options),
    }
}

/// One day, with its whole log.
fn replay(args: &Sim, path: Option<&Path>, source: &Source, seed: u64, options: Options) -> u8 {
    let text = source.text(seed);
    outln!("{text}");
    let day = match source.run(seed, options) {
        Ok(day) => day,
        Err(failure) => return super::broken(&failure),
    };
    for line in &day.facts.log {
        outln!("{}", shown(line));
    }
    if let Some(html) = &args.html
        && let Err(error) = std::fs::write(
            html,
            timeline::html(&day.facts, &day.violations, &text, &command(args, path, seed)),
        )
    {
        errln!("cannot write the timeline to {}: {error}", html.display());
        return MACHINE;
    }
    outln!();
    if day.violations.is_empty() {
        outln!("PASSED: seed {seed} breaks no law");
        return PASSED;
    }
    for violation in &day.violations {
        outln!("FAILED: {violation}");
    }
    FAILED
}

fn search(args: &Sim, path: Option<&Path>, source: &Source, from: u64, options: Options) -> u8 {
    super::stop::listen();
    let mut tally = Tally::new(args.seeds);
    let mut reached = vec![0_u64; situation::ALL.len()];
    let mut failed = None;
    // What is kept of a day is little, or a long sweep would fill the memory.
    let run = |seed| {
        source.run(seed, options).map(|day| {
            let seen: Vec<bool> = situation::ALL.iter().map(|s| s.is_in(&day.facts)).collect();
            (day.violations.first().cloned(), seen, day.simulated, day.facts.calls.len() as u64)
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
    let done = tally.tell(&path.map_or("bad days".into(), |path| path.display().to_string()));
    match failed {
        None if super::stop::is_requested() && done < args.seeds => {
            outln!("INTERRUPTED after {done} of {} seeds, of which none broke a law", args.seeds);
            super::INTERRUPTED
        }
        None => {
            if args.seeds > 1 && !matches!(source, Source::File(..)) {
                outln!("days that have seen");
                for (situation, days) in situation::ALL.iter().zip(reached) {
                    outln!("  {days:>8}  {}", situation.name);
                }
            }
            if let Some(mutant) = args.mutant.as_deref().filter(|_| !proxy::mutant::was_reached()) {
                outln!(
                    "INCONCLUSIVE: no seed came to where a mutant called {mutant:?} does harm, if there is one"
                );
                return super::INCONCLUSIVE;
            }
            outln!("PASSED for every seed from {from} to {}", from.saturating_add(args.seeds) - 1);
            PASSED
        }
        Some((_, Some(failure))) => super::broken(&failure),
        Some((seed, None)) => explain(args, path, source, seed, options),
    }
}

/// Looks for the smallest day that breaks the same law and tells its story.
fn explain(args: &Sim, path: Option<&Path>, source: &Source, seed: u64, options: Options) -> u8 {
    outln!("seed {seed} breaks a law");
    let (text, day, complaint) = match source.drawn(seed) {
        Some(drawn) => {
            let before = drawn.schedule().compatible().len();
            let Some(smallest) = shrink(drawn, options) else {
                outln!("FAILED, but not when it was run again: chance from outside got in");
                return FAILED;
            };
            let after = smallest.schedule.compatible().len();
            outln!("made smaller in {} runs: {before} faults, {after} of them needed", smallest.runs);
            (smallest.schedule.scenario(), smallest.day, smallest.complaint)
        }
        None => match source.run(seed, options) {
            Ok(day) => {
                let complaint = day.violations.first().map(ToString::to_string).unwrap_or_default();
                (String::new(), Some(day), complaint)
            }
            Err(failure) => return super::broken(&failure),
        },
    };
    out!("\n{text}");
    if let Some(day) = &day {
        out!("\n{}", story(day));
    }
    outln!("\nFAILED: {complaint}");
    if text.is_empty() {
        outln!("replay: {}", command(args, path, seed));
        return FAILED;
    }
    // What is shown is the smaller day, so that is what must be replayed, and a scenario file is its one lasting form.
    let folder = args.corpus.as_deref().unwrap_or(Path::new(KEPT));
    match keep(folder, seed, &complaint, args.mutant.as_deref(), &text) {
        Ok(file) => outln!("replay: {}", command_of(&file, args.mutant.as_deref(), seed)),
        Err(error) => {
            errln!("cannot keep it in {}: {error}", folder.display());
            outln!("replay, before it was made smaller: {}", command(args, path, seed));
        }
    }
    FAILED
}

/// What led to the first breach: all that was said shortly before, and whenever it was, what the lab did and what became of
/// those that the sentence names.
fn story(day: &Day) -> String {
    let mut text = String::new();
    let Some(Violation { breach, .. }) = day.violations.first() else { return text };
    // A breach of the whole day has no moment.
    let at = if breach.at == 0 { day.facts.end_us() } else { breach.at };
    let near = at.saturating_sub(BEFORE.as_micros() as u64);
    let before: Vec<&Line> = day.facts.log.iter().take_while(|line| line.at_us <= at).collect();
    let last = |most: usize, matters: &dyn Fn(&Line) -> bool| {
        let found: Vec<usize> = (0..before.len()).filter(|&position| matters(before[position])).collect();
        found[found.len().saturating_sub(most)..].to_vec()
    };
    let mut chosen = BTreeSet::from_iter(last(LINES, &|line| line.at_us >= near));
    chosen.extend(last(NEWS, &|line| is_news(line) && is_about(line, &breach.what)));
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

/// Whether a line says that something has changed. That an endpoint was picked, and has answered, is said all the time.
fn is_news(line: &Line) -> bool {
    let is_usual = ["endpoint picked", "endpoint answered", "check passed"].contains(&line.text.as_str());
    !is_usual
        && (line.word("endpoint").is_some() || line.word("id").is_some() || line.text.starts_with("drain"))
}

/// Whether a line is about somebody that a sentence names: an endpoint, a request or a process.
fn is_about(line: &Line, sentence: &str) -> bool {
    let names = |name: &str| {
        sentence.match_indices(name).any(|(at, _)| {
            !sentence[at + name.len()..].starts_with(|next: char| next.is_ascii_digit())
                && !sentence[..at].ends_with(|before: char| before.is_ascii_alphanumeric())
        })
    };
    let who = [line.word("endpoint"), line.word("id"), Some(&*line.process)];
    who.into_iter().flatten().any(names)
}

fn shown(line: &Line) -> String {
    format!("  {:>9.3} s  {:<16} {line}", line.at_us as f64 / 1e6, line.process)
}

/// Writes a day where the tests find it.
fn keep(
    folder: &Path,
    seed: u64,
    complaint: &str,
    mutant: Option<&str>,
    text: &str,
) -> std::io::Result<String> {
    std::fs::create_dir_all(folder)?;
    let law = complaint.split(':').next().unwrap_or("end");
    let file = folder.join(format!("{law}-{seed}.toml"));
    let mutant = mutant.map(|mutant| format!("# With the mutant {mutant} it breaks.\n")).unwrap_or_default();
    std::fs::write(&file, format!("# Found by seed {seed}.\n# {complaint}\n{mutant}\n{text}"))?;
    Ok(file.display().to_string())
}

/// The command that runs a day again of which everything is in a file.
fn command_of(file: &str, mutant: Option<&str>, seed: u64) -> String {
    let mutant = mutant.map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
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
        let _ = write!(command, " --mutant {mutant}");
    }
    command
}
