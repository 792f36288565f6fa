//! How long to wait before a registry or a name server that failed is asked again: exponential,
//! with jitter, so that a fleet whose registry comes back does not ask it all at once. Pure.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::config::defaults::DISCOVERY_BACKOFF;

/// Doubles from [`DISCOVERY_BACKOFF`]'s first to its second; each wait is drawn from the upper half
/// of its step ("equal jitter", Brooker 2015): full jitter would ask a dead server for its health
/// at once every so often.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let (first, longest) = DISCOVERY_BACKOFF;
        let step = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::RngTree;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_double_up_to_ten_seconds_and_keep_at_least_half(seed: u64, failures in 1..80_u32) {
            let mut rng = RngTree::new(seed).rng();
            let mut backoff = Backoff::default();
            let mut step = DISCOVERY_BACKOFF.0;
            for _ in 0..failures {
                let wait = backoff.next(&mut rng);
                prop_assert!(step / 2 <= wait && wait <= step, "{wait:?} of {step:?}");
                step = (step * 2).min(DISCOVERY_BACKOFF.1);
            }
            backoff.reset();
            prop_assert!(backoff.next(&mut rng) <= DISCOVERY_BACKOFF.0);
        }
    }
}
