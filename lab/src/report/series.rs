//! What happened along the axis of time, in steps of equal length.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::load::{Outcome, Record};
use crate::metrics::Growth;
use crate::statistic::Latencies;

/// Steps at most: more could not be told apart on a screen.
const MOST_STEPS: i64 = 240;

/// Lengths of a step to choose from, in units of a power of ten.
const LENGTHS: [i64; 3] = [1, 2, 5];

/// The axis of time: `count` steps of `step_us` microseconds from the start of the measured part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// Length of a step, microseconds.
    pub step_us: i64,
    /// How many there are.
    pub count: usize,
}

/// What one load did, step by step. Times are microseconds, and `None` where nothing was sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadSeries {
    /// Requests a second that were answered as they should be.
    pub ok: Vec<f64>,
    /// Median latency.
    pub p50_us: Vec<Option<f64>>,
    /// 90th percentile.
    pub p90_us: Vec<Option<f64>>,
    /// 99th percentile.
    pub p99_us: Vec<Option<f64>>,
    /// Failures a second by their outcome.
    pub errors: BTreeMap<String, Vec<f64>>,
}

/// A line of a chart.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Line {
    pub name: String,
    /// A value for each step.
    pub values: Vec<Option<f64>>,
}

impl Axis {
    /// That of a measured part of so many microseconds: the shortest steps that are few enough.
    pub fn of(duration_us: i64) -> Self {
        let least = (duration_us.max(1) + MOST_STEPS - 1) / MOST_STEPS;
        let decades = (0..18).map(|power| 10_i64.pow(power));
        let mut lengths = decades.flat_map(|ten| LENGTHS.map(|length| length * ten));
        let step_us = lengths.find(|length| *length >= least).unwrap_or(least).max(10_000);
        Axis { step_us, count: ((duration_us + step_us - 1) / step_us).max(1) as usize }
    }

    fn step(self, at_us: i64) -> Option<usize> {
        let step = usize::try_from(at_us.div_euclid(self.step_us)).ok()?;
        (step < self.count).then_some(step)
    }

    fn seconds(self) -> f64 {
        self.step_us as f64 / 1e6
    }

    /// What a load's requests came to, by when they were due.
    pub fn load(self, records: &[Record]) -> LoadSeries {
        let mut sent: Vec<Vec<u64>> = vec![Vec::new(); self.count];
        let zeros = || vec![0.0; self.count];
        let mut load = LoadSeries { ok: zeros(), ..LoadSeries::default() };
        for record in records {
            let Some(step) = self.step(record.due_us) else { continue };
            if record.outcome != Outcome::Dropped {
                sent[step].push(record.latency_us);
            }
            match &record.outcome {
                Outcome::Ok => load.ok[step] += 1.0,
                error => load.errors.entry(error.to_string()).or_insert_with(zeros)[step] += 1.0,
            }
        }
        for count in load.ok.iter_mut().chain(load.errors.values_mut().flatten()) {
            *count = rounded(*count / self.seconds());
        }
        for latencies in sent {
            let latencies: Latencies = latencies.into_iter().collect();
            let quantile = |q| latencies.quantile(q).map(rounded);
            load.p50_us.push(quantile(0.5));
            load.p90_us.push(quantile(0.9));
            load.p99_us.push(quantile(0.99));
        }
        load
    }

