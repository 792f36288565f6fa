//! Taking turns by weight: earliest deadline first, Envoy's scheduler of weighted round robin and
//! of weighted least request. The next turn of a member comes `1 / weight` after its last one. So a
//! member of weight 3 comes three times as often as one of weight 1, evenly spread and not in runs.
//!
//! The first turns are spread at random; otherwise all sidecars that learn of a member at the same
//! time would begin with the same one. A member that cannot be picked when its turn comes loses the
//! turn. The first pick draws as many random numbers as there are members, later ones none. A pick
//! takes `O(log n)` for each turn that is taken or lost.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rand::{Rng, RngExt};

/// Whose turn it is.
#[derive(Debug)]
pub struct Edf {
    turns: BinaryHeap<Scheduled>,
    begun: bool,
}

#[derive(Debug, Clone, Copy)]
struct Scheduled {
    at: f64,
    position: u32,
}

// The heap has the largest on top, so the earliest is the largest.
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.position.cmp(&self.position))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl Edf {
    /// For the members at these positions.
    pub fn new(positions: &[u32]) -> Self {
        Edf {
            turns: positions.iter().map(|position| Scheduled { at: 0.0, position: *position }).collect(),
            begun: false,
        }
    }

    /// The next that is admitted, looking no longer than for one round. `weight` is looked at when
    /// the following turn is set, so it may depend on how many requests the member serves; it is
    /// positive.
    pub fn next(
        &mut self,
        rng: &mut impl Rng,
        weight: impl Fn(usize) -> f64,
        admits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if !self.begun {
            self.begun = true;
            let mut turns = std::mem::take(&mut self.turns).into_vec();
            // In the order of positions, whatever the heap made of it.
            turns.sort_unstable_by_key(|turn| turn.position);
            for turn in &mut turns {
                turn.at = rng.random::<f64>() / weight(turn.position as usize);
            }
            self.turns = turns.into();
        }
        for _ in 0..self.turns.len() {
            let mut turn = self.turns.peek_mut()?;
            let position = turn.position as usize;
            turn.at += 1.0 / weight(position);
            drop(turn);
            if admits(position) {
                return Some(position);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::RngTree;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn in_every_stretch_of_turns_each_has_its_share_give_or_take_one_or_two(
            weights in proptest::collection::vec(1u32..10, 1..8), seed: u64, skip in 0usize..50,
        ) {
            let mut edf = Edf::new(&(0..weights.len() as u32).collect::<Vec<_>>());
            let mut rng = RngTree::new(seed).rng();
            let mut next = || edf.next(&mut rng, |p| f64::from(weights[p]), |_| true).unwrap();
            for _ in 0..skip {
                next();
            }
            let total = weights.iter().sum::<u32>();
            let mut counts = vec![0; weights.len()];
            for _ in 0..total * 3 {
                counts[next()] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert!(u32::abs_diff(*count, 3 * weight) <= 2, "{counts:?} for {weights:?}");
            }
        }

        #[test]
        fn who_is_not_admitted_has_no_turn(admitted in proptest::collection::vec(any::<bool>(), 1..20), seed: u64) {
            let mut edf = Edf::new(&(0..admitted.len() as u32).collect::<Vec<_>>());
            let mut rng = RngTree::new(seed).rng();
            for _ in 0..100 {
                let next = edf.next(&mut rng, |_| 1.0, |p| admitted[p]);
                prop_assert_eq!(next.is_some(), admitted.contains(&true));
                prop_assert!(next.is_none_or(|p| admitted[p]));
            }
        }
    }

    #[test]
    fn two_sidecars_do_not_begin_with_the_same_member() {
        let first = |seed| Edf::new(&[0, 1, 2, 3]).next(&mut RngTree::new(seed).rng(), |_| 1.0, |_| true);
        let firsts: std::collections::BTreeSet<_> = (0..50).map(first).collect();
        assert_eq!(firsts.len(), 4);
    }
}
