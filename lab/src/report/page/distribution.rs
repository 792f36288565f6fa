//! How latency was spread before, during and after each fault.

use serde::Serialize;

use crate::load::{Outcome, Record};
use crate::report::series::rounded;
use crate::run::AppliedFault;
use crate::statistic::Latencies;
use crate::verdict::Phase;

/// Points of a curve, as shares of all requests: evenly spread, and then the tail.
const EVEN: usize = 50;
const TAIL: [f64; 8] = [0.985, 0.99, 0.993, 0.995, 0.997, 0.998, 0.999, 1.0];

/// The latencies of one load around one fault.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Distribution {
    pub fault: String,
    pub load: String,
    /// Those stretches in which anything was sent.
    pub curves: Vec<Curve>,
}

/// The share of requests that took no longer than some time.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Curve {
    /// `before`, `during`, `after`.
    pub when: &'static str,
    pub requests: usize,
    /// Microseconds, and the share.
    pub points: Vec<(f64, f64)>,
}

/// Those of all faults and loads; of a run without faults, none.
pub(super) fn of(faults: &[AppliedFault], loads: &[(&str, &[Record])]) -> Vec<Distribution> {
    let mut all = Vec::new();
    for fault in faults {
        for impact in &fault.impact {
            let Some((_, records)) = loads.iter().find(|(name, _)| *name == impact.load) else { continue };
            let stretches =
                [("before", &impact.before), ("during", &impact.during), ("after", &impact.after)];
            let curves: Vec<Curve> = stretches
                .into_iter()
                .filter_map(|(when, phase)| curve(when, records, phase.as_ref()?))
                .collect();
            if !curves.is_empty() {
                all.push(Distribution { fault: fault.name.clone(), load: impact.load.clone(), curves });
            }
        }
    }
    all
}

fn curve(when: &'static str, records: &[Record], phase: &Phase) -> Option<Curve> {
    let (from, to) = phase.span_us;
    let sent = |r: &&Record| (from..to).contains(&r.due_us) && r.outcome != Outcome::Dropped;
    let requests = records.iter().filter(sent).count();
    let latencies: Latencies = records.iter().filter(sent).map(|r| r.latency_us).collect();
    let shares = (0..EVEN).map(|point| point as f64 / EVEN as f64).chain(TAIL);
    let points = shares.filter_map(|share| Some((rounded(latencies.quantile(share)?), share))).collect();
    (requests > 0).then_some(Curve { when, requests, points })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Impact;

    #[test]
    fn a_curve_rises_from_the_fastest_to_the_slowest_and_stretches_without_requests_have_none() {
        let record =
            |due_us| Record { due_us, latency_us: 1_000 - due_us as u64, late_us: 0, outcome: Outcome::Ok };
        let records: Vec<Record> = (0..100).map(record).collect();
        let phase = |span_us| Some(Phase { span_us, requests: 0, errors: 0, p50_us: 0.0, p99_us: 0.0 });
        let impact = Impact {
            load: "checkout".into(),
            before: phase((0, 50)),
            during: phase((50, 100)),
            after: phase((100, 200)),
            failing_us: None,
        };
        let fault = AppliedFault { name: "gone".into(), impact: vec![impact], ..AppliedFault::default() };
        let all = of(&[fault], &[("search", &[]), ("checkout", &records)]);
        let [Distribution { curves, .. }] = &all[..] else { panic!("{all:?}") };
        assert_eq!(
            curves.iter().map(|c| (c.when, c.requests)).collect::<Vec<_>>(),
            [("before", 50), ("during", 50)]
        );
        assert_eq!((curves[1].points[0], curves[1].points.last()), ((901.0, 0.0), Some(&(950.0, 1.0))));
        assert!(curves[1].points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 < b.1));
    }
}
