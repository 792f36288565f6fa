//! Statistics of the requests of one load generator.
//!
//! Percentiles are exact (nearest rank), not read from a histogram: all records of a run are in
//! memory anyway. They cover every request that was sent, and a failed one counts with the time at
//! which it failed. Leaving failures out would make a mesh look quicker the more it fails; counting
//! them in still flatters one that fails fast, so a condition on latency belongs beside one on
//! success. A dropped request was never sent: it is an error with no latency.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::{Outcome, Record};

/// Every statistic, as [`crate::plan::Subject::Load`] names it. Latencies are in microseconds;
/// `success` and `errors.share` are fractions; `throughput` is good answers a second; the others
/// are counts.
pub const STATISTICS: &[&str] = &[
    "latency.p50",
    "latency.p90",
    "latency.p99",
    "latency.p999",
    "latency.max",
    "latency.mean",
    "requests",
    "ok",
    "errors",
    "errors.share",
    "success",
    "throughput",
    "dropped",
];

/// One statistic of `records`, all that were due within `seconds`. `None` if there are none to take
/// it from, or the name is unknown.
pub(super) fn statistic<'a>(
    records: impl Iterator<Item = &'a Record> + Clone,
    seconds: f64,
    stat: &str,
) -> Option<f64> {
    let requests = records.clone().count() as f64;
    if requests == 0.0 {
        return None;
    }
    let count = |outcome: Outcome| records.clone().filter(|r| r.outcome == outcome).count() as f64;
    let ok = count(Outcome::Ok);
    let value = match stat {
        "requests" => requests,
        "ok" => ok,
        "errors" => requests - ok,
        "errors.share" => (requests - ok) / requests,
        "success" => ok / requests,
        "throughput" => ok / seconds,
        "dropped" => count(Outcome::Dropped),
        _ => return Latencies::of(records).named(stat.strip_prefix("latency.")?),
    };
    Some(value)
}

/// The share of requests below a percentile, if `stat` is one.
pub(super) fn quantile(stat: &str) -> Option<f64> {
    Some(match stat.strip_prefix("latency.").unwrap_or(stat) {
        "p50" => 0.5,
        "p90" => 0.9,
        "p99" => 0.99,
        "p999" => 0.999,
        _ => return None,
    })
}

/// Times in order, microseconds.
struct Latencies(Vec<u64>);

impl Latencies {
    fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        Self::sorted(records.filter(|r| r.outcome != Outcome::Dropped).map(|r| r.latency_us))
    }

    fn sorted(times: impl Iterator<Item = u64>) -> Self {
        let mut times: Vec<u64> = times.collect();
        times.sort_unstable();
        Latencies(times)
    }

    /// The smallest time that at least a share `q` of all does not exceed.
    fn quantile(&self, q: f64) -> Option<f64> {
        // 0.999 * 1000 is a little more than 999 in floating point, and must not become 1000.
        let rank = (q * self.0.len() as f64 - 1e-6).ceil().max(1.0) as usize;
        self.0.get(rank - 1).map(|us| *us as f64)
    }

    fn mean(&self) -> Option<f64> {
        let sum: u128 = self.0.iter().map(|us| u128::from(*us)).sum();
        (!self.0.is_empty()).then(|| sum as f64 / self.0.len() as f64)
    }

    fn named(&self, name: &str) -> Option<f64> {
        match name {
            "max" => self.quantile(1.0),
            "mean" => self.mean(),
            other => self.quantile(quantile(other)?),
        }
    }
}

/// The whole measured part of one load generator, for reports. Times are microseconds, 0 if nothing
/// was sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Requests that were due.
    pub requests: u64,
    /// Answered as they should be.
    pub ok: u64,
    /// The others by outcome: `timeout`, `reset`, `503`, ...
    pub errors: BTreeMap<String, u64>,
    /// Never sent, because too many were under way; also in [`Summary::errors`].
    pub dropped: u64,
    /// Median latency.
    pub p50_us: f64,
    /// 90th percentile of latency.
    pub p90_us: f64,
    /// 99th percentile of latency.
    pub p99_us: f64,
    /// 99.9th percentile of latency.
    pub p999_us: f64,
    /// Largest latency.
    pub max_us: f64,
    /// Mean latency.
    pub mean_us: f64,
    /// Good answers a second.
    pub throughput: f64,
    /// 99th percentile of how late the generator itself was in sending.
    pub late_p99_us: f64,
}

