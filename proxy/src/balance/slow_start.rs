//! How much of its share a member gets that has just come or come back: caches are cold, and a full
//! share at once would fell it again. Envoy's slow start: `max(min_weight, (age / window)^(1 /
//! aggression))`.

use std::time::Duration;

use crate::config::SlowStart;

/// The share of its weight that a member of this age counts with: from `min_weight` to 1, which it
/// reaches after the window.
pub fn warmth(config: &SlowStart, age: Duration) -> f64 {
    if age >= config.window {
        return 1.0;
    }
    (age.as_secs_f64() / config.window.as_secs_f64()).powf(1.0 / config.aggression).max(config.min_weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_share_grows_from_the_least_to_all() {
        let linear = SlowStart { window: Duration::from_secs(10), min_weight: 0.1, aggression: 1.0 };
        for (seconds, expected) in [(0.0, 0.1), (0.5, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (99.0, 1.0)]
        {
            let share = warmth(&linear, Duration::from_secs_f64(seconds));
            assert!((share - expected).abs() < 1e-9, "{share} after {seconds} s");
        }
        let eager = SlowStart { aggression: 2.0, ..linear };
        assert!((warmth(&eager, Duration::from_millis(2500)) - 0.5).abs() < 1e-9, "the root of a quarter");
    }

    proptest! {
        #[test]
        fn it_never_falls_and_never_leaves_its_bounds(aggression in 0.1f64..10.0, min_weight in 0.01f64..1.0, ages in proptest::collection::vec(0u64..20_000, 2..20)) {
            let config = SlowStart { window: Duration::from_secs(10), min_weight, aggression };
            let mut ages = ages;
            ages.sort_unstable();
            let shares: Vec<_> = ages.iter().map(|age| warmth(&config, Duration::from_millis(*age))).collect();
            prop_assert!(shares.is_sorted());
            prop_assert!(shares.iter().all(|share| (min_weight..=1.0).contains(share)));
        }
    }
}
