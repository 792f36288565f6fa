//! The members that may be picked now, to be drawn by weight.
//!
//! Where all weights are equal, as they mostly are, a draw is an index. Else it is a binary search
//! in their running sums: exact for every weight, ten steps among a thousand, and cheap to make
//! anew when a member comes or goes.

use rand::{Rng, RngExt};

/// Positions of members, with their weights.
#[derive(Debug, Default)]
pub struct Shares {
    positions: Box<[u32]>,
    /// Running sums of the weights; empty if all are equal.
    sums: Box<[u64]>,
}

impl Shares {
    /// Of these members: their positions, and their weights, which are at least 1.
    pub fn new(members: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let (positions, weights): (Vec<u32>, Vec<u32>) = members.into_iter().unzip();
        let sum = |sum: &mut u64, weight: &u32| {
            *sum += u64::from(*weight);
            Some(*sum)
        };
        let sums = if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            Box::default()
        } else {
            weights.iter().scan(0, sum).collect()
        };
        Shares { positions: positions.into(), sums }
    }

    /// The positions, in the order in which they were given.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// One of them by weight; the first of what [`Shares::draw_two`] draws.
    pub fn draw(&self, rng: &mut impl Rng) -> Option<usize> {
        let Some(total) = self.sums.last() else {
            let n = self.positions.len();
            return (n > 0).then(|| self.positions[rng.random_range(0..n)] as usize);
        };
        Some(self.positions[self.index_of(rng.random_range(0..*total))] as usize)
    }

    /// Two different ones, each by weight among those that are left; `None` if there are fewer.
    /// Always two draws.
    pub fn draw_two(&self, rng: &mut impl Rng) -> Option<(usize, usize)> {
        let n = self.positions.len();
        if n < 2 {
            return None;
        }
        let (first, second) = match self.sums.last() {
            None => {
                let first = rng.random_range(0..n);
                (first, (first + rng.random_range(1..n)) % n)
            }
            Some(total) => {
                let first = self.index_of(rng.random_range(0..*total));
                let before = if first == 0 { 0 } else { self.sums[first - 1] };
                let width = self.sums[first] - before;
                // As if the first one's part of the line had been cut out.
                let at = rng.random_range(0..total - width);
                (first, self.index_of(if at < before { at } else { at + width }))
            }
        };
        Some((self.positions[first] as usize, self.positions[second] as usize))
    }

    fn index_of(&self, at: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::RngTree;
    use proptest::prelude::*;

    /// Five standard deviations of a binomial distribution: wrong once in two million checks.
    fn is_near(count: u32, of: u32, share: f64) -> bool {
        let (n, mean) = (f64::from(of), f64::from(of) * share);
        (f64::from(count) - mean).abs() <= 5.0 * (n * share * (1.0 - share)).sqrt() + 1.0
    }

    #[test]
    fn nothing_is_drawn_from_nothing_and_no_pair_from_one() {
        let mut rng = RngTree::new(1).rng();
        assert_eq!(Shares::new([]).draw(&mut rng), None);
        assert_eq!(Shares::new([(7, 3)]).draw(&mut rng), Some(7));
        assert_eq!(Shares::new([(7, 3)]).draw_two(&mut rng), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn members_are_drawn_by_weight_and_pairs_are_of_two(weights in proptest::collection::vec(1u32..20, 2..8), seed: u64) {
            const DRAWS: u32 = 4000;
            let shares = Shares::new((0..).zip(weights.iter().copied()));
            let mut rng = RngTree::new(seed).rng();
            let total = f64::from(weights.iter().sum::<u32>());
            let (mut one, mut first, mut second) = (vec![0; weights.len()], vec![0; weights.len()], vec![0; weights.len()]);
            for _ in 0..DRAWS {
                one[shares.draw(&mut rng).unwrap()] += 1;
                let (a, b) = shares.draw_two(&mut rng).unwrap();
                prop_assert_ne!(a, b);
                first[a] += 1;
                second[b] += 1;
            }
            for (i, weight) in weights.iter().enumerate() {
                let share = f64::from(*weight) / total;
                prop_assert!(is_near(one[i], DRAWS, share), "{one:?}");
                prop_assert!(is_near(first[i], DRAWS, share), "{first:?}");
                // Any other one comes first, and then this one among what is left.
                let others = weights.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, w)| f64::from(*w));
                let after: f64 = others.map(|w| w / total * f64::from(*weight) / (total - w)).sum();
                prop_assert!(is_near(second[i], DRAWS, after), "{second:?}");
            }
        }
    }
}
