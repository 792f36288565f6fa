//! The command line.
//!
//! `lab SCENARIO` runs a scenario on the kernel. The hidden commands are how the lab starts
//! sidecars, apps and load generators from its own executable, so that one build is enough.

mod check;
mod kernel;
mod live;
mod search;
mod sim;
mod stop;
mod swarm;
mod tally;

use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use proxy::mutant::Mutant;

use crate::app;
use crate::load;
use crate::plan::SidecarKind;
use crate::report::terminal::Style;
use crate::run::Verdict;
use crate::scenario::{self, Scenario};
use crate::sim::SimFailure;
use crate::syntax::diagnose::closest;

/// Everything held.
pub const PASSED: u8 = 0;
/// An expectation did not hold.
pub const FAILED: u8 = 1;
/// The scenario is wrong.
pub const INVALID: u8 = 2;
/// The machine cannot run it.
pub const MACHINE: u8 = 3;
/// The machine was not good enough to say.
pub const INCONCLUSIVE: u8 = 4;
/// The user stopped it.
pub const INTERRUPTED: u8 = 130;

/// The last seed of a command: all that there are fit into a number of TOML, and so do those that
/// follow it.
const LAST_SEED: u64 = i64::MAX as u64 - MOST_SEEDS;
/// Seeds of one command.
const MOST_SEEDS: u64 = 1_000_000_000_000;

/// Puts a service mesh on this machine, breaks it on purpose, and says exactly what it cost.
#[derive(Debug, Parser)]
#[command(name = "lab", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 every expectation held, 1 one did not, 2 the scenario is wrong, \
3 the machine cannot run it, 4 inconclusive, 130 interrupted; of several, the first of 130, 1, 2, 3, 4 and 0.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Option<Run>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a scenario on the kernel: namespaces, real processes, real packets. Takes root.
    Run(Run),
    /// Runs a scenario in the simulator, in virtual time, once for each seed. Takes no root.
    Sim(Sim),
    /// Looks for mistakes in scenarios without running them.
    Check {
        /// Scenario files.
        #[arg(required = true)]
        scenarios: Vec<PathBuf>,
    },
    /// Says what this machine lacks to run scenarios, and how to get it.
    Doctor {
        /// Install what is missing with apt-get.
        #[arg(long)]
        setup: bool,
    },
    /// Removes what a killed run left behind.
    Clean,
    #[command(name = "__sidecar", hide = true)]
    Sidecar {
        #[arg(long)]
        config: PathBuf,
    },
    #[command(name = "__proxy", hide = true)]
    Proxy(Box<proxy::cli::Cli>),
    #[command(name = "__app", hide = true)]
    App {
        #[arg(long)]
        spec: String,
        #[arg(long)]
        seed: u64,
    },
    #[command(name = "__load", hide = true)]
    Load {
        #[arg(long)]
        spec: String,
        #[arg(long)]
        start: u64,
        #[arg(long)]
        until: u64,
    },
}

