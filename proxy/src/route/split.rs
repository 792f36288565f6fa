//! Which of several clusters gets a request, by weight.

use rand::{Rng, RngExt};

/// Weights, added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The sum of the weights up to and with each position.
    sums: Vec<u32>,
    /// The only position with a weight, if there is only one.
    only: Option<usize>,
}

impl Split {
    /// A split by these weights, of which one at least is not 0. Their sum must fit 32 bits.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let mut sum = 0;
        let mut weighty = Vec::new();
        let mut sums = Vec::new();
        for (position, weight) in weights.into_iter().enumerate() {
            sum += weight;
            sums.push(sum);
            if weight > 0 {
                weighty.push(position);
            }
        }
        Split { sums, only: if let [one] = weighty[..] { Some(one) } else { None } }
    }

    /// A position, each with the probability of its weight. One draw from `rng`, or none if there
    /// is no choice.
    pub fn pick(&self, rng: &mut impl Rng) -> usize {
        if let Some(only) = self.only {
            return only;
        }
        let Some(total) = self.sums.last().copied().filter(|total| *total > 0) else { return 0 };
        let drawn = rng.random_range(0..total);
        self.sums.partition_point(|sum| *sum <= drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::RngTree;
    use proptest::prelude::*;

    #[test]
    fn a_split_without_a_choice_draws_nothing() {
        let (mut rng, untouched) = (RngTree::new(1).rng(), RngTree::new(1).rng());
        assert_eq!(Split::new([0, 7, 0]).pick(&mut rng), 1);
        assert_eq!(rng, untouched);
        assert!(Split::new([1, 1]).pick(&mut rng) < 2);
        assert_ne!(rng, untouched);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_position_gets_the_share_of_its_weight(
            weights in prop::collection::vec(0_u32..20, 1..6),
            seed in any::<u64>(),
        ) {
            const DRAWS: u32 = 4000;
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let split = Split::new(weights.clone());
            let mut rng = RngTree::new(seed).rng();
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..DRAWS {
                counts[split.pick(&mut rng)] += 1;
            }
            for (weight, count) in weights.iter().zip(&counts) {
                let share = f64::from(*weight) / f64::from(total);
                let expected = share * f64::from(DRAWS);
                // Six standard deviations of a binomial distribution: one false alarm in 10^8
                // shares.
                let bound = 6.0 * (expected * (1.0 - share)).sqrt();
                prop_assert!((f64::from(*count) - expected).abs() <= bound, "{weights:?} {counts:?}");
            }
        }
    }
}
