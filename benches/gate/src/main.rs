//! Compares what two revisions of the sidecar cost, and says whether that is too much.
//!
//! `docs/performance.md` is for people who use it. Read it in the order of a run: [`revision`]
//! finds out what to compare and builds it; [`quick`] counts, under [`callgrind`]; [`full`]
//! measures, in paired blocks; [`statistics`] turns blocks into intervals and verdicts, and
//! [`settings`] says what is too much; [`finding`] is the result of one measure, and [`report`]
//! shows all of them.
//!
//! Exit codes are those of the lab (`docs/exit-codes.md`): 1 for a regression, 2 for a mistake in
//! the arguments or the settings, 3 if it cannot be done here, 4 if there is not enough evidence.

mod callgrind;
mod finding;
mod full;
mod quick;
mod report;
mod revision;
mod settings;
mod statistics;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use benches::options::Role;
use benches::roles;
use clap::Parser;
use proxy::world::{SystemWall, Wall};
use rand::SeedableRng;
use rand::rngs::StdRng;

use report::{Comparison, Named};
use revision::{Repository, Revision, SETTINGS};
use settings::Settings;

const INVALID: u8 = 2;
const CANNOT_RUN: u8 = 3;

/// Compares what two revisions of the sidecar cost. Takes root, valgrind and a clone of the
/// project.
#[derive(Debug, Parser)]
#[command(
    name = "regression",
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes:\n  0  nothing costs too much\n  1  a regression\n  2  the arguments or ci/regression.toml are \
                  wrong\n  3  this machine cannot do it\n  4  not enough evidence"
)]
struct Options {
    /// What it was. Default: where the branch left main; on main itself, main half a day before.
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
    #[command(subcommand)]
    role: Option<Role>,
}

/// Why there is no verdict.
struct Failure(u8, io::Error);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure(CANNOT_RUN, error)
    }
}

fn invalid(error: io::Error) -> Failure {
    Failure(INVALID, error)
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(role) = &options.role {
        return match roles::play(role) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    match compare(&options) {
        Ok(code) => ExitCode::from(code),
        Err(Failure(code, error)) => {
            eprintln!("{error}");
            ExitCode::from(code)
        }
    }
}

fn compare(options: &Options) -> Result<u8, Failure> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a member lies in the workspace");
    let repository = Repository::open(root)?;
    let head = match &options.head {
        Some(name) => repository.revision(name).map_err(invalid)?,
        None => repository.head()?,
    };
    let (base, why) = match &options.base {
        Some(name) => (repository.revision(name).map_err(invalid)?, None),
        None => match repository.base_of(&head)? {
            Some((base, why)) => (base, Some(why)),
            None => {
                println!("there is nothing before {} to compare it with", head.short());
                return Ok(0);
            }
        },
    };
    let settings = settings_for(&repository, &base, &head)?;
    let tell = |what: &str| eprintln!("{what}");
    let base_programs = repository.build(&base, &head, tell)?;
    let head_programs = repository.build(&head, &head, tell)?;
    if why.is_some() && base_programs.key == head_programs.key {
        println!("base  {}  {}\nhead  {}  {}", base.short(), base.title, head.short(), head.title);
        println!("\nPASSED: the sidecars of both are the same program, so there is nothing to compare");
        return Ok(0);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(
            io::Error::other("whole sidecars run in network namespaces, which takes root: try sudo").into()
        );
    }
    let gate = std::env::current_exe()?;
    let compared = quick::Comparison {
        base: &base_programs,
        head: &head_programs,
        gate: &gate,
        settings: &settings,
        tell: &tell,
    };
    let wanted = |measure: &str| {
        options.measures.is_empty()
            || options.measures.iter().any(|pattern| lab::glob::glob(pattern, measure))
    };
    let now = SystemWall.now().duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    let mut rng = StdRng::seed_from_u64(options.seed.unwrap_or(now.as_nanos() as u64));
    let findings = roles::here(async {
        let mut findings = Vec::new();
        if !options.no_counts {
            findings.extend(quick::run(&compared, wanted).await?);
        }
        if options.full {
            findings.extend(full::run(&compared, &mut rng, wanted).await?);
        }
        Ok(findings)
    })?;
    if findings.is_empty() && !options.measures.is_empty() {
        return Err(invalid(io::Error::other(format!(
            "no measure is called {}",
            options.measures.join(" or ")
        ))));
    }
    let kernels = base_programs.kernels.is_some() && head_programs.kernels.is_some();
    let left_out = (!kernels).then(|| "kernels, which cannot be built for both".to_owned());
    let named = |revision: Revision| Named { id: revision.id, title: revision.title };
    let base = Named {
        title: why.map_or(base.title.clone(), |why| format!("{} ({why})", base.title)),
        ..named(base)
    };
    let mut comparison = Comparison {
        form: if options.full { "full" } else { "quick" }.into(),
        at: now.as_secs(),
        base,
        head: named(head),
        findings,
        left_out: left_out.into_iter().collect(),
    };
    comparison.sort();
    write(options, &comparison, &repository)?;
    Ok(comparison.exit_code())
}

/// The thresholds of the head, and what it accepts that the base did not.
fn settings_for(repository: &Repository, base: &Revision, head: &Revision) -> Result<Settings, Failure> {
    let parse = |text: &str, of: &Revision| {
        Settings::parse(text)
            .map_err(|e| invalid(io::Error::other(format!("{SETTINGS} of {}: {e}", of.short()))))
    };
    // A head from before there was a gate is judged by the file that is here.
    let text = match repository.file(head, SETTINGS) {
        Some(text) => text,
        None => repository.settings()?,
    };
    let settings = parse(&text, head)?;
    // One that cannot be read any more accepts nothing that still matters.
    let accepted = repository.file(base, SETTINGS).and_then(|text| Settings::parse(&text).ok());
    Ok(match accepted {
        Some(accepted) => settings.without(&accepted),
        None => settings,
    })
}

fn write(options: &Options, comparison: &Comparison, repository: &Repository) -> Result<(), Failure> {
    println!("{}", report::terminal::text(comparison, options.all));
    let history = options.history.clone().unwrap_or_else(|| repository.work().join("history"));
    comparison.keep(&history)?;
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(comparison).map_err(io::Error::other)?)?;
    }
    if let Some(path) = &options.markdown {
        fs::write(path, report::markdown::text(comparison))?;
    }
    if let Some(path) = &options.html {
        fs::write(path, report::html::page(&Comparison::kept(&history)?))?;
    }
    Ok(())
}
