//! How long to wait before a server that failed is asked again: exponential, with jitter, so that a
//! fleet whose registry or authority comes back does not ask it all at once. Pure.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Doubles from a shortest to a longest wait; each is drawn from the upper half of its step ("equal
/// jitter", Brooker 2015): full jitter would ask a dead server for its health at once every so
/// often.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    pub fn new((first, longest): (Duration, Duration)) -> Self {
        Backoff { first, longest, failures: 0 }
    }

    /// The wait after one more failure.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let step = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
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
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const LIMITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

    proptest! {
        #[test]
        fn waits_double_up_to_the_longest_and_keep_at_least_half(seed: u64, failures in 1..80_u32) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut backoff = Backoff::new(LIMITS);
            let mut step = LIMITS.0;
            for _ in 0..failures {
                let wait = backoff.next(&mut rng);
                prop_assert!(step / 2 <= wait && wait <= step, "{wait:?} of {step:?}");
                step = (step * 2).min(LIMITS.1);
            }
            backoff.reset();
            prop_assert!(backoff.next(&mut rng) <= LIMITS.0);
        }
    }
}
