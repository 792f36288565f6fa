//! How often what was discovered comes into force: the first change at once, and those that follow
//! closely together. Pure.
//!
//! Each time costs something for every endpoint of a cluster that has changed. A registry in the
//! middle of a roll-out may change hundreds of times a second, and a sidecar must have its
//! processors for requests.

use tokio::time::Instant;

use crate::config::defaults::{DISCOVERY_INTERVAL, DISCOVERY_INTERVAL_MAX, DISCOVERY_SHARE};

/// When the next change may come into force.
#[derive(Debug, Default)]
pub struct Pace {
    waiting: bool,
    next: Option<Instant>,
}

impl Pace {
    /// Something has changed.
    pub fn changed(&mut self) {
        self.waiting = true;
    }

    /// When it is to come into force, if anything has changed since the last time: `now` or later.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.waiting.then(|| self.next.map_or(now, |next| next.max(now)))
    }

    /// All that had changed has come into force, which took from `begun` to `ended`.
    pub fn applied(&mut self, begun: Instant, ended: Instant) {
        let took = ended.saturating_duration_since(begun);
        let rest = took.mul_f64(1.0 / DISCOVERY_SHARE).clamp(DISCOVERY_INTERVAL, DISCOVERY_INTERVAL_MAX);
        *self = Pace { waiting: false, next: Some(begun + rest) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_is_due_at_once_and_those_after_it_together() {
        let (begun, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(pace.due(begun), None);
        pace.changed();
        assert_eq!(pace.due(begun), Some(begun));
        pace.applied(begun, begun);
        assert_eq!(pace.due(begun + ms(1)), None);
        pace.changed();
        pace.changed();
        assert_eq!(pace.due(begun + ms(2)), Some(begun + DISCOVERY_INTERVAL));
        assert_eq!(pace.due(begun + ms(700)), Some(begun + ms(700)), "it is late already");
        pace.applied(begun + ms(700), begun + ms(705));
        pace.changed();
        assert_eq!(pace.due(begun + ms(706)), Some(begun + ms(950)), "a fiftieth of the time, at most");
    }

    proptest! {
        #[test]
        fn no_change_waits_longer_than_a_second_and_the_work_keeps_to_its_share(
            steps in proptest::collection::vec((0..300_u64, 0..40_u64), 1..100),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let (mut now, mut pace, start) = (Instant::now(), Pace::default(), Instant::now());
                let mut worked = Duration::ZERO;
                for (wait, took) in steps {
                    now += ms(wait);
                    pace.changed();
                    let due = pace.due(now).expect("something has changed");
                    prop_assert!(due >= now && due <= now + DISCOVERY_INTERVAL_MAX);
                    let took = ms(took).min(DISCOVERY_INTERVAL_MAX.mul_f64(DISCOVERY_SHARE));
                    (now, worked) = (due + took, worked + took);
                    pace.applied(due, now);
                    let allowed = (now - start).mul_f64(DISCOVERY_SHARE) + took + ms(1);
                    prop_assert!(worked <= allowed, "{worked:?} of {:?}", now - start);
                }
                Ok(())
            })?;
        }
    }
}
