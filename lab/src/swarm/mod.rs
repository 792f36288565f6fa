//! Swarm testing: random histories of a small mesh, all judged by the same invariants.
//!
//! A [`Schedule`] is drawn from a seed and becomes a scenario. [`run_scenario`] runs it in the
//! simulator and reads the log into [`Facts`]. `invariant` holds what must be true of every run.
//! [`coverage`] tells which rare states a sweep has reached, because an invariant that is never
//! exercised proves nothing. When a run violates an invariant, [`shrink()`] looks for the smallest
//! run that violates the same one.
//!
//! Left out: what only the kernel can show (CPU, memory, real packets).

use std::rc::Rc;
use std::time::Duration;

use rand::RngExt;

use proxy::mutant::{self, Mutant};
use proxy::world::RngTree;

use crate::history;
use crate::load::Record;
use crate::plan::SidecarKind;
use crate::run::Progress;
use crate::scenario::{self, Scenario};
use crate::sim::{Chaos, Mesh, SimFailure, Simulation, note, scatter};

mod calm;
pub mod coverage;
mod endpoints;
pub mod facts;
pub(crate) mod fault;
mod identity;
pub(crate) mod invariant;
mod knobs;
mod lines;
pub(crate) mod schedule;
pub(crate) mod shrink;
pub(crate) mod timeline;

pub use facts::Facts;
pub use invariant::{InvariantViolation, Violation};
pub use lines::Note;
pub use schedule::{Drawn, Schedule};
pub use shrink::{Shrunk, shrink};

/// A run that came to its end, whether or not it violated an invariant.
pub struct SwarmRun {
    /// What happened.
    pub facts: Facts,
    /// The invariants that it violated.
    pub violations: Vec<InvariantViolation>,
    /// Virtual time that passed.
    pub simulated: Duration,
}

/// Options of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct SwarmOptions {
    /// A mutant to activate: see [`proxy::mutant`].
    pub mutant: Option<Mutant>,
}

/// Runs a scenario once.
///
/// # Errors
/// If the simulator cannot run it, or the run did not come to its end, for example because of a
/// panic.
pub fn run_scenario(scenario: &Scenario, seed: u64, options: SwarmOptions) -> Result<SwarmRun, SimFailure> {
    let plan = scatter(history::seeded(scenario, SidecarKind::Ours, seed), seed);
    let (tick, chaos) = (tick(seed), chaos(seed, plan.duration));
    mutant::plant(options.mutant);
    let simulation = Simulation::new(&plan, seed, Mesh::default()).tick(tick).chaos(chaos).log(true);
    let run = history::observe(simulation, &plan, Rc::new(Notes));
    mutant::plant(None);
    let run = run?;
    let facts = Facts { crossings: run.crossings, ..Facts::new(plan, run.log, run.value, tick, chaos) };
    let violations = invariant::judge(&facts);
    Ok(SwarmRun { facts, violations, simulated: run.simulated })
}

/// Runs a schedule once.
///
/// # Errors
/// As [`run_scenario`].
///
/// # Panics
/// If the schedule is not a valid scenario, which would be a mistake of its generator.
pub fn run_schedule(schedule: &Schedule, options: SwarmOptions) -> Result<SwarmRun, SimFailure> {
    let text = schedule.scenario();
    let scenario = scenario::parse("a swarm run", &text)
        .unwrap_or_else(|errors| panic!("{:?}\n{text}", miette::Report::new(errors)));
    run_scenario(&scenario, schedule.seed, options)
}

/// The step of time in the history of a seed. Small ones tell more apart, large ones bring more
/// together and cost less.
fn tick(seed: u64) -> Duration {
    let steps = [5, 5, 10, 10, 10, 10, 5, 5, 10, 10, 10, 10, 5, 5, 10, 10, 10, 10, 10, 2];
    let mut rng = RngTree::new(seed).child("tick", 0).rng();
    Duration::from_millis(steps[rng.random_range(0..steps.len())])
}

/// How streams behave in the first half of the history of a seed. In one of three, a few bytes move
/// at a time; in one of four, some connections are reset.
fn chaos(seed: u64, duration: Duration) -> Chaos {
    let mut rng = RngTree::new(seed).child("streams", 0).rng();
    let most = if rng.random_range(0..3) == 0 { rng.random_range(40..2000) } else { 0 };
    let resets = if rng.random_bool(0.25) { rng.random_range(0.02..0.3) } else { 0.0 };
    Chaos { resets, within: 20_000, most, until: duration / 2 }
}

/// Writes into the log what the lab does.
struct Notes;

impl Progress for Notes {
    fn phase(&self, what: &str) {
        note(Note::Phase(what.to_owned()).to_string());
    }

    fn request(&self, _: usize, _: &Record) {}

    fn tick(&self, _: Duration, _: Duration) {}

    fn fault(&self, name: &str, in_force: bool) {
        let note_of = if in_force { Note::Applied } else { Note::Reverted };
        note(note_of(name.to_owned()).to_string());
    }
}
