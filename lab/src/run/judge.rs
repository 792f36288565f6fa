//! What a run came to.
//!
//! A process that ended by itself, or did not come back after a kill, is a failure whatever else is
//! wrong: no slow machine explains it. For everything else the world's shortcomings come first: a
//! fault that never took effect, a generator that died, a late wire make the numbers worthless, and
//! then neither red nor green would be true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::{AppliedFault, BUILD, Measurements, Report, UnexpectedExit, Verdict, micros};
use crate::load::Record;
use crate::metrics::{FABRIC, Series, is_counter};
use crate::plan::Plan;
use crate::verdict::{self, Evidence, Summary};
use crate::world::{Error, Fidelity, WorldKind};

/// Everything that was seen of a run.
pub(crate) struct Seen {
    pub world: WorldKind,
    /// The time of day at which the measured part began.
    pub started: SystemTime,
    pub records: Vec<Vec<Record>>,
    pub series: Series,
    pub faults: Vec<AppliedFault>,
    /// Load generators that could not do their work, one sentence each.
    pub load_failures: Vec<String>,
    pub unexpected_exits: Vec<UnexpectedExit>,
    pub fidelity: Fidelity,
    /// When the user stopped it.
    pub interrupted: Option<i64>,
    /// What could not be taken down.
    pub left_behind: Option<Error>,
}

pub(super) fn judge(plan: &Plan, seen: Seen) -> Report {
    let Seen { world, records, series, mut faults, unexpected_exits, fidelity, .. } = seen;
    let loads: Vec<Summary> = records.iter().map(|records| verdict::summary(records)).collect();
    let evidence: Vec<_> = faults.iter().map(|f| f.evidence.clone()).collect();
    let last = micros(plan.duration);
    let actual: Vec<_> =
        faults.iter().map(|f| f.start_us.map(|start| (start, f.end_us.unwrap_or(last.max(start))))).collect();
    for (fault, impact) in faults.iter_mut().zip(verdict::impacts(plan, &records, &actual)) {
        fault.impact = impact;
    }
    let mut expectations = verdict::judge(&Evidence {
        plan,
        loads: &records,
        series: &series,
        faults: &evidence,
        actual: &actual,
    });
    expectations.extend(verdict::conservation(plan, &records, &series));

    let mut findings = Findings {
        crashes: unexpected_exits.iter().map(crash).collect(),
        shortcomings: seen.load_failures,
        broken: verdict::broken(plan, &expectations),
        left_behind: seen.left_behind.map(|e| format!("not everything could be taken down: {e}")),
    };
    findings.add_faults(plan, &faults);
    let untrue = verdict::trustworthy(&fidelity, plan, &loads).err();
    findings.shortcomings.extend(untrue.into_iter().flatten());
    let (verdict, reasons) = findings.verdict(plan, seen.interrupted);
    Report {
        plan: plan.clone(),
        world,
        started: seen.started,
        build: BUILD,
        verdict,
        reasons,
        expectations,
        loads,
        faults,
        unexpected_exits,
        totals: totals(plan, &series),
        fidelity,
        measurements: Arc::new(Measurements { records, series }),
    }
}

/// What speaks against a run, one sentence each.
struct Findings {
    /// The mesh did not stay up.
    crashes: Vec<String>,
    /// The world was not good enough.
    shortcomings: Vec<String>,
    /// Expectations that do not hold.
    broken: Vec<String>,
    left_behind: Option<String>,
}

impl Findings {
    /// Adds what is wrong with how faults were applied.
    fn add_faults(&mut self, plan: &Plan, faults: &[AppliedFault]) {
        for (entry, fault) in plan.timeline.iter().zip(faults) {
            let name = &fault.name;
            let shortcoming = match (&fault.failed, fault.start_us) {
                (Some(why), Some(_)) if fault.outlasted => format!("{name} outlasted the run: {why}"),
                // The kill worked, the restart did not: that is the mesh's doing.
                (Some(why), Some(_)) if entry.action.ends_processes() => {
                    self.crashes.push(format!("not everything came back after {name}: {why}"));
                    continue;
                }
                (Some(why), Some(_)) => format!("fault {name} could not be taken back: {why}"),
                (Some(why), None) => format!("fault {name} could not be carried out: {why}"),
                (None, None) => format!("fault {name} never came into force"),
                (None, Some(_)) => continue,
            };
            self.shortcomings.push(shortcoming);
        }
    }

    /// What weighs most decides. `interrupted`: when the user stopped the run.
    fn verdict(self, plan: &Plan, interrupted: Option<i64>) -> (Verdict, Vec<String>) {
        let Findings { crashes, shortcomings, broken, left_behind } = self;
        let (verdict, reasons) = if let Some(at) = interrupted {
            let of = plan.duration.as_secs_f64();
            let words = match at {
                ..0 => "interrupted during the warm-up".to_owned(),
                at => format!("interrupted after {:.1} s of {of:.1} s", at as f64 / 1e6),
            };
            // What was expected of the whole run is not said of a part of it.
            (Verdict::Interrupted, [vec![words], crashes].concat())
        } else if !crashes.is_empty() {
            (Verdict::Failed, [crashes, shortcomings, broken].concat())
        } else if !shortcomings.is_empty() {
            (Verdict::Inconclusive, [shortcomings, broken].concat())
        } else if !broken.is_empty() || left_behind.is_some() {
            (Verdict::Failed, broken)
        } else {
            (Verdict::Passed, Vec::new())
        };
        (verdict, reasons.into_iter().chain(left_behind).collect())
    }
}

fn crash(end: &UnexpectedExit) -> String {
    let at = end.at_us.map(|us| format!(" at {:.2} s", us as f64 / 1e6)).unwrap_or_default();
    format!("{} ended{at} although nothing asked it to: {}", end.process, end.how)
}

/// Every counter of every process over the whole run.
fn totals(plan: &Plan, series: &Series) -> BTreeMap<String, BTreeMap<String, f64>> {
    let processes = plan.processes().map(|id| plan.process_name(id)).chain([FABRIC.to_owned()]);
    let of = |process: &str| {
        // Buckets hold one another: their sum is a number of nothing.
        let counters = series.names(process).into_iter().filter(|n| is_counter(n) && !n.ends_with("_bucket"));
        let total = |name: &str| series.increase(process, name, &[], i64::MIN, i64::MAX);
        let sums = counters.filter_map(|name| Some((name.to_owned(), total(name)?)));
        let each = series.totals(process).filter(|(name, labels, _)| is_counter(name) && !labels.is_empty());
        sums.chain(each.map(|(name, labels, total)| (format!("{name}{{{labels}}}"), total))).collect()
    };
    processes.map(|process| (process.clone(), of(&process))).collect()
}
