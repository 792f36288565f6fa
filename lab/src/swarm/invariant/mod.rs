//! What must be true of every run: one invariant a file, each a pure function of the facts.
//!
//! Safety invariants hold at every moment. Liveness (`lively`) is checked only after the faults
//! have ended, except for permanent ones. A violation is described in words that a person can
//! follow on the timeline.

mod access;
mod attempts;
mod backoff;
mod balance;
mod blocking;
mod bodies;
mod budget;
mod deadline;
mod detection;
mod discovery;
mod drain;
mod ejection;
mod encrypted;
mod health;
mod identity;
mod latency;
mod leaks;
mod limits;
mod lively;
mod metrics;
mod once;
mod outcome;
mod picks;
mod pools;
mod refused;
mod revoked;
mod trips;

use std::fmt;

use super::facts::Facts;

/// A probability that is negligible even in ten thousand runs.
const NEVER: f64 = 1e-8;

/// How often in a row an event of this probability may plausibly happen; at least once.
fn longest_run(chance: f64) -> u32 {
    ((NEVER.ln() / chance.ln()).ceil() as u32).max(1)
}

/// A property that every run must have.
pub struct Invariant {
    /// Its name, as in messages and in the corpus.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub says: &'static str,
    /// Finds the violations.
    check: fn(&Facts, &mut Vec<Violation>),
}

/// One violation of an invariant.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// When, virtual microseconds.
    pub at: u64,
    /// What happened.
    pub what: String,
}

/// A violation together with its invariant.
#[derive(Debug, Clone, PartialEq)]
pub struct InvariantViolation {
    /// The name of the invariant.
    pub invariant: &'static str,
    /// What it says.
    pub says: &'static str,
    /// How it was violated.
    pub violation: Violation,
}

impl fmt::Display for InvariantViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.violation.at as f64 / 1e6;
        write!(f, "{}: {}; but at {at:.3} s {}", self.invariant, self.says, self.violation.what)
    }
}

/// All invariants.
pub const ALL: [Invariant; 27] = [
    detection::INVARIANT,
    outcome::INVARIANT,
    once::INVARIANT,
    attempts::INVARIANT,
    backoff::INVARIANT,
    budget::INVARIANT,
    bodies::INVARIANT,
    deadline::INVARIANT,
    blocking::INVARIANT,
    refused::INVARIANT,
    picks::INVARIANT,
    balance::INVARIANT,
    limits::INVARIANT,
    discovery::INVARIANT,
    ejection::INVARIANT,
    trips::INVARIANT,
    health::INVARIANT,
    latency::INVARIANT,
    drain::INVARIANT,
    leaks::INVARIANT,
    pools::INVARIANT,
    metrics::INVARIANT,
    identity::INVARIANT,
    encrypted::INVARIANT,
    revoked::INVARIANT,
    access::INVARIANT,
    lively::INVARIANT,
];

/// All violations of a run, in the order of the invariants.
pub fn judge(facts: &Facts) -> Vec<InvariantViolation> {
    let mut all = Vec::new();
    for invariant in &ALL {
        let mut violations = Vec::new();
        (invariant.check)(facts, &mut violations);
        let named =
            |violation| InvariantViolation { invariant: invariant.name, says: invariant.says, violation };
        all.extend(violations.into_iter().map(named));
    }
    all
}

/// Notes a violation.
fn violation(violations: &mut Vec<Violation>, at: u64, what: impl Into<String>) {
    violations.push(Violation { at, what: what.into() });
}
