//! Compares what two revisions of the sidecar cost, and says whether that is too much.
//!
//! `docs/performance.md` is for people who use it. Read it in the order of a run: [`supervisor`]
//! starts it and cleans up behind it; [`revision`] finds out what to compare, and [`programs`]
//! builds it; [`quick`] counts, under [`callgrind`]; [`full`] measures, in paired blocks;
//! [`statistics`] turns blocks into intervals and verdicts, and [`settings`] says what is too much;
//! [`finding`] is the result of one measure, [`report`] shows all of them, and [`outputs`] are the
//! files that get them.
//!
//! Exit codes are those of the lab (`docs/exit-codes.md`): 1 for a regression, 2 for a mistake in
//! the arguments or the settings, 3 if it cannot be done here, 4 if there is not enough evidence,
//! 130 if it was interrupted.

mod caller;
mod callgrind;
mod deadline;
mod failure;
mod finding;
mod full;
mod git;
mod names;
mod outputs;
mod programs;
mod quick;
mod report;
mod revision;
mod scheduling;
mod settings;
mod statistics;
mod supervisor;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use benches::options::Role;
use benches::roles;
use clap::Parser;
use proxy::world::{SystemWall, Wall};
use proxy::{errln, out, output};
use rand::SeedableRng;
use rand::rngs::StdRng;

use caller::Caller;
use deadline::Deadline;
use failure::{CANNOT_RUN, Failure, printable};
use outputs::Outputs;
use programs::{Builder, Optimisation, kernels_in_sources, key};
use report::{Comparison, Named};
use revision::{Repository, Revision, SETTINGS};
use settings::Settings;

/// Names the base for a CI that knows what was pushed.
const BASE: &str = "REGRESSION_BASE";

/// Compares what two revisions of the sidecar cost. Takes root, valgrind and a clone of the
/// project.
#[derive(Debug, Parser)]
#[command(
    name = "regression",
    after_help = "Exit codes:\n  0    nothing costs too much\n  1    a regression\n  2    the arguments, \
                  ci/regression.toml or a revision are wrong\n  3    this machine cannot do it\n  4    not \
                  enough evidence\n  130  it was interrupted"
)]
struct Options {
    /// What it was. Default: REGRESSION_BASE; without it, where the branch left main; on main
    /// itself, main half a day before.
    base: Option<String>,
    /// What it is. Default: what is checked out, with changes that are not committed.
    head: Option<String>,
    /// Measure time too, in paired blocks: takes half an hour, and a machine without other work.
    #[arg(long)]
    full: bool,
    /// Only these measures; `*` stands for any part of a segment.
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    measures: Vec<String>,
    /// Leave out what is counted, and only measure time (with --full).
    #[arg(long, requires = "full")]
    no_counts: bool,
    /// Build both and compare nothing: the next comparison of the two finds them built.
    #[arg(long, conflicts_with_all = ["json", "markdown", "html"])]
    only_build: bool,
    /// Compare even if the sidecars of both are the same program.
    #[arg(long)]
    even_if_the_same: bool,
    /// Begin nothing new after so many minutes, and judge what there is by then. What there was no
    /// time for is named. Default: no bound.
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..))]
    within: Option<u32>,
    /// Show every measure, also if nothing has changed.
    #[arg(long)]
    all: bool,
    /// What chance begins with; a seed of the clock's if it is left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Write everything to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a comment for a pull request to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the trend over all comparisons of the history to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where comparisons are kept. Default: target/regression/history.
    #[arg(long, value_name = "FOLDER")]
    history: Option<PathBuf>,
    /// The clone. Default: the one that this program was built in.
    #[arg(long, value_name = "FOLDER", default_value = root(), hide = true)]
    clone: PathBuf,
}

/// This program when it starts itself again. A role is no subcommand of [`Options`], in which
/// anything may be the name of a revision.
#[derive(Debug, Parser)]
struct Part {
    #[command(subcommand)]
    role: Role,
}

fn root() -> &'static str {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.and_then(Path::to_str).expect("a member lies in the workspace")
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word.starts_with("__")) {
        return match roles::play(&Part::parse().role) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                errln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let options: Options = match output::arguments() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let done = match supervisor::has_one() {
        Ok(true) => compare(&options),
        Ok(false) => supervisor::supervise(Caller::of(&options.clone).as_ref()).map_err(Failure::from),
        Err(error) => Err(error.into()),
    };
    ExitCode::from(done.unwrap_or_else(|failure| {
        tell(&failure.words);
        failure.code
    }))
}

