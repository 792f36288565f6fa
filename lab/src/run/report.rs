//! What came of a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::load::Record;
use crate::metrics::Series;
use crate::plan::Plan;
use crate::verdict::{Impact, Judged, Summary};
use crate::world::{Fidelity, WorldKind};

/// How this executable was built.
pub const BUILD: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// The result of a run. [`crate::report::results`] is its form for programs.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was run.
    pub plan: Plan,
    /// Where.
    pub world: WorldKind,
    /// The time of day at which the measured part began.
    pub started: SystemTime,
    /// How the lab was built: `debug` (dependencies and hot paths optimised all the same) or
    /// `release`.
    pub build: &'static str,
    /// Pass, fail, or neither.
    pub verdict: Verdict,
    /// Why, if it did not pass.
    pub reasons: Vec<String>,
    /// Each expectation with the numbers that decided.
    pub expectations: Vec<Judged>,
    /// Each load generator over the measured part.
    pub loads: Vec<Summary>,
    /// Each fault: when it was really in force and what proves it.
    pub faults: Vec<AppliedFault>,
    /// Each process that ended although nothing asked it to.
    pub unexpected_exits: Vec<UnexpectedExit>,
    /// Each process's counters over the whole run, restarts added up.
    pub totals: BTreeMap<String, BTreeMap<String, f64>>,
    /// How far the world can be trusted.
    pub fidelity: Fidelity,
    /// What all of that was taken from.
    pub measurements: Arc<Measurements>,
}

/// Everything that was measured in a run.
#[derive(Debug, Default)]
pub struct Measurements {
    /// Every request, by the position of its load in the plan.
    pub records: Vec<Vec<Record>>,
    /// The metrics of every process.
    pub series: Series,
}

/// The end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every expectation held.
    Passed,
    /// Some expectation did not hold.
    Failed,
    /// The world was not good enough to say.
    Inconclusive,
    /// The user stopped it.
    Interrupted,
}

/// A fault as it was really applied.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AppliedFault {
    /// Its name.
    pub name: String,
    /// When it came into force and when it was fully taken back, microseconds from the start of the
    /// measured part.
    pub start_us: Option<i64>,
    /// See [`AppliedFault::start_us`].
    pub end_us: Option<i64>,
    /// Why it could not be applied or taken back.
    pub failed: Option<String>,
    /// Whether that is only that the run was over first.
    #[serde(skip)]
    pub outlasted: bool,
    /// What proves that it bit.
    pub evidence: BTreeMap<String, f64>,
    /// How each load fared before, during and after it.
    pub impact: Vec<Impact>,
}

/// A process that ended although nothing asked it to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnexpectedExit {
    /// `orders-1/app`
    pub process: String,
    /// When, microseconds from the start of the measured part, if known.
    pub at_us: Option<i64>,
    /// How: `exit status: 7`.
    pub how: String,
    /// What it said last, oldest first.
    pub log_tail: Vec<String>,
}