/// Sums up the measured part of `records`; those of the warm-up (due before 0) are left out.
pub fn summary(records: &[Record]) -> Summary {
    let measured = || records.iter().filter(|r| r.due_us >= 0);
    let latencies = Latencies::of(measured());
    let late = Latencies::sorted(measured().filter(|r| r.outcome != Outcome::Dropped).map(|r| r.late_us));
    let mut errors = BTreeMap::new();
    for record in measured().filter(|r| r.outcome != Outcome::Ok) {
        *errors.entry(record.outcome.to_string()).or_insert(0) += 1;
    }
    let ok = measured().filter(|r| r.outcome == Outcome::Ok).count() as u64;
    let requests = measured().count() as u64;
    let value = |name| latencies.named(name).unwrap_or(0.0);
    Summary {
        requests,
        ok,
        dropped: errors.get("dropped").copied().unwrap_or(0),
        errors,
        p50_us: value("p50"),
        p90_us: value("p90"),
        p99_us: value("p99"),
        p999_us: value("p999"),
        max_us: value("max"),
        mean_us: value("mean"),
        throughput: seconds(measured()).map_or(0.0, |s| ok as f64 / s),
        late_p99_us: late.named("p99").unwrap_or(0.0),
    }
}

/// How long a stretch `records` fill: n of them at a constant rate lie n - 1 intervals apart and
/// fill n.
fn seconds<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> Option<f64> {
    let due = records.map(|r| r.due_us);
    let (n, first, last) = (due.clone().count(), due.clone().min()?, due.max()?);
    (last > first).then(|| (last - first) as f64 / 1e6 * n as f64 / (n - 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(due_us: i64, latency_us: u64, outcome: Outcome) -> Record {
        Record { due_us, latency_us, late_us: latency_us / 10, outcome }
    }

    /// 1 to 1000 us, one a millisecond; the slowest ten failed, and ten more were dropped.
    fn thousand() -> Vec<Record> {
        let sent = (1..=1000).map(|us| {
            let outcome = match us {
                991..=995 => Outcome::Timeout,
                996.. => Outcome::Status(503),
                _ => Outcome::Ok,
            };
            record((us as i64 - 1) * 1_000, us, outcome)
        });
        let dropped = (0..10).map(|k| record(1_000_000 + k * 1_000, 0, Outcome::Dropped));
        sent.chain(dropped).collect()
    }

    #[test]
    fn each_statistic_is_what_its_name_says() {
        let records = thousand();
        for (stat, expected) in [
            ("latency.p50", 500.0),
            ("latency.p90", 900.0),
            ("latency.p99", 990.0),
            ("latency.p999", 999.0),
            ("latency.max", 1000.0),
            ("latency.mean", 500.5),
            ("requests", 1010.0),
            ("ok", 990.0),
            ("errors", 20.0),
            ("errors.share", 20.0 / 1010.0),
            ("success", 990.0 / 1010.0),
            ("throughput", 495.0),
            ("dropped", 10.0),
        ] {
            assert!(STATISTICS.contains(&stat), "{stat}");
            assert_eq!(statistic(records.iter(), 2.0, stat), Some(expected), "{stat}");
        }
        for stat in STATISTICS {
            assert!(statistic(records.iter(), 2.0, stat).is_some(), "{stat}");
            assert_eq!(statistic([].iter(), 2.0, stat), None, "{stat} of nothing");
        }
        for stat in ["latency", "latency.p42", "p99", "errors.rate", ""] {
            assert_eq!(statistic(records.iter(), 2.0, stat), None, "{stat}");
        }
    }

    #[test]
    fn a_percentile_of_few_values_is_one_of_them() {
        let latencies = |n: u64| Latencies::sorted((1..=n).rev());
        for (n, q, expected) in [
            (1, 0.5, 1.0),
            (1, 0.999, 1.0),
            (2, 0.5, 1.0),
            (3, 0.5, 2.0),
            (99, 0.99, 99.0),
            (100, 0.99, 99.0),
        ] {
            assert_eq!(latencies(n).quantile(q), Some(expected), "{q} of {n}");
        }
        assert_eq!(latencies(0).quantile(0.5), None);
    }

    #[test]
    fn a_summary_leaves_the_warm_up_out() {
        let mut records = thousand();
        records.push(record(-1, 9_000_000, Outcome::Connect));
        let summary = summary(&records);
        assert_eq!((summary.requests, summary.ok, summary.dropped), (1010, 990, 10));
        let errors: Vec<_> = summary.errors.iter().map(|(k, n)| (k.as_str(), *n)).collect();
        assert_eq!(errors, [("503", 5), ("dropped", 10), ("timeout", 5)]);
        assert_eq!((summary.p99_us, summary.max_us, summary.late_p99_us), (990.0, 1000.0, 99.0));
        assert!((summary.throughput - 990.0 / 1.01).abs() < 1e-6, "{}", summary.throughput);
        assert_eq!(super::summary(&[]), Summary::default());
    }
}
