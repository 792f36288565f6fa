//! From an interval and a threshold to a verdict.

use serde::{Deserialize, Serialize};

use super::Interval;

/// What is said of one measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It costs more, beyond the threshold.
    Regression,
    /// The interval reaches across the threshold.
    NotEnoughEvidence,
    /// It costs less, beyond the threshold.
    Improvement,
    /// Whatever it is, it is within the threshold.
    NoChange,
}

impl Verdict {
    /// For tables.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Regression => "REGRESSION",
            Verdict::NotEnoughEvidence => "not enough evidence",
            Verdict::Improvement => "improvement",
            Verdict::NoChange => "no change",
        }
    }
}

/// Compares `interval`, of how many times the head costs what the base costs, with `threshold`,
/// which is above 1. The same distance counts in both directions.
pub fn judge(interval: Interval, threshold: f64) -> Verdict {
    let (most, least) = (threshold, 1.0 / threshold);
    if interval.low > most {
        Verdict::Regression
    } else if interval.high < least {
        Verdict::Improvement
    } else if interval.low >= least && interval.high <= most {
        Verdict::NoChange
    } else {
        Verdict::NotEnoughEvidence
    }
}

/// The probability of error that is left to one interval, if there are `measures` of them and each
/// may be looked at up to `looks` times, and all together may err with probability `error`
/// (Bonferroni). It asks nothing about how measures depend on each other, and they do.
pub fn share_of(error: f64, measures: usize, looks: usize) -> f64 {
    error / (measures.max(1) * looks.max(1)) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::statistics::interval;

    #[test]
    fn an_interval_is_judged_by_both_of_its_bounds() {
        for (low, high, verdict) in [
            (1.021, 1.04, Verdict::Regression),
            (1.019, 1.04, Verdict::NotEnoughEvidence),
            (0.99, 1.019, Verdict::NoChange),
            (0.97, 1.0, Verdict::NotEnoughEvidence),
            (0.9, 0.979, Verdict::Improvement),
            (0.5, 2.0, Verdict::NotEnoughEvidence),
            (f64::NEG_INFINITY, f64::INFINITY, Verdict::NotEnoughEvidence),
        ] {
            let interval = Interval { low, estimate: f64::midpoint(low, high), high };
            assert_eq!(judge(interval, 1.02), verdict, "{low} to {high}");
        }
    }

    #[test]
    fn what_was_counted_always_has_a_verdict() {
        for (ratio, verdict) in
            [(1.0201, Verdict::Regression), (1.02, Verdict::NoChange), (0.97, Verdict::Improvement)]
        {
            assert_eq!(judge(Interval::exact(ratio), 1.02), verdict);
        }
    }

    #[test]
    fn many_measures_at_many_looks_rarely_raise_a_false_alarm() {
        // 30 runs of 4 measures that did not change, each looked at three times, with blocks of
        // two percent of noise and a threshold of half a percent.
        let (measures, sizes) = (4, [8, 14, 24]);
        let error = share_of(0.05, measures, sizes.len());
        let mut rng = StdRng::seed_from_u64(15);
        let mut alarms = 0;
        for _ in 0..30 {
            let mut alarm = false;
            for _ in 0..measures {
                let all: Vec<f64> =
                    (0..24).map(|_| 0.02 * (rng.random::<f64>() + rng.random::<f64>() - 1.0)).collect();
                for n in sizes {
                    let ratio = interval(&all[..n], error, &mut rng).map(f64::exp);
                    alarm |= judge(ratio, 1.005) == Verdict::Regression;
                }
            }
            alarms += u32::from(alarm);
        }
        assert!(alarms <= 2, "{alarms} alarms in 30 runs");
    }

    proptest! {
        #[test]
        fn the_other_way_round_it_is_the_opposite(low in 0.8..1.2_f64, width in 0.0..0.1_f64) {
            let interval = Interval { low, estimate: low + width / 2.0, high: low + width };
            let turned = Interval { low: 1.0 / interval.high, estimate: 1.0, high: 1.0 / interval.low };
            let opposite = match judge(interval, 1.01) {
                Verdict::Regression => Verdict::Improvement,
                Verdict::Improvement => Verdict::Regression,
                other => other,
            };
            prop_assert_eq!(judge(turned, 1.01), opposite);
        }

        #[test]
        fn a_higher_threshold_makes_no_regression(low in 0.9..1.2_f64, width in 0.0..0.1_f64, by in 0.0..0.1_f64) {
            let interval = Interval { low, estimate: low, high: low + width };
            if judge(interval, 1.02 + by) == Verdict::Regression {
                prop_assert_eq!(judge(interval, 1.02), Verdict::Regression);
            }
        }
    }
}
