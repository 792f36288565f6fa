//! Ten thousand different bad days: random histories of a small mesh, each judged by the same laws.
//!
//! A [`Schedule`] is drawn from a seed and becomes a scenario; [`day`] runs it in the simulator and reads the log into
//! [`Facts`]; [`law`] holds what must be true of every day; [`situation`] tells what a sweep has seen at all, because a law
//! that nothing tests is no law. When a day breaks one, [`shrink()`] looks for the smallest day that does too.
//!
//! Left out: what only the kernel can show (CPU, memory, real packets).

use std::rc::Rc;
use std::time::Duration;

use rand::RngExt;

use proxy::mutant;
use proxy::world::RngTree;

use crate::history;
use crate::load::Record;
use crate::plan::SidecarKind;
use crate::run::Progress;
use crate::scenario::{self, Scenario};
use crate::sim::{Chaos, Mesh, SimFailure, Simulation, note, scatter};

mod calm;
mod endpoints;
pub mod facts;
pub mod fault;
mod knobs;
pub mod law;
mod lines;
pub mod schedule;
pub mod shrink;
pub mod situation;
pub mod timeline;

pub use facts::Facts;
pub use law::{Breach, Violation};
pub use schedule::{Drawn, Schedule};
pub use shrink::{Shrunk, shrink};

/// A day that came to its end, whatever it was like.
pub struct Day {
    /// What happened.
    pub facts: Facts,
    /// What is against it.
    pub violations: Vec<Violation>,
    /// Virtual time that passed.
    pub simulated: Duration,
}

/// How a day is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A mistake to plant: see [`proxy::mutant`].
    pub mutant: Option<&'static str>,
}

/// Runs the day that a scenario tells of.
///
/// # Errors
/// If the simulator cannot run it, or it did not come to its end; a panic is one of the reasons.
pub fn day(scenario: &Scenario, seed: u64, options: Options) -> Result<Day, SimFailure> {
    let plan = scatter(history::seeded(scenario, SidecarKind::Ours, seed), seed);
    let (tick, chaos) = (tick(seed), chaos(seed, plan.duration));
    mutant::plant(options.mutant);
    let simulation = Simulation::new(&plan, seed, Mesh::default()).tick(tick).chaos(chaos).log(true);
    let run = history::observe(simulation, &plan, Rc::new(Notes));
    mutant::plant(None);
    let run = run?;
    let facts = Facts::new(plan, run.log, run.value, tick, chaos);
    let violations = law::judge(&facts);
    Ok(Day { facts, violations, simulated: run.simulated })
}

/// Runs the day of a schedule.
///
/// # Errors
/// As [`day`].
///
/// # Panics
/// If the schedule is no scenario, which would be a mistake of its generator.
pub fn scheduled(schedule: &Schedule, options: Options) -> Result<Day, SimFailure> {
    let text = schedule.scenario();
    let scenario = scenario::parse("a bad day", &text)
        .unwrap_or_else(|errors| panic!("{:?}\n{text}", miette::Report::new(errors)));
    day(&scenario, schedule.seed, options)
}

/// The step of time in the history of a seed. Small ones tell more apart, large ones bring more together and cost less.
fn tick(seed: u64) -> Duration {
    let steps = [5, 5, 10, 10, 10, 10, 5, 5, 10, 10, 10, 10, 5, 5, 10, 10, 10, 10, 10, 2];
    let mut rng = RngTree::new(seed).child("tick", 0).rng();
    Duration::from_millis(steps[rng.random_range(0..steps.len())])
}

/// How streams behave in the history of a seed, for the first half of it: in one of three a few bytes move at a time, and in
/// one of four some are torn apart.
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
        note(what.to_owned());
    }

    fn request(&self, _: usize, _: &Record) {}

    fn tick(&self, _: Duration, _: Duration) {}

    fn fault(&self, name: &str, in_force: bool) {
        note(format!("{name} {}", if in_force { "strikes" } else { "is over" }));
    }
}
