//! Shrinks a run that violates an invariant, by proptest's search over the tree that the run was
//! drawn from.
//!
//! Every random choice in a run is keyed by an entity and not by a position in a stream. What is
//! left when a fault is removed therefore happens as before, and the search is not misled.

use super::{Drawn, InvariantViolation, Schedule, SwarmOptions, SwarmRun, run_schedule};

/// The most runs that a search may take; a usual one takes a few dozen.
const RUNS: u32 = 400;

/// The smallest run found, and what it violates.
pub struct Shrunk {
    /// The schedule of the run.
    pub schedule: Schedule,
    /// The run; `None` if it did not come to its end.
    pub run: Option<SwarmRun>,
    /// The first violation, or why the run did not end.
    pub complaint: String,
    /// How many runs were tried.
    pub runs: u32,
}

/// What is wrong with a run: the first invariant that it violates, or that it did not end.
fn wrong(schedule: &Schedule, options: SwarmOptions) -> Option<(&'static str, String, Option<SwarmRun>)> {
    match run_schedule(schedule, options) {
        Ok(run) => {
            let InvariantViolation { invariant, .. } = run.violations.first()?;
            let complaint = run.violations[0].to_string();
            Some((invariant, complaint, Some(run)))
        }
        Err(failure) => Some(("end", failure.to_string(), None)),
    }
}

/// Makes a run as small as possible while it violates the same invariant. `None` if it violates
/// none.
pub fn shrink(mut drawn: Drawn, options: SwarmOptions) -> Option<Shrunk> {
    let schedule = drawn.schedule();
    let (invariant, complaint, run) = wrong(&schedule, options)?;
    let mut best = Shrunk { schedule, run, complaint, runs: 0 };
    let mut more = drawn.simplify();
    while more && best.runs < RUNS {
        let schedule = drawn.schedule();
        best.runs += 1;
        match wrong(&schedule, options) {
            Some((same, complaint, run)) if same == invariant => {
                best = Shrunk { schedule, run, complaint, runs: best.runs };
                more = drawn.simplify();
            }
            _ => more = drawn.complicate(),
        }
    }
    Some(best)
}
