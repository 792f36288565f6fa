//! The results as JSON: `results.json` of a run directory, for programs. `docs/results.md`
//! describes it for people.
//!
//! The format is stable: within one [`FORMAT`] keys are added, never removed, and never change
//! their meaning or unit. A measured time is a number of microseconds and its key ends in `_us`; a
//! time that was asked for is text with a unit, as the scenario writes it. Points in time count
//! from the start of the measured part. A value that could not be measured is `null`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::{Plan, SidecarKind};
use crate::readable;
use crate::run::{AppliedFault, Report, UnexpectedExit, Verdict};
use crate::verdict::{Judged, Summary};
use crate::world::{Fidelity, WorldKind};

/// Counts up when a reader of the last format would misunderstand the next one.
pub const FORMAT: u32 = 2;

/// What is written. See the fields of [`Report`] for what the parts mean.
#[derive(Debug, Serialize)]
pub struct Results<'a> {
    /// [`FORMAT`]
    pub format: u32,
    /// The lab's version.
    pub lab: &'static str,
    /// The scenario's name.
    pub scenario: &'a str,
    /// Seed of every random choice.
    pub seed: u64,
    /// `kernel` or `simulator`.
    pub world: WorldKind,
    /// What stood in the sidecar's place.
    pub sidecar: SidecarKind,
    /// The time of day at which the measured part began, in UTC: the zero of all points in time.
    pub started: String,
    /// `debug` or `release`.
    pub build: &'static str,
    /// `passed`, `failed`, `inconclusive`, `interrupted`.
    pub verdict: Verdict,
    /// Why, if it did not pass.
    pub reasons: &'a [String],
    /// In the order of the file; the lab's own conservation check comes last.
    pub expectations: &'a [Judged],
    /// By name.
    pub loads: BTreeMap<&'a str, &'a Summary>,
    /// In the order of the file.
    pub faults: &'a [AppliedFault],
    /// Processes that ended although nothing asked them to.
    pub unexpected_exits: &'a [UnexpectedExit],
    /// Every counter by process, over the whole run with its warm-up: in all, and of each label
    /// set.
    pub totals: &'a BTreeMap<String, BTreeMap<String, f64>>,
    /// How far the world can be trusted.
    pub fidelity: &'a Fidelity,
    /// Everything that was asked for; as in `plan.json`. Its parts are the lab's own affair and may
    /// change.
    pub plan: &'a Plan,
}

/// The results of a report.
pub fn of(report: &Report) -> Results<'_> {
    let plan = &report.plan;
    Results {
        format: FORMAT,
        lab: env!("CARGO_PKG_VERSION"),
        scenario: &plan.name,
        seed: plan.seed,
        world: report.world,
        sidecar: plan.sidecar,
        started: readable::utc(report.started),
        build: report.build,
        verdict: report.verdict,
        reasons: &report.reasons,
        expectations: &report.expectations,
        loads: plan.loads.iter().map(|load| load.name.as_str()).zip(&report.loads).collect(),
        faults: &report.faults,
        unexpected_exits: &report.unexpected_exits,
        totals: &report.totals,
        fidelity: &report.fidelity,
        plan,
    }
}