/// Standard output has the verdict, and standard error everything else.
fn tell(what: &str) {
    errln!("{}", printable(what));
}

fn compare(options: &Options) -> Result<u8, Failure> {
    let deadline = Deadline::within(options.within)?;
    names::check(&options.measures, options.full, !options.no_counts)?;
    let repository = Repository::open(&options.clone)?;
    let outputs = Outputs {
        json: options.json.as_deref(),
        markdown: options.markdown.as_deref(),
        html: options.html.as_deref(),
        history: options.history.clone().unwrap_or_else(|| repository.work().join("history")),
        caller: repository.caller().cloned(),
    };
    outputs.check()?;
    let head = match &options.head {
        Some(name) => repository.revision(name)?,
        None => repository.head()?,
    };
    let now = SystemWall.now().duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    let base = base(options, &repository, &head)?;
    let (named, why) = base.clone().unwrap_or_else(|| (head.clone(), None));
    let mut comparison = Comparison {
        form: if options.full { "full" } else { "quick" }.into(),
        at: now.as_secs(),
        base: Named {
            id: named.id,
            title: why.map_or(named.title.clone(), |why| format!("{} ({why})", named.title)),
        },
        head: Named { id: head.id.clone(), title: head.title.clone() },
        findings: Vec::new(),
        left_out: Vec::new(),
        no_time_for: Vec::new(),
    };
    match base {
        None => comparison.left_out.push("anything, since there is nothing before the head".into()),
        Some((base, _)) => {
            let settings = settings_for(&repository, &base, &head)?;
            let wanted = names::of_form(options.full, !options.no_counts);
            settings.cover(wanted.iter().filter(|measure| options.wants(measure)))?;
            let key = |revision: &Revision| key(&repository, options.optimisation(), revision, &head);
            let same = key(&base)? == key(&head)?;
            if same && !options.even_if_the_same {
                comparison.left_out.push("anything, since the sidecars of both are the same program".into());
            } else {
                let mut rng = StdRng::seed_from_u64(options.seed.unwrap_or(now.as_nanos() as u64));
                let work = Work { options, repository: &repository, settings: &settings, deadline };
                work.measure(&base, &head, &mut rng, &mut comparison)?;
            }
        }
    }
    if options.only_build {
        return Ok(0);
    }
    comparison.sort();
    Ok(show(options, &outputs, &comparison))
}

impl Options {
    fn optimisation(&self) -> Optimisation {
        if self.full { Optimisation::Released } else { Optimisation::Counted }
    }

    fn wants(&self, measure: &str) -> bool {
        self.measures.is_empty() || self.measures.iter().any(|pattern| lab::glob::glob(pattern, measure))
    }
}

/// The base, and why it is this one if nobody named it; `None` if there is nothing before `head`.
fn base(
    options: &Options,
    repository: &Repository,
    head: &Revision,
) -> Result<Option<(Revision, Option<&'static str>)>, Failure> {
    // A push that makes a branch has zeros in place of what was there before.
    let of_ci = std::env::var(BASE).ok().filter(|name| name.chars().any(|c| c != '0'));
    let named = match (&options.base, of_ci) {
        (Some(name), _) => repository.named_base(name, head)?,
        (None, Some(name)) => repository
            .named_base(&name, head)
            .map_err(|failure| Failure { words: format!("{BASE}: {}", failure.words), ..failure })?,
        (None, None) => return Ok(repository.base_of(head)?.map(|(base, why)| (base, Some(why)))),
    };
    if let (base, Some(why)) = &named {
        tell(&format!("the base that was named is from before the gate; it is {}, {why}", base.short()));
    }
    Ok(Some(named))
}

/// What a comparison is made with.
struct Work<'a> {
    options: &'a Options,
    repository: &'a Repository,
    settings: &'a Settings,
    deadline: Deadline,
}

