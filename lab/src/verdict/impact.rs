//! What each fault did to each load: the same few numbers before, during and after it.
//!
//! The stretches reach to the nearest other change of the run (its ends, or another fault's
//! beginning or end), so what they show is this fault's doing as far as the timeline lets it be
//! told apart. A request belongs to the stretch in which it was due; one that was due just before a
//! kill and hit by it counts as "before".

use serde::{Deserialize, Serialize};

use super::statistics::summary;
use crate::load::{Outcome, Record};
use crate::plan::Plan;

/// What one fault did to one load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Impact {
    /// The load's name.
    pub load: String,
    /// Up to the fault.
    pub before: Option<Phase>,
    /// While it was in force.
    pub during: Option<Phase>,
    /// From its end on.
    pub after: Option<Phase>,
    /// How long after the fault began the first and the last request was due that failed,
    /// microseconds.
    pub failing_us: Option<(i64, i64)>,
}

/// A stretch of a run, seen by one load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// From and to, microseconds from the start of the measured part.
    pub span_us: (i64, i64),
    /// Requests that were due.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Median latency.
    pub p50_us: f64,
    /// 99th percentile of latency.
    pub p99_us: f64,
}

/// For each fault of the plan the impact on each load. `actual` says when each fault began and
/// ended to bite; one that never did has none.
pub fn impacts(plan: &Plan, records: &[Vec<Record>], actual: &[Option<(i64, i64)>]) -> Vec<Vec<Impact>> {
    let last = plan.duration.as_micros() as i64;
    let mut changes: Vec<i64> = actual.iter().flatten().flat_map(|(start, end)| [*start, *end]).collect();
    changes.extend([0, last]);
    changes.sort_unstable();
    let one = |(start, end): (i64, i64)| {
        let since = changes.iter().rev().find(|at| **at < start).copied();
        let until = changes.iter().find(|at| **at > end).copied();
        let of = |(load, records): (&crate::load::Load, &Vec<Record>)| {
            let failed =
                |r: &&Record| r.outcome != Outcome::Ok && (start..until.unwrap_or(end)).contains(&r.due_us);
            let failed = || records.iter().filter(failed).map(|r| r.due_us - start);
            Impact {
                load: load.name.clone(),
                before: since.and_then(|since| phase(records, since, start)),
                during: phase(records, start, end),
                after: until.and_then(|until| phase(records, end, until)),
                failing_us: failed().min().zip(failed().max()),
            }
        };
        plan.loads.iter().zip(records).map(of).collect()
    };
    actual.iter().map(|actual| actual.map(one).unwrap_or_default()).collect()
}

fn phase(records: &[Record], from: i64, to: i64) -> Option<Phase> {
    let due: Vec<Record> = records.iter().filter(|r| (from..to).contains(&r.due_us)).cloned().collect();
    let summary = summary(&due);
    (summary.requests > 0).then(|| Phase {
        span_us: (from, to),
        requests: summary.requests,
        errors: summary.requests - summary.ok,
        p50_us: summary.p50_us,
        p99_us: summary.p99_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::evaluate::tests::plan;

    /// A request every 10 ms; those due in `failing` fail after 5 ms, the others take 1 ms.
    fn records(failing: std::ops::Range<i64>) -> Vec<Record> {
        let record = |due_us: i64| match failing.contains(&due_us) {
            true => Record { due_us, latency_us: 5_000, late_us: 0, outcome: Outcome::Reset },
            false => Record { due_us, latency_us: 1_000, late_us: 0, outcome: Outcome::Ok },
        };
        (0..2_000).map(|k| record(k * 10_000)).collect()
    }

    #[test]
    fn a_stretch_ends_where_anything_else_changes() {
        let actual = [Some((2_000_000, 4_000_000)), Some((5_000_000, 6_000_000)), None];
        let all = impacts(&plan(), &[records(2_000_000..2_500_000)], &actual);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 0]);
        let span = |phase: &Option<Phase>| phase.as_ref().map(|p| (p.span_us, p.errors));
        let first = &all[0][0];
        assert_eq!(span(&first.before), Some(((0, 2_000_000), 0)));
        assert_eq!(span(&first.during), Some(((2_000_000, 4_000_000), 50)));
        assert_eq!(span(&first.after), Some(((4_000_000, 5_000_000), 0)));
        assert_eq!(first.failing_us, Some((0, 490_000)));
        let second = &all[1][0];
        assert_eq!(span(&second.before), Some(((4_000_000, 5_000_000), 0)));
        assert_eq!(second.failing_us, None);
    }

    #[test]
    fn a_fault_that_lasts_to_the_end_has_no_after() {
        let last = plan().duration.as_micros() as i64;
        let all = impacts(&plan(), &[records(0..0)], &[Some((last - 1_000_000, last))]);
        assert!(all[0][0].after.is_none());
        assert!(all[0][0].during.is_some());
    }
}
