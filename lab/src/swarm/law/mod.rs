//! What must be true of every day, however bad: one law a file, each a pure function of what happened.
//!
//! Safety laws hold at every moment. Liveness (`lively`) is asked for only after faults have ended, with those that stay
//! for ever in force. A law says what it found in words that a person can follow on the timeline.

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
mod health;
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
mod trips;

use std::fmt;

use super::facts::Facts;

/// A chance that comes to nothing, even in ten thousand days.
const NEVER: f64 = 1e-8;

/// How often in a row something can happen that happens with this chance each time; at least once.
fn longest_run(chance: f64) -> u32 {
    ((NEVER.ln() / chance.ln()).ceil() as u32).max(1)
}

/// A law.
pub struct Law {
    /// Its name, as in messages and in the corpus.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub says: &'static str,
    /// What is against it.
    check: fn(&Facts, &mut Vec<Breach>),
}

/// A breach of a law.
#[derive(Debug, Clone, PartialEq)]
pub struct Breach {
    /// When, virtual microseconds.
    pub at: u64,
    /// What happened.
    pub what: String,
}

/// A breach, and of which law.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// The law's name.
    pub law: &'static str,
    /// What it says.
    pub says: &'static str,
    /// How it was broken.
    pub breach: Breach,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.breach.at as f64 / 1e6;
        write!(f, "{}: {}; but at {at:.3} s {}", self.law, self.says, self.breach.what)
    }
}

/// All laws.
pub const ALL: [Law; 23] = [
    detection::LAW,
    outcome::LAW,
    once::LAW,
    attempts::LAW,
    backoff::LAW,
    budget::LAW,
    bodies::LAW,
    deadline::LAW,
    blocking::LAW,
    refused::LAW,
    picks::LAW,
    balance::LAW,
    limits::LAW,
    discovery::LAW,
    ejection::LAW,
    trips::LAW,
    health::LAW,
    latency::LAW,
    drain::LAW,
    leaks::LAW,
    pools::LAW,
    metrics::LAW,
    lively::LAW,
];

/// What a day has against the laws, in the order of laws.
pub fn judge(facts: &Facts) -> Vec<Violation> {
    let mut violations = Vec::new();
    for law in &ALL {
        let mut breaches = Vec::new();
        (law.check)(facts, &mut breaches);
        let violation = |breach| Violation { law: law.name, says: law.says, breach };
        violations.extend(breaches.into_iter().map(violation));
    }
    violations
}

/// Notes a breach.
fn breach(breaches: &mut Vec<Breach>, at: u64, what: impl Into<String>) {
    breaches.push(Breach { at, what: what.into() });
}