    /// How fast something grew, a second. Growth counts evenly over the time in which it was seen.
    pub(crate) fn rate<'a>(self, growth: impl IntoIterator<Item = &'a Growth<'a>>) -> Vec<Option<f64>> {
        let mut steps = vec![0.0; self.count];
        for Growth { span_us: (from, to), by, .. } in growth {
            let length = (to - from).max(1) as f64;
            let first = from.div_euclid(self.step_us).max(0);
            for step in first..=to.div_euclid(self.step_us).min(self.count as i64 - 1) {
                let (begin, end) = (step * self.step_us, (step + 1) * self.step_us);
                let overlap = ((*to).min(end) - (*from).max(begin)).max(0) as f64;
                steps[step as usize] += by * overlap / length;
            }
        }
        steps.into_iter().map(|grown| Some(rounded(grown / self.seconds()))).collect()
    }

    /// The last value that was shown in each step, or else in the one before it.
    pub(crate) fn level(self, shown: &[(i64, f64)]) -> Vec<Option<f64>> {
        let mut steps: Vec<Option<f64>> = vec![None; self.count];
        for (at_us, value) in shown {
            if let Some(step) = self.step(*at_us) {
                steps[step] = Some(rounded(*value));
            }
        }
        // Between two looks nothing is known to have changed; after a longer gap it is.
        let reach = (1_000_000 / self.step_us).max(1) as usize;
        let mut last: Option<(usize, f64)> = None;
        for (at, step) in steps.iter_mut().enumerate() {
            match *step {
                Some(value) => last = Some((at, value)),
                None => *step = last.filter(|(seen, _)| at - seen <= reach).map(|(_, value)| value),
            }
        }
        steps
    }
}

/// With four digits, which is more than can be seen.
pub(crate) fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let unit = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Series, parse};

    const SECOND: i64 = 1_000_000;

    fn record(due_us: i64, latency_us: u64, outcome: Outcome) -> Record {
        Record { due_us, latency_us, late_us: 0, outcome }
    }

    #[test]
    fn an_axis_has_few_steps_of_a_round_length_that_cover_all() {
        for seconds in [1, 2, 8, 59, 600, 86_400] {
            let axis = Axis::of(seconds * SECOND);
            assert!(axis.count as i64 <= MOST_STEPS, "{axis:?}");
            assert!(axis.step_us * axis.count as i64 >= seconds * SECOND, "{axis:?}");
            assert!(axis.step_us * (axis.count as i64 - 1) < seconds * SECOND, "{axis:?}");
        }
        assert_eq!(Axis::of(8 * SECOND), Axis { step_us: 50_000, count: 160 });
        assert_eq!(Axis::of(0), Axis { step_us: 10_000, count: 1 });
    }

    #[test]
    fn requests_count_in_the_step_in_which_they_were_due() {
        let axis = Axis { step_us: SECOND / 2, count: 3 };
        let records = [
            record(-1, 9, Outcome::Ok),
            record(0, 100, Outcome::Ok),
            record(499_999, 300, Outcome::Status(502)),
            record(1_000_000, 0, Outcome::Dropped),
            record(1_500_000, 9, Outcome::Ok),
        ];
        let load = axis.load(&records);
        assert_eq!(load.ok, [2.0, 0.0, 0.0]);
        assert_eq!(load.p50_us, [Some(100.0), None, None]);
        assert_eq!(load.p99_us, [Some(300.0), None, None]);
        let errors = [("502", [2.0, 0.0, 0.0]), ("dropped", [0.0, 0.0, 2.0])];
        assert_eq!(load.errors, errors.map(|(name, steps)| (name.to_owned(), steps.to_vec())).into());
    }

    #[test]
    fn growth_is_spread_over_the_time_in_which_it_was_seen() {
        let mut series = Series::default();
        for (at, n) in [(-SECOND, 0), (SECOND, 8), (SECOND + SECOND / 2, 9)] {
            series.push(&"web/sidecar".into(), (at, at), parse("web/sidecar", &format!("n_total {n}")));
        }
        let axis = Axis { step_us: SECOND, count: 3 };
        let rate = axis.rate(&series.growth("web/sidecar", "n_total"));
        assert_eq!(rate, [Some(4.0), Some(1.0), Some(0.0)]);
    }

    #[test]
    fn a_level_holds_for_a_second_after_it_was_seen() {
        let axis = Axis { step_us: SECOND / 2, count: 6 };
        let level = axis.level(&[(-1, 7.0), (SECOND / 2, 3.0), (SECOND / 2 + 1, 4.0)]);
        assert_eq!(level, [None, Some(4.0), Some(4.0), Some(4.0), None, None]);
    }

    #[test]
    fn values_keep_four_digits() {
        for (value, kept) in [(0.0, 0.0), (123_456.0, 123_500.0), (0.012_345_6, 0.012_35), (-7.0, -7.0)] {
            assert_eq!(rounded(value), kept);
        }
    }
}
