//! In which order two revisions are measured.
//!
//! In quads of A B B A or B A A B, drawn by lot: whatever drifts evenly while four slices are
//! measured hits both sides alike, and no rhythm of the machine meets one side more often.

use rand::{Rng, RngExt};

/// One of the two that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What it was.
    Base,
    /// What it is.
    Head,
}

/// Slices in a quad.
pub const QUAD: usize = 4;

/// The sides of `quads` times four slices.
pub fn quads(quads: usize, rng: &mut impl Rng) -> Vec<Side> {
    let (a, b) = (Side::Base, Side::Head);
    (0..quads).flat_map(|_| if rng.random() { [a, b, b, a] } else { [b, a, a, b] }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn a_steady_drift_favours_no_side(n in 1..20_usize, seed: u64) {
            let order = quads(n, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(order.len(), n * QUAD);
            for quad in order.chunks(QUAD) {
                let places = |side| (0..QUAD).filter(|i| quad[*i] == side).sum::<usize>();
                prop_assert_eq!(places(Side::Base), places(Side::Head));
            }
        }
    }

    #[test]
    fn both_sides_come_first_equally_often() {
        let order = quads(1000, &mut StdRng::seed_from_u64(1));
        let first = order.chunks(QUAD).filter(|quad| quad[0] == Side::Base).count();
        assert!((400..600).contains(&first), "{first} of 1000");
    }
}