/// How to run on the kernel.
#[derive(Debug, Args)]
struct Run {
    /// The scenario files, run one after the other.
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<PathBuf>,
    /// The kind of sidecar, instead of what the file says. Several, separated by commas, are run
    /// one after the other and compared.
    #[arg(long, value_delimiter = ',')]
    sidecar: Vec<SidecarKind>,
    /// What carries packets between instances.
    #[arg(long, value_enum, default_value_t = LinkChoice::Auto)]
    link: LinkChoice,
    /// Where run directories are made.
    #[arg(long, value_name = "DIRECTORY", default_value = "lab-runs")]
    out: PathBuf,
    /// Install missing system packages with apt-get first.
    #[arg(long)]
    setup: bool,
    /// Write what came of all runs to this file as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write what came of all runs to this file as Markdown, for the summary of a CI job.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// How to simulate.
#[derive(Debug, Args)]
struct Sim {
    /// The scenario files, run one after the other. None is needed with `--faults swarm`, which
    /// then draws the mesh too, nor with `--search`, which has a built-in scenario.
    #[arg(required_unless_present_any = ["faults", "search"], value_name = "SCENARIO")]
    scenarios: Vec<PathBuf>,
    /// How many histories.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MOST_SEEDS))]
    seeds: u64,
    /// The first seed. Default: the file's.
    #[arg(long, value_name = "SEED", value_parser = clap::value_parser!(u64).range(..=LAST_SEED))]
    from: Option<u64>,
    /// Go on after a seed that does not pass, and say at the end how many did not.
    #[arg(long, conflicts_with_all = ["faults", "search"])]
    keep_going: bool,
    /// How many at a time. Default: as many as there are CPUs.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// The kind of sidecar, instead of what the file says.
    #[arg(long)]
    sidecar: Option<SidecarKind>,
    /// Write everything that happened, a line each, to this file (with one scenario and one seed).
    #[arg(long, value_name = "FILE", conflicts_with = "faults")]
    trace: Option<PathBuf>,
    /// Judge histories by invariants that hold whatever fails, instead of by the file's
    /// expectations. Faults are those of the file, or drawn from the seed.
    #[arg(long, value_enum, conflicts_with = "sidecar")]
    faults: Option<Faults>,
    /// Search for settings of load, retries, time limits and ejection under which a scenario does
    /// not recover after its faults, and print the map of all settings. With `--seeds`, the worst
    /// of so many histories counts.
    #[arg(long, value_enum, conflicts_with_all = ["faults", "sidecar", "trace"])]
    search: Option<SearchGoal>,
    /// Run one seed and print its log.
    #[arg(long, value_name = "SEED", requires = "faults", conflicts_with_all = ["from", "seeds"],
        value_parser = clap::value_parser!(u64).range(..=LAST_SEED))]
    replay: Option<u64>,
    /// Write what is there to look at to this file: the page of a run (with one scenario and one
    /// seed), or with `--replay` the timeline.
    #[arg(long, value_name = "FILE", conflicts_with = "search")]
    html: Option<PathBuf>,
    /// Where the smallest run that violates an invariant, or the smallest trigger that `--search`
    /// found, is kept. Default: a run is kept in `lab-runs`, and a trigger is only printed.
    #[arg(long, value_name = "DIRECTORY")]
    corpus: Option<PathBuf>,
    /// Activate a mutant in every sidecar, to see whether an invariant finds it (development builds
    /// with the feature `mutants` only; proxy/src/mutant.rs lists them).
    #[arg(long, value_name = "NAME", requires = "faults", value_parser = mutants(), hide_possible_values = true)]
    mutant: Option<Mutant>,
}

