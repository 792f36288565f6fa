//! `lab SCENARIO`, `lab doctor`, `lab clean`

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use proxy::world::{SystemWall, Wall};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::live::ProgressLine;
use super::{INTERRUPTED, INVALID, LinkChoice, MACHINE, PASSED, Run};
use crate::events::EventLog;
use crate::kernel::{self, Backend, KernelWorld, LOGS, Options, doctor as check};
use crate::plan::{Plan, SidecarKind};
use crate::report::page::{Log, Sources};
use crate::report::{self, Ran, compare, terminal};
use crate::run::{self, Report, Verdict};
use crate::scenario::Scenario;
use crate::world::Error;

/// File of a run directory that holds the log of events.
const EVENTS: &str = "events.jsonl";
/// Copy of the scenario in a run directory.
const SCENARIO: &str = "scenario.toml";

/// Runs every scenario, each once for each kind of sidecar asked for.
pub(super) fn run(args: &Run) -> ExitCode {
    // A mistake in the last file should not come to light after the first has run for a minute.
    let mut scenarios = Vec::new();
    for path in &args.scenarios {
        match super::read(path) {
            Ok(scenario) => scenarios.push((path.clone(), scenario)),
            Err(code) => return ExitCode::from(code),
        }
    }
    if args.setup
        && let Err(code) = setup()
    {
        return code;
    }
    if args.link == LinkChoice::Bridge
        && let Some((path, _)) = scenarios.iter().find(|(_, s)| s.plan(s.sidecars()[0]).needs_wire())
    {
        errln!(
            "{} impairs links, and a bridge cannot: leave --link out, or ask for netem or wire",
            path.display()
        );
        return ExitCode::from(INVALID);
    }
    // Before anything is written.
    if let Err(error) = check::require() {
        errln!("{error}");
        return ExitCode::from(MACHINE);
    }
    let swept = kernel::sweep();
    for what in &swept.removed {
        errln!("removed what an earlier run left behind: {what}");
    }
    for what in &swept.left {
        errln!("{what}");
    }
    let runs = RefCell::default();
    let ended = super::each(&args.scenarios, |path| {
        let (path, scenario) = scenarios.iter().find(|(p, _)| p == path).expect("every file was read");
        kinds(args, path, scenario, &runs)
    });
    match write_summaries(args, &runs.into_inner()) {
        true => ended,
        false => ExitCode::from(MACHINE),
    }
}

/// Writes what came of all runs for those who were asked for. Whether it could be written.
fn write_summaries(args: &Run, runs: &[Ran]) -> bool {
    let mut all_written = true;
    let summaries =
        [(&args.junit, report::junit::of as fn(&[Ran]) -> String), (&args.markdown, report::markdown::of)];
    for (path, text) in summaries {
        let Some(path) = path else { continue };
        if let Err(error) = std::fs::write(path, text(runs)) {
            errln!("cannot write {}: {error}", path.display());
            all_written = false;
        }
    }
    all_written
}

/// Runs one scenario once for each kind of sidecar asked for.
fn kinds(args: &Run, path: &Path, scenario: &Scenario, runs: &RefCell<Vec<Ran>>) -> u8 {
    let kinds: Vec<SidecarKind> = match args.sidecar.is_empty() {
        true => scenario.sidecars(),
        false => args.sidecar.clone(),
    };
    let mut worst = PASSED;
    let mut measured = Vec::new();
    for kind in kinds {
        match one(args, path, scenario.plan(kind)) {
            Ok((report, code)) => {
                worst = super::worst(worst, code);
                let interrupted = report.verdict == Verdict::Interrupted;
                measured.push((kind, compare::latencies(&report)));
                runs.borrow_mut().push(Ran { scenario: path.to_owned(), kind, result: Ok(report) });
                if interrupted {
                    break;
                }
            }
            Err(error) => {
                let result = Err(error.to_string());
                runs.borrow_mut().push(Ran { scenario: path.to_owned(), kind, result });
                let code = match error {
                    // Nothing was judged: the mesh did not come up.
                    Error::Machine(_) | Error::Failed(_) => MACHINE,
                    Error::Interrupted => INTERRUPTED,
                };
                return super::worst(worst, code);
            }
        }
    }
    cost(args, path, &measured);
    worst
}

/// Prints what the sidecars cost: from this invocation if it ran both ways, else against the newest
/// earlier run.
fn cost(args: &Run, scenario: &Path, measured: &[(SidecarKind, compare::LatencyTable)]) {
    let of = |kind| measured.iter().find(|(k, _)| *k == kind).map(|(_, latencies)| latencies);
    match (of(SidecarKind::Ours), of(SidecarKind::None)) {
        (Some(with), Some(without)) => {
            if let Some(table) = compare::table(with, without) {
                outln!("\n{table}");
            }
        }
        (None, Some(without)) => {
            let text = std::fs::read_to_string(scenario).unwrap_or_default();
            match compare::earlier(&args.out, &text, SidecarKind::Ours) {
                Some((dir, with)) => {
                    if let Some(table) = compare::table(&with, without) {
                        outln!("\n{table}  with sidecars: {}", dir.display());
                    }
                }
                None if without.is_empty() => {}
                None => outln!("\nrun it with sidecars too to see what they cost: --sidecar ours,none"),
            }
        }
        _ => {}
    }
}

