//! `lab SCENARIO`, `lab doctor`, `lab clean`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};

use super::{FAILED, INCONCLUSIVE, INTERRUPTED, Link, MACHINE, PASSED, Run, live};
use crate::events::EventLog;
use crate::kernel::{self, Backend, KernelWorld, Options, doctor as check};
use crate::plan::{Plan, SidecarKind};
use crate::report::terminal::{self, Style};
use crate::report::{self, compare};
use crate::run::{self, Report, Verdict};
use crate::world::Error;

/// Runs a scenario once for each kind of sidecar asked for.
pub(super) fn run(args: Run) -> ExitCode {
    let scenario = match super::read(&args.scenario) {
        Ok(scenario) => scenario,
        Err(code) => return code,
    };
    if args.setup
        && let Err(code) = setup()
    {
        return code;
    }
    for left in kernel::sweep() {
        println!("removed what an earlier run left behind: {left}");
    }
    let kinds: Vec<SidecarKind> = match args.sidecar.is_empty() {
        true => scenario.sidecars(),
        false => args.sidecar.iter().map(|stand| (*stand).into()).collect(),
    };
    let mut worst = PASSED;
    let mut measured = Vec::new();
    for kind in kinds {
        let plan = scenario.plan(kind);
        match one(&args, plan) {
            Ok(report) => {
                worst = worst.max(code(report.verdict));
                let interrupted = report.verdict == Verdict::Interrupted;
                measured.push((kind, compare::latencies(&report)));
                if interrupted {
                    break;
                }
            }
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(match error {
                    Error::Machine(_) => MACHINE,
                    Error::Failed(_) => FAILED,
                    Error::Interrupted => INTERRUPTED,
                });
            }
        }
    }
    cost(&args, &measured);
    ExitCode::from(worst)
}

fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Passed => PASSED,
        Verdict::Failed => FAILED,
        Verdict::Inconclusive => INCONCLUSIVE,
        Verdict::Interrupted => INTERRUPTED,
    }
}

/// Prints what the sidecars cost: from this invocation if it ran both ways, else against the newest earlier run.
fn cost(args: &Run, measured: &[(SidecarKind, compare::Latencies)]) {
    let of = |kind| measured.iter().find(|(k, _)| *k == kind).map(|(_, latencies)| latencies);
    match (of(SidecarKind::Ours), of(SidecarKind::None)) {
        (Some(with), Some(without)) => println!("\n{}", compare::table(with, without)),
        (None, Some(without)) => {
            let text = std::fs::read_to_string(&args.scenario).unwrap_or_default();
            match compare::earlier(&args.out, &text, "ours") {
                Some((dir, with)) => {
                    println!("\n{}  with: {}", compare::table(&with, without), dir.display());
                }
                None => println!("\nrun it with sidecars too to see what they cost: --sidecar ours,none"),
            }
        }
        _ => {}
    }
}

/// One run of one plan, from its directory to its report.
fn one(args: &Run, plan: Plan) -> Result<Report, Error> {
    let run_id = run_id(&args.scenario);
    let run_dir = args.out.join(&run_id);
    prepare(&run_dir, &args.scenario, &plan)
        .map_err(|e| Error::Machine(format!("cannot make the run directory {}: {e}", run_dir.display())))?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(|e| Error::Machine(format!("cannot start a runtime: {e}")))?;
    let report = runtime.block_on(async {
        let file = File::create(run_dir.join("events.jsonl"))
            .map_err(|e| Error::Machine(format!("cannot write the log of events: {e}")))?;
        let events = EventLog::new(Some(file));
        let exe = std::env::current_exe()
            .map_err(|e| Error::Machine(format!("cannot find the lab's own executable: {e}")))?;
        let options = Options {
            run_id,
            run_dir: run_dir.clone(),
            backend: backend(args.link),
            exe,
            events: events.clone(),
        };
        let world = KernelWorld::new(plan.clone(), options)?;
        let progress = Rc::new(live::Line::new());
        run::run(&plan, &world, &events, progress, interrupted()?).await
    });
    match &report {
        Ok(report) => {
            let style = if io::stdout().is_terminal() { Style::Colour } else { Style::Plain };
            print!("{}", terminal::render(report, style));
            println!("  {}", run_dir.display());
            if let Err(error) = report::save(report, &run_dir) {
                eprintln!("the report could not be saved: {error}");
            }
        }
        Err(_) => println!("  logs and events: {}", run_dir.display()),
    }
    give_to_caller(&run_dir);
    report
}

fn backend(link: Link) -> Option<Backend> {
    match link {
        Link::Auto => None,
        Link::Bridge => Some(Backend::Bridge),
        Link::Netem => Some(Backend::Netem),
        Link::Wire => Some(Backend::Wire),
    }
}

/// `failover-3fa9c1`
fn run_id(scenario: &Path) -> String {
    let stem = scenario.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let stem: String = stem.chars().map(safe).take(40).collect();
    let random = proxy::world::RngTree::from_os().seed();
    format!("{stem}-{:06x}", random & 0xff_ffff)
}

fn prepare(run_dir: &Path, scenario: &Path, plan: &Plan) -> io::Result<()> {
    std::fs::create_dir_all(run_dir)?;
    std::fs::copy(scenario, run_dir.join("scenario.toml"))?;
    std::fs::write(run_dir.join("plan.json"), serde_json::to_string_pretty(plan)?)
}

/// Under sudo the run directory belongs to whoever called sudo.
fn give_to_caller(run_dir: &Path) {
    let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) else { return };
    let mut todo: Vec<PathBuf> = vec![run_dir.to_owned()];
    todo.extend(
        run_dir.parent().map(Path::to_owned).filter(|p| !p.as_os_str().is_empty()).map(|p| p.join(".")),
    );
    while let Some(path) = todo.pop() {
        // Not being able to is no reason to fail a run that has ended.
        let _ = std::os::unix::fs::lchown(&path, Some(uid), Some(gid));
        if path.starts_with(run_dir) && path.is_dir() {
            todo.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
}

/// Ends when the user asks to stop; the second time the process ends at once.
fn interrupted() -> Result<impl Future<Output = ()>, Error> {
    let failed = |e| Error::Machine(format!("cannot listen for signals: {e}"));
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        let mut either = async move || {
            tokio::select! {
                biased;
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        };
        either().await;
        eprintln!("\nstopping; once more to stop at once");
        proxy::world::Net::spawn(&proxy::world::KernelNet::default(), "second signal", async move {
            either().await;
            std::process::exit(i32::from(INTERRUPTED));
        });
    })
}

/// Installs what is missing.
fn setup() -> Result<(), ExitCode> {
    match check::setup() {
        Ok(done) => {
            for line in done {
                println!("{line}");
            }
            Ok(())
        }
        Err(error) => {
            eprintln!("{error}");
            Err(ExitCode::from(MACHINE))
        }
    }
}

/// Prints what this machine has and lacks.
pub(super) fn doctor(install: bool) -> ExitCode {
    if install && let Err(code) = setup() {
        return code;
    }
    print!("{}", check::table(&check::doctor()));
    match check::require() {
        Ok(()) => ExitCode::from(PASSED),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(MACHINE)
        }
    }
}

/// Removes what killed runs left behind.
pub(super) fn clean() -> ExitCode {
    let removed = kernel::sweep();
    for what in &removed {
        println!("{what}");
    }
    if removed.is_empty() {
        println!("nothing to remove");
    }
    ExitCode::from(PASSED)
}