/// The names of mutants.
fn mutants() -> impl TypedValueParser<Value = Mutant> {
    let names = PossibleValuesParser::new(Mutant::ALL.iter().map(|mutant| mutant.name()));
    names.map(|name| Mutant::named(&name).expect("a possible value"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Faults {
    /// Those that are drawn from the seed.
    Swarm,
    /// Those of the file.
    Scenario,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SearchGoal {
    /// Failures that outlast their cause.
    Metastable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LinkChoice {
    /// A bridge if the scenario impairs no link, else netem where the kernel has it, else the wire.
    Auto,
    /// A bridge: nothing in the way, no impairment possible.
    Bridge,
    /// The kernel's network emulator.
    Netem,
    /// The lab's own, in user space.
    Wire,
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let code = command();
    let is_fine = [PASSED, INCONCLUSIVE].map(ExitCode::from).contains(&code);
    if is_fine && proxy::output::has_failed() { ExitCode::from(MACHINE) } else { code }
}

fn command() -> ExitCode {
    let cli: Cli = match proxy::output::arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match (cli.command, cli.run) {
        (Some(Command::Run(run)), _) | (None, Some(run)) => kernel::run(&run),
        (Some(Command::Sim(sim)), _) => sim::run(&sim),
        (Some(Command::Check { scenarios }), _) => check::run(&scenarios),
        (Some(Command::Doctor { setup }), _) => kernel::doctor(setup),
        (Some(Command::Clean), _) => kernel::clean(),
        (Some(Command::Sidecar { config }), _) => proxy::app::run(&config, proxy::app::Options::default()),
        (Some(Command::Proxy(cli)), _) => cli.perform(),
        (Some(Command::App { spec, seed }), _) => app::process::run(&spec, seed),
        (Some(Command::Load { spec, start, until }), _) => load::process::run(&spec, start, until),
        (None, None) => unreachable!("clap asks for a command or a scenario"),
    }
}

/// The code that counts of two: what is red whatever became of the other first, what is in doubt
/// last.
fn worst(one: u8, other: u8) -> u8 {
    const ORDER: [u8; 6] = [INTERRUPTED, FAILED, INVALID, MACHINE, INCONCLUSIVE, PASSED];
    ORDER.into_iter().find(|code| [one, other].contains(code)).unwrap_or(one)
}

/// Runs several things one after the other and, if there are several, says at the end what came of
/// each. The code is the [`worst`] of theirs; an interruption ends it.
fn each(scenarios: &[PathBuf], run: impl Fn(&Path) -> u8) -> ExitCode {
    let mut codes = Vec::new();
    for scenario in scenarios {
        let code = run(scenario);
        codes.push((scenario, code));
        if code == INTERRUPTED {
            break;
        }
    }
    if scenarios.len() > 1 {
        outln!();
        for (scenario, code) in &codes {
            outln!("{:<12}  {}", outcome(*code), scenario.display());
        }
    }
    ExitCode::from(codes.into_iter().map(|(_, code)| code).fold(PASSED, worst))
}

/// Says why a history did not come to its end, and with which code that ends the command.
fn broken(failure: &SimFailure) -> u8 {
    errln!("{failure}");
    code_of(failure)
}

/// The code of a history that did not come to its end.
fn code_of(failure: &SimFailure) -> u8 {
    if matches!(failure, SimFailure::Unsupported(_)) { MACHINE } else { FAILED }
}

fn outcome(code: u8) -> &'static str {
    match code {
        PASSED => "PASSED",
        FAILED => "FAILED",
        INVALID => "INVALID",
        MACHINE => "CANNOT RUN",
        INCONCLUSIVE => "INCONCLUSIVE",
        _ => "INTERRUPTED",
    }
}

/// The code of a verdict.
fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Passed => PASSED,
        Verdict::Failed => FAILED,
        Verdict::Inconclusive => INCONCLUSIVE,
        Verdict::Interrupted => INTERRUPTED,
    }
}

/// Colours if a person looks on and has not asked for none (<https://no-color.org>).
fn style() -> Style {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && io::stdout().is_terminal() { Style::Colour } else { Style::Plain }
}

/// Reads a scenario, or says what is wrong with it.
fn read(path: &Path) -> Result<Scenario, u8> {
    read_with_text(path).map(|(scenario, _)| scenario)
}

/// `; did you mean `lab check`?`, if a word that is no file looks like a command.
fn mistyped(word: &str) -> Option<String> {
    use clap::CommandFactory;
    if word.contains(['.', '/']) {
        return None;
    }
    let cli = Cli::command();
    let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let near = closest(word, commands.map(clap::Command::get_name))?;
    Some(format!("; did you mean `lab {near}`?"))
}

/// The same, with the text of the file.
fn read_with_text(path: &Path) -> Result<(Scenario, String), u8> {
    let name = path.display().to_string();
    let text = std::fs::File::open(path).and_then(proxy::config::text).map_err(|error| {
        errln!("cannot read {name}: {error}{}", mistyped(&name).unwrap_or_default());
        INVALID
    })?;
    let scenario = scenario::parse(&name, &text).map_err(|errors| {
        errln!("{:?}", miette::Report::new(errors));
        INVALID
    })?;
    Ok((scenario, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_that_is_mistyped_is_named() {
        for (word, meant) in [("chek", "check"), ("sims", "sim"), ("docter", "doctor")] {
            assert_eq!(mistyped(word).unwrap_or_default(), format!("; did you mean `lab {meant}`?"));
        }
        assert_eq!(mistyped("chek.toml").or(mistyped("scenarios/hello")).or(mistyped("failover")), None);
    }

    #[test]
    fn there_is_no_run_of_no_seed_or_past_the_last() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' ')).map(drop).map_err(|e| e.to_string());
        for wrong in
            ["--seeds 0", "--from 18446744073709551615", "--faults swarm --replay 9223372036854775807"]
        {
            let error = parse(&format!("lab sim a.toml {wrong}")).expect_err(wrong);
            assert!(error.contains("is not in"), "{error}");
        }
        for right in ["--seeds 1", "--from 0", "--from 9000000000000000000", "--faults swarm --replay 0"] {
            parse(&format!("lab sim a.toml {right}")).expect(right);
        }
    }

    #[test]
    fn scenarios_may_be_given_with_and_without_the_word_run() {
        for words in [vec!["lab", "a.toml", "b.toml"], vec!["lab", "run", "a.toml", "b.toml"]] {
            let cli = Cli::try_parse_from(&words).unwrap();
            let run = match (cli.command, cli.run) {
                (Some(Command::Run(run)), None) | (None, Some(run)) => run,
                other => panic!("{words:?}: {other:?}"),
            };
            assert_eq!(run.scenarios, [Path::new("a.toml"), Path::new("b.toml")]);
        }
    }

    #[test]
    fn the_worst_of_several_is_the_code_of_all() {
        for (codes, of_all) in [
            (vec![0, 4, 1, 3, 2], FAILED),
            (vec![4, 3, 0, 2], INVALID),
            (vec![4, 3, 0], MACHINE),
            (vec![0, 4, 0], INCONCLUSIVE),
            (vec![0, 0], PASSED),
            (vec![1, 130, 0], INTERRUPTED),
        ] {
            let paths: Vec<PathBuf> = codes.iter().map(|code| code.to_string().into()).collect();
            let code = each(&paths, |path| path.display().to_string().parse().unwrap());
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(of_all)), "{codes:?}");
        }
    }
}