/// One run of one plan, from its directory to its report, which is printed, as is an error. With
/// the report, its code.
fn one(args: &Run, scenario: &Path, plan: Plan) -> Result<(Report, u8), Error> {
    let run_id = run_id(scenario);
    let run_dir = args.out.join(&run_id);
    let result = prepare(&run_dir, scenario, &plan)
        .map_err(|e| Error::Machine(format!("cannot make the run directory {}: {e}", run_dir.display())))
        .and_then(|()| live(args, plan, run_id, &run_dir));
    let result = match result {
        Ok((report, events)) => {
            let logged = events.finish();
            let sources = Sources {
                scenario: &std::fs::read_to_string(run_dir.join(SCENARIO)).unwrap_or_default(),
                command: &again(args, scenario, report.plan.sidecar),
                events: &events.events(),
                logs: Log::read_all(&run_dir.join(LOGS)),
            };
            // Before anything is printed: whoever reads the output may be gone.
            let saved = report::save(&report, &sources, &run_dir);
            out!("{}", terminal::render(&report, super::style()));
            let what = if saved.is_ok() { "results, events and logs" } else { "events and logs" };
            outln!("  {what}: {}", run_dir.display());
            if saved.is_ok() {
                outln!("  to look at: {}", run_dir.join(report::PAGE).display());
            }
            let mut code = super::code(report.verdict);
            for (what, written) in [("results", saved), ("log of events", logged)] {
                if let Err(error) = written {
                    errln!("the {what} could not be written: {error}");
                    code = super::worst(code, MACHINE);
                }
            }
            Ok((report, code))
        }
        Err(error) => {
            errln!("{error}");
            if run_dir.join(EVENTS).exists() {
                errln!("events and logs: {}", run_dir.display());
            }
            Err(error)
        }
    };
    give_to_caller(&run_dir);
    result
}

/// The command that runs a scenario again.
fn again(args: &Run, scenario: &Path, kind: SidecarKind) -> String {
    let link = match args.link {
        LinkChoice::Auto => "",
        LinkChoice::Bridge => " --link bridge",
        LinkChoice::Netem => " --link netem",
        LinkChoice::Wire => " --link wire",
    };
    format!("sudo lab {}{link} --sidecar {}", scenario.display(), kind.name())
}

/// The run itself: its report and its log of events.
fn live(args: &Run, plan: Plan, run_id: String, run_dir: &Path) -> Result<(Report, EventLog), Error> {
    kernel::runtime()?.block_on(async {
        let events = EventLog::to(&run_dir.join(EVENTS), SystemWall.now())
            .map_err(|e| Error::Machine(format!("cannot write the log of events: {e}")))?;
        let exe = std::env::current_exe()
            .map_err(|e| Error::Machine(format!("cannot find the lab's own executable: {e}")))?;
        let options = Options {
            run_id,
            run_dir: run_dir.to_owned(),
            backend: backend(args.link),
            exe,
            events: events.clone(),
        };
        let world = KernelWorld::new(plan.clone(), options)?;
        let line = Rc::new(ProgressLine::new());
        let stop = interrupted(line.clone())?;
        let report = run::run(&plan, &world, &events, line, stop).await?;
        Ok((report, events))
    })
}

fn backend(link: LinkChoice) -> Option<Backend> {
    match link {
        LinkChoice::Auto => None,
        LinkChoice::Bridge => Some(Backend::Bridge),
        LinkChoice::Netem => Some(Backend::Netem),
        LinkChoice::Wire => Some(Backend::Wire),
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
    std::fs::copy(scenario, run_dir.join(SCENARIO))?;
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

/// Ends when the user asks to stop; the second time the process ends at once. Listens from the call
/// on until the process ends, also while the mesh is taken down.
fn interrupted(line: Rc<ProgressLine>) -> Result<impl Future<Output = ()>, Error> {
    let failed = |e| Error::Machine(format!("cannot listen for signals: {e}"));
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let (stop, stopped) = oneshot::channel();
    proxy::world::Net::spawn(&proxy::world::KernelNet::default(), "signals", async move {
        let mut either = async move || {
            tokio::select! {
                biased;
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        };
        either().await;
        line.say("stopping; once more to stop at once");
        // Nobody listens any more once the mesh is being taken down: then there is nothing left to
        // stop.
        let _ = stop.send(());
        either().await;
        line.end();
        line.say("stopped at once; what is left goes away with `lab clean` or the next run");
        std::process::exit(i32::from(INTERRUPTED));
    });
    Ok(async {
        // Only a runtime that is shutting down drops the sender, and then this is never looked at
        // again.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Installs what is missing.
fn setup() -> Result<(), ExitCode> {
    // apt-get may take minutes.
    errln!("looking for missing packages");
    match check::setup() {
        Ok(done) => {
            for line in done {
                outln!("{line}");
            }
            Ok(())
        }
        Err(error) => {
            errln!("{error}");
            Err(ExitCode::from(MACHINE))
        }
    }
}

/// Prints what this machine has and lacks.
pub(super) fn doctor(install: bool) -> ExitCode {
    if install && let Err(code) = setup() {
        return code;
    }
    out!("{}", check::table(&check::doctor()));
    match check::require() {
        Ok(()) => ExitCode::from(PASSED),
        Err(error) => {
            errln!("{error}");
            ExitCode::from(MACHINE)
        }
    }
}

/// Removes what killed runs left behind.
pub(super) fn clean() -> ExitCode {
    let swept = kernel::sweep();
    for what in &swept.removed {
        outln!("{what}");
    }
    for what in &swept.left {
        errln!("{what}");
    }
    if swept.said().next().is_none() {
        outln!("nothing to remove");
    }
    ExitCode::from(if swept.left.is_empty() { PASSED } else { MACHINE })
}
