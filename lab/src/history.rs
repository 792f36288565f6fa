//! One history: a scenario, a seed, and everything that follows from the two in the simulator.
//!
//! The command line and the tests run the same histories by [`history`], so a seed that fails in a
//! test can be replayed by the command that [`replay`] prints. The seed decides everything that is
//! left to chance: the load's and the links' luck, the order in which hosts take turns, and when
//! exactly faults begin ([`vary`]). [`History::text`] is all of it; two runs of one seed must give
//! the same text, byte for byte.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tracing::Level;

use crate::events::{Event, EventLog};
use crate::plan::{Plan, SidecarKind};
use crate::report::results;
use crate::run::{self, Progress, Report, Seen, Silent, Verdict};
use crate::scenario::Scenario;
use crate::sim::{LogLine, Mesh, SimFailure, SimRun, SimWorld, Simulation, Trace, vary};

/// What is kept of a history beside its report and its events; both cost more than the simulation
/// itself, and without them the same things happen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep {
    /// Every packet and process.
    pub trace: bool,
    /// What processes say.
    pub log: bool,
}

/// What came of one seed.
#[derive(Debug)]
pub struct History {
    /// The report, or why the mesh did not come up.
    pub result: Result<Report, String>,
    /// The log of the run.
    pub events: Vec<Event>,
    /// Every packet and process, if it was asked for.
    pub trace: Trace,
    /// What processes said in a log of level `info`, if it was asked for: who, and a line.
    pub log: Vec<(String, String)>,
    /// Virtual time that passed.
    pub simulated: Duration,
}

impl History {
    /// Whether every expectation held.
    pub fn passed(&self) -> bool {
        matches!(&self.result, Ok(report) if report.verdict == Verdict::Passed)
    }

    /// Why it did not pass; empty if it did.
    pub fn reasons(&self) -> Vec<String> {
        match &self.result {
            Ok(report) => report.reasons.clone(),
            Err(error) => vec![format!("the mesh did not come up: {error}")],
        }
    }

    /// Everything that happened, a line each: the log of events, every packet and process, the
    /// report.
    pub fn text(&self) -> String {
        let json = |value: serde_json::Result<String>| value.expect("plain data can be written") + "\n";
        let mut text = String::new();
        for event in &self.events {
            text += &json(serde_json::to_string(event));
        }
        for line in self.trace.lines() {
            text += line;
            text.push('\n');
        }
        match &self.result {
            Ok(report) => text += &json(serde_json::to_string(&results::of(report))),
            Err(error) => text += &json(serde_json::to_string(error)),
        }
        text
    }
}

/// The plan of one history: every seed in it follows from `seed`, and faults begin at slightly
/// other times.
pub fn plan(scenario: &Scenario, kind: SidecarKind, seed: u64) -> Plan {
    vary(seeded(scenario, kind, seed), seed)
}

/// The same with faults when the scenario says.
pub(crate) fn seeded(scenario: &Scenario, kind: SidecarKind, seed: u64) -> Plan {
    let mut scenario = scenario.clone();
    scenario.seed = seed;
    scenario.plan(kind)
}

/// Runs one history.
///
/// # Errors
/// If the simulator cannot run the scenario, or the run did not come to its end.
pub fn history(scenario: &Scenario, kind: SidecarKind, seed: u64, keep: Keep) -> Result<History, SimFailure> {
    let plan = plan(scenario, kind, seed);
    let drive = {
        let plan = plan.clone();
        async move |world: Rc<SimWorld>| {
            let events = EventLog::new(world.time_of_day());
            let never = std::future::pending();
            let result = run::run(&plan, &*world, &events, Rc::new(Silent), never).await;
            (result.map_err(|e| e.to_string()), events.events())
        }
    };
    let run = Simulation::new(&plan, seed, Mesh::default()).trace(keep.trace).log(keep.log).run(drive)?;
    let shown = |line: &LogLine| format!("{:>10.6} {:>5} {line}", line.at_us as f64 / 1e6, line.level);
    let said = run.log.iter().filter(|line| line.level <= Level::INFO);
    let log = said.map(|line| (line.process.to_string(), shown(line))).collect();
    let (result, events) = run.value;
    Ok(History { result, events, trace: run.trace, log, simulated: run.simulated })
}

/// Runs a simulation of `plan` and gives what was seen, for those who judge it otherwise than by
/// its expectations.
///
/// # Errors
/// As [`history`], and if the mesh did not come up.
pub(crate) fn observe(
    simulation: Simulation,
    plan: &Plan,
    progress: Rc<dyn Progress>,
) -> Result<SimRun<Seen>, SimFailure> {
    let plan = plan.clone();
    let run = simulation.run(async move |world: Rc<SimWorld>| {
        let (events, never) = (EventLog::new(world.time_of_day()), std::future::pending());
        run::observe(&plan, &*world, &events, progress, never, None).await
    })?;
    let value = run.value.map_err(|error| SimFailure::Engine(error.to_string()))?;
    Ok(SimRun { value, trace: run.trace, log: run.log, crossings: run.crossings, simulated: run.simulated })
}

/// The command that runs one history again. `kind` is the kind of sidecar instead of what the file
/// says.
pub fn replay(scenario: &Path, kind: Option<SidecarKind>, seed: u64) -> String {
    let sidecar = kind.map(|kind| format!(" --sidecar {}", kind.name())).unwrap_or_default();
    format!("lab sim {} --from {seed}{sidecar}", scenario.display())
}