impl Work<'_> {
    /// Builds both and, if that is not all, fills in the findings.
    fn measure(
        &self,
        base: &Revision,
        head: &Revision,
        rng: &mut StdRng,
        comparison: &mut Comparison,
    ) -> Result<(), Failure> {
        let Work { options, repository, settings, deadline } = *self;
        if !nix::unistd::geteuid().is_root() {
            return Err(Failure::cannot(
                "whole sidecars run in network namespaces, which takes root: try sudo",
            ));
        }
        if !options.no_counts {
            git::run(Command::new("valgrind").arg("--version"))?;
        }
        let in_sources = kernels_in_sources(repository, head);
        if !in_sources.is_empty() {
            kernels_are_known(options, &quick::measures_of_kernels(&in_sources))?;
        }
        let builder = Builder::lock(repository, options.optimisation(), tell)?;
        // The head first: if its kernels cannot be built with the base, that is because of the
        // base.
        let head_programs = builder.build(head, head, tell)?;
        let base_programs = builder.build(base, head, tell)?;
        if let (Some(base), Some(head)) = (&base_programs.kernels, &head_programs.kernels) {
            kernels_are_known(options, &quick::names_of_kernels(base, head)?)?;
        }
        if options.only_build {
            return Ok(());
        }
        if base_programs.kernels.is_none() || head_programs.kernels.is_none() {
            comparison.left_out.push("kernels, which cannot be built for both".into());
        }
        let compared = quick::Comparison {
            base: &base_programs,
            head: &head_programs,
            gate: &std::env::current_exe()?,
            settings,
            deadline,
            tell: &tell,
        };
        let wanted = |measure: &str| options.wants(measure);
        if !options.no_counts {
            quick::run(&compared, wanted, comparison)?;
        }
        if options.full {
            roles::here(full::run(&compared, rng, wanted, comparison))?;
        }
        if comparison.findings.is_empty() && comparison.no_time_for.is_empty() {
            return Err(Failure::cannot("nothing could be compared: there are no kernels of both"));
        }
        Ok(())
    }
}

/// Checks patterns that only measures of kernels can have. `known` are all of these.
fn kernels_are_known(options: &Options, known: &[String]) -> Result<(), Failure> {
    let describes = |pattern: &str| known.iter().any(|measure| lab::glob::glob(pattern, measure));
    let unknown: Vec<String> = options
        .measures
        .iter()
        .filter(|pattern| names::is_of_kernels_only(pattern) && !describes(pattern))
        .map(|pattern| format!("no measure is called `{pattern}`: there is no such kernel"))
        .collect();
    if unknown.is_empty() { Ok(()) } else { Err(Failure::invalid(unknown.join("\n"))) }
}

/// The thresholds of the head, and what it accepts that the base did not.
fn settings_for(repository: &Repository, base: &Revision, head: &Revision) -> Result<Settings, Failure> {
    // A head from before there was a gate is judged by the file that is here.
    let (text, of) = match repository.file(head, SETTINGS) {
        Some(text) => (text, head.called()),
        None => (repository.settings()?, "the working tree"),
    };
    let settings =
        Settings::parse(&text).map_err(|e| Failure::invalid(format!("{SETTINGS} of {of} is wrong:\n{e}")))?;
    // One that cannot be read any more accepts nothing that still matters.
    let accepted = repository.file(base, SETTINGS).and_then(|text| Settings::parse(&text).ok());
    Ok(match accepted {
        Some(accepted) => {
            if !settings.has_thresholds_of(&accepted) {
                tell(&format!("{SETTINGS} has other thresholds than at the base: read that change too"));
            }
            settings.without(&accepted)
        }
        None => settings,
    })
}

/// Shows and writes the comparison. What cannot be written is told, and decides the exit code only
/// if it hides no regression.
fn show(options: &Options, outputs: &Outputs<'_>, comparison: &Comparison) -> u8 {
    out!("{}", report::terminal::text(comparison, options.all));
    let failures = outputs.write(comparison, tell).err().unwrap_or_default();
    for failure in &failures {
        tell(failure);
    }
    match comparison.exit_code() {
        regression @ 1 => regression,
        _ if !failures.is_empty() || output::has_failed() => CANNOT_RUN,
        code => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_cannot_be_written_hides_no_regression() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("no/such/folder");
        let options = Options::parse_from(["regression"]);
        let history = folder.path().join("history");
        let outputs = Outputs { json: Some(&nowhere), markdown: None, html: None, history, caller: None };
        let regression = report::examples::comparison();
        assert_eq!(show(&options, &outputs, &regression), 1);
        let mut harmless = regression;
        harmless.findings.retain(|finding| !finding.is_alarm());
        assert_eq!(harmless.exit_code(), 4);
        assert_eq!(show(&options, &outputs, &harmless), CANNOT_RUN);
    }
}
