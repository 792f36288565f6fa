//! The results as JSON: `results.json` of a run directory, for programs. `docs/results.md`
//! describes it for people.
//!
//! The format is stable: within one [`FORMAT`] keys are added, never removed, and never change
//! their meaning or unit. A measured time is a number of microseconds and its key ends in `_us`; a
//! time that was asked for is text with a unit, as the scenario writes it. Points in time count
//! from the start of the measured part. A value that could not be measured is `null`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, histogram};
use super::series::{Axis, LoadSeries};
use crate::load::Record;
use crate::plan::{Plan, SidecarKind};
use crate::readable;
use crate::run::{AppliedFault, Report, UnexpectedExit, Verdict};
use crate::verdict::{Judged, Summary};
use crate::world::{Fidelity, WorldKind};

/// Counts up when a reader of the last format would misunderstand the next one.
pub const FORMAT: u32 = 2;

/// What is written, and read again by [`Results::read`]. See the fields of [`Report`] for what the
/// parts mean. A key that is added needs `#[serde(default)]`, because older files lack it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results<'a> {
    /// [`FORMAT`]
    pub format: u32,
    /// The lab's version.
    pub lab: Cow<'a, str>,
    /// The scenario's name.
    pub scenario: Cow<'a, str>,
    /// Seed of every random choice.
    pub seed: u64,
    /// `kernel` or `simulator`.
    pub world: WorldKind,
    /// What stood in the sidecar's place.
    pub sidecar: SidecarKind,
    /// The time of day at which the measured part began, in UTC: the zero of all points in time.
    pub started: Cow<'a, str>,
    /// `debug` or `release`.
    pub build: Cow<'a, str>,
    /// `passed`, `failed`, `inconclusive`, `interrupted`.
    pub verdict: Verdict,
    /// Why, if it did not pass.
    pub reasons: Cow<'a, [String]>,
    /// In the order of the file; the lab's own conservation check comes last.
    pub expectations: Cow<'a, [Judged]>,
    /// By name.
    pub loads: BTreeMap<Cow<'a, str>, Cow<'a, Summary>>,
    /// What each load's requests came to along the axis of time, by its name.
    #[serde(default)]
    pub series: SeriesOfResults,
    /// How latency was spread, by load: upper bounds in microseconds with two digits, and how many
    /// requests took longer than the bound before and no longer than this one.
    #[serde(default)]
    pub histograms: BTreeMap<String, Histogram>,
    /// In the order of the file.
    pub faults: Cow<'a, [AppliedFault]>,
    /// Processes that ended although nothing asked them to.
    pub unexpected_exits: Cow<'a, [UnexpectedExit]>,
    /// Every counter by process, over the whole run with its warm-up: in all, and of each label
    /// set.
    pub totals: Cow<'a, BTreeMap<String, BTreeMap<String, f64>>>,
    /// How far the world can be trusted.
    pub fidelity: Cow<'a, Fidelity>,
    /// Everything that was asked for; as in `plan.json`. Its parts are the lab's own affair and may
    /// change.
    pub plan: PlanOfResults<'a>,
}

/// The series in [`Results`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SeriesOfResults {
    /// Their axis.
    #[serde(flatten)]
    pub axis: Axis,
    /// By the loads' names.
    pub loads: BTreeMap<String, LoadSeries>,
}

impl SeriesOfResults {
    fn of(report: &Report) -> Self {
        let axis = Axis::of(report.plan.duration.as_micros() as i64);
        let loads = records(report).map(|(name, records)| (name.to_owned(), axis.load(records)));
        SeriesOfResults { axis, loads: loads.collect() }
    }
}

/// What was measured of each load.
fn records(report: &Report) -> impl Iterator<Item = (&str, &[Record])> {
    let names = report.plan.loads.iter().map(|load| load.name.as_str());
    names.zip(report.measurements.records.iter().map(Vec::as_slice))
}

/// The plan in [`Results`]. Another version of the lab may have written it, so it is read as what
/// it is, JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PlanOfResults<'a> {
    /// Of a report.
    #[serde(skip_deserializing)]
    Plan(&'a Plan),
    /// Of a file.
    Json(serde_json::Value),
}

impl Results<'static> {
    /// Reads what a run has written; `None` if it is of another format.
    ///
    /// # Errors
    /// If the text is not that of results.
    pub fn read(text: &str) -> serde_json::Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        let Header { format } = serde_json::from_str(text)?;
        (format == FORMAT).then(|| serde_json::from_str(text)).transpose()
    }
}

/// The results of a report.
pub fn of(report: &Report) -> Results<'_> {
    let plan = &report.plan;
    let names = plan.loads.iter().map(|load| Cow::from(&load.name));
    Results {
        format: FORMAT,
        lab: env!("CARGO_PKG_VERSION").into(),
        scenario: Cow::from(&plan.name),
        seed: plan.seed,
        world: report.world,
        sidecar: plan.sidecar,
        started: readable::utc(report.started).into(),
        build: report.build.into(),
        verdict: report.verdict,
        reasons: Cow::from(&report.reasons),
        expectations: Cow::from(&report.expectations),
        loads: names.zip(report.loads.iter().map(Cow::Borrowed)).collect(),
        series: SeriesOfResults::of(report),
        histograms: records(report).map(|(name, records)| (name.to_owned(), histogram(records))).collect(),
        faults: Cow::from(&report.faults),
        unexpected_exits: Cow::from(&report.unexpected_exits),
        totals: Cow::Borrowed(&report.totals),
        fidelity: Cow::Borrowed(&report.fidelity),
        plan: PlanOfResults::Plan(plan),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_str, json, to_string_pretty, to_value};

    use super::*;
    use crate::report::terminal::tests::{failing, passing};

    #[test]
    fn results_are_read_as_they_were_written() {
        for report in [passing(), failing()] {
            let text = to_string_pretty(&of(&report)).expect("plain data");
            let read = Results::read(&text).expect("results").expect("of this format");
            assert_eq!(to_value(&read).expect("plain data"), from_str::<Value>(&text).expect("JSON"));
        }
    }

    #[test]
    fn another_format_and_what_is_no_results_are_told_apart() {
        assert!(Results::read(&json!({ "format": FORMAT + 1 }).to_string()).expect("results").is_none());
        assert!(Results::read(&json!({ "format": FORMAT }).to_string()).is_err());
    }
}
