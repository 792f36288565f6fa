//! Confidence intervals by the bootstrap.
//!
//! The estimate is the 20 % trimmed mean: on a machine with other work, some blocks are far off,
//! and a plain mean would follow them. Its interval is the symmetric bootstrap-t (Hall, *On
//! symmetric bootstrap confidence intervals*, 1988; Wilcox, *Introduction to Robust Estimation*,
//! section 4.4.4): resamples tell how many standard errors the estimate of a sample of this shape
//! and size is off, which for a handful of blocks is more than the normal distribution says. The
//! percentile bootstrap would be too narrow there.

use rand::{Rng, RngExt};

/// Share that is cut off at each end.
const TRIM: f64 = 0.2;
/// Resamples that lie beyond the bounds: fewer would leave the bounds to chance.
const IN_THE_TAIL: f64 = 25.0;
/// Resamples at least and at most.
const RESAMPLES: (f64, f64) = (1_000.0, 200_000.0);
/// Blocks without which no bound is given: two are trimmed, and three left do not tell their shape.
pub const FEWEST: usize = 6;

/// An estimate with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Trimmed mean.
    pub estimate: f64,
    /// Upper bound.
    pub high: f64,
}

impl Interval {
    /// Of something that was counted, which has no bounds but itself.
    pub fn exact(value: f64) -> Self {
        Interval { low: value, estimate: value, high: value }
    }

    /// With `f`, which grows, of each number.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Interval { low: f(self.low), estimate: f(self.estimate), high: f(self.high) }
    }
}

/// The trimmed mean of `values` and the bounds that miss the true one with probability `error`,
/// both sides together. With fewer than [`FEWEST`] values the bounds are infinite.
pub fn interval(values: &[f64], error: f64, rng: &mut impl Rng) -> Interval {
    let mut sorted = values.to_vec();
    let (estimate, deviation) = trimmed(&mut sorted);
    if values.len() < FEWEST {
        return Interval { low: f64::NEG_INFINITY, estimate, high: f64::INFINITY };
    }
    if deviation == 0.0 {
        return Interval::exact(estimate);
    }
    let resamples = (IN_THE_TAIL / error).clamp(RESAMPLES.0, RESAMPLES.1) as usize;
    let mut off = Vec::with_capacity(resamples);
    let mut sample = vec![0.0; values.len()];
    for _ in 0..resamples {
        sample.fill_with(|| values[rng.random_range(0..values.len())]);
        let (of_sample, its_deviation) = trimmed(&mut sample);
        let distance = (of_sample - estimate).abs();
        // A sample that happens to have no spread says nothing of how far off it is: it counts as
        // farther than any, so that the interval is rather too wide.
        off.push(if distance == 0.0 { 0.0 } else { distance / its_deviation });
    }
    off.sort_by(f64::total_cmp);
    let reach = super::quantile(&off, 1.0 - error) * deviation;
    Interval { low: estimate - reach, estimate, high: estimate + reach }
}

/// The trimmed mean and its standard error, from the winsorised variance (Tukey and McLaughlin,
/// 1963). Sorts `values`.
fn trimmed(values: &mut [f64]) -> (f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    let (n, cut) = (values.len(), (TRIM * values.len() as f64) as usize);
    let kept = &values[cut..n - cut];
    let mean = kept.iter().sum::<f64>() / kept.len() as f64;
    let (least, most) = (kept[0], kept[kept.len() - 1]);
    let ends = cut as f64;
    let winsorised = (kept.iter().sum::<f64>() + ends * (least + most)) / n as f64;
    let square = |value: f64| (value - winsorised).powi(2);
    let squares = kept.iter().map(|v| square(*v)).sum::<f64>() + ends * (square(least) + square(most));
    let variance = squares / (n - 1).max(1) as f64;
    (mean, variance.sqrt() / ((1.0 - 2.0 * cut as f64 / n as f64) * (n as f64).sqrt()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn normal(rng: &mut StdRng) -> f64 {
        let (a, b): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// What blocks look like on a machine with other work: one in ten is five times as far off.
    fn contaminated(rng: &mut StdRng) -> f64 {
        let scale = if rng.random_bool(0.1) { 0.05 } else { 0.01 };
        scale * normal(rng)
    }

    /// How many of `runs` intervals around `n` values miss the true one, 0.
    fn misses(n: usize, error: f64, runs: u32, draw: impl Fn(&mut StdRng) -> f64) -> u32 {
        let mut rng = StdRng::seed_from_u64(15);
        (0..runs)
            .map(|_| {
                let values: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
                let found = interval(&values, error, &mut rng);
                u32::from(found.low > 0.0 || found.high < 0.0)
            })
            .sum()
    }

    #[test]
    fn nineteen_of_twenty_intervals_hold_the_true_value() {
        for n in [10, 24] {
            // 300 runs at 5 %: 15 expected, and a deviation of 4.
            let normal = misses(n, 0.05, 300, |rng| 0.01 * normal(rng));
            assert!((3..=27).contains(&normal), "{n} normal values: {normal} of 300 missed");
            let heavy = misses(n, 0.05, 300, contaminated);
            assert!(heavy <= 27, "{n} values with outliers: {heavy} of 300 missed");
        }
    }

    #[test]
    fn a_strict_interval_misses_more_rarely_than_it_may() {
        // At half a percent, 200 runs may miss once.
        let missed = misses(12, 0.005, 200, contaminated);
        assert!(missed <= 3, "{missed} of 200");
    }

    #[test]
    fn outliers_move_the_estimate_little() {
        let mut values: Vec<f64> = (0..20).map(|i| f64::from(i % 5) * 1e-3).collect();
        values[3] = 10.0;
        values[17] = 12.0;
        let found = interval(&values, 0.05, &mut StdRng::seed_from_u64(1));
        assert!((0.001..0.004).contains(&found.estimate), "{found:?}");
    }

    #[test]
    fn few_values_have_no_bounds() {
        let found = interval(&[1.0; FEWEST - 1], 0.05, &mut StdRng::seed_from_u64(1));
        assert_eq!((found.low, found.estimate, found.high), (f64::NEG_INFINITY, 1.0, f64::INFINITY));
    }

    #[test]
    fn values_without_spread_are_exact() {
        let found = interval(&[0.02; 8], 0.01, &mut StdRng::seed_from_u64(1));
        assert_eq!(found, Interval::exact(found.estimate));
        assert!((found.estimate - 0.02).abs() < 1e-12);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_interval_holds_its_estimate_and_moves_with_the_values(
            values in prop::collection::vec(-1.0..1.0_f64, 6..30), shift in -1.0..1.0_f64, seed: u64,
        ) {
            let found = interval(&values, 0.05, &mut StdRng::seed_from_u64(seed));
            prop_assert!(found.low <= found.estimate && found.estimate <= found.high);
            let moved: Vec<f64> = values.iter().map(|v| v + shift).collect();
            let moved = interval(&moved, 0.05, &mut StdRng::seed_from_u64(seed));
            prop_assert!((moved.estimate - found.estimate - shift).abs() < 1e-9);
        }

        #[test]
        fn a_stricter_interval_is_no_narrower(
            values in prop::collection::vec(-1.0..1.0_f64, 6..30), seed: u64,
        ) {
            let width = |error| {
                let found = interval(&values, error, &mut StdRng::seed_from_u64(seed));
                found.high - found.low
            };
            // Chance draws other resamples, so the same width may come out a little smaller.
            prop_assert!(width(0.01) >= 0.8 * width(0.1));
        }
    }
}
