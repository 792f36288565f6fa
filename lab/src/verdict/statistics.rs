//! The requests of one load generator in numbers: what [`Statistic`]s
//! are taken from, and the summary of a whole run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::{Outcome, Record};
use crate::statistic::{Latencies, Requests, Statistic};

/// Takes a statistic of `records`, all that were due within `seconds`. `None` if there are none to
/// take it from.
pub(super) fn measure<'a>(
    statistic: Statistic,
    records: impl Iterator<Item = &'a Record> + Clone,
    seconds: f64,
) -> Option<f64> {
    let count = |outcome: Outcome| records.clone().filter(|r| r.outcome == outcome).count() as f64;
    statistic.of(&Requests {
        due: records.clone().count() as f64,
        ok: count(Outcome::Ok),
        dropped: count(Outcome::Dropped),
        seconds,
        latencies: &|| latencies(records.clone()),
    })
}

/// The latencies of the requests that were sent.
fn latencies<'a>(records: impl Iterator<Item = &'a Record>) -> Latencies {
    records.filter(|r| r.outcome != Outcome::Dropped).map(|r| r.latency_us).collect()
}

/// What a load generator may add to a request by sending it late. It is part of every latency, and
/// a generator later than this was starved of processor time, so the apps and sidecars beside it
/// were too.
pub const LATE: Duration = Duration::from_millis(10);

/// The whole measured part of one load generator, for reports. Times are microseconds, 0 if nothing
/// was sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// Sent more than 10 ms after they were due.
    #[serde(default)]
    pub late: u64,
}

/// Sums up the measured part of `records`; those of the warm-up (due before 0) are left out.
pub fn summary(records: &[Record]) -> Summary {
    let measured = || records.iter().filter(|r| r.due_us >= 0);
    let latencies = latencies(measured());
    let late: Latencies = measured().filter(|r| r.outcome != Outcome::Dropped).map(|r| r.late_us).collect();
    let mut errors = BTreeMap::new();
    for record in measured().filter(|r| r.outcome != Outcome::Ok) {
        *errors.entry(record.outcome.to_string()).or_insert(0) += 1;
    }
    let ok = measured().filter(|r| r.outcome == Outcome::Ok).count() as u64;
    let requests = measured().count() as u64;
    let percentile = |share| latencies.quantile(share).unwrap_or(0.0);
    Summary {
        requests,
        ok,
        dropped: errors.get("dropped").copied().unwrap_or(0),
        errors,
        p50_us: percentile(0.5),
        p90_us: percentile(0.9),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        max_us: percentile(1.0),
        mean_us: latencies.mean().unwrap_or(0.0),
        throughput: seconds(measured()).map_or(0.0, |s| ok as f64 / s),
        late_p99_us: late.quantile(0.99).unwrap_or(0.0),
        late: measured().filter(|r| r.late_us > LATE.as_micros() as u64).count() as u64,
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
        let parse = |stat: &str| stat.parse::<Statistic>().expect("a statistic");
        for (stat, expected) in [
            ("latency.p50", 500.0),
            ("latency.p90", 900.0),
            ("latency.p95", 950.0),
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
            assert_eq!(measure(parse(stat), records.iter(), 2.0), Some(expected), "{stat}");
        }
        for stat in Statistic::names() {
            assert!(measure(parse(stat), records.iter(), 2.0).is_some(), "{stat}");
            assert_eq!(measure(parse(stat), [].iter(), 2.0), None, "{stat} of nothing");
        }
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
        assert_eq!(summary.late, 0);
        let late = [10_000, 10_001].map(|late_us| Record { late_us, ..record(0, 1, Outcome::Ok) });
        assert_eq!(super::summary(&late).late, 1);
        assert!((summary.throughput - 990.0 / 1.01).abs() < 1e-6, "{}", summary.throughput);
        assert_eq!(super::summary(&[]), Summary::default());
    }
}
