//! Keeps a failure that strikes every request from flooding the log: one line a second, which says
//! how many more there were. Metrics count all of them.

use std::cell::Cell;

use tokio::time::Instant;

use crate::config::defaults::LOG_THROTTLE;

/// Lets one log line through per second.
#[derive(Debug, Default)]
pub struct Throttle {
    quiet_until: Cell<Option<Instant>>,
    withheld: Cell<u64>,
}

impl Throttle {
    /// If a line may be written now: how many were withheld since the last one.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        if self.quiet_until.get().is_some_and(|until| now < until) {
            self.withheld.set(self.withheld.get() + 1);
            return None;
        }
        self.quiet_until.set(Some(now + LOG_THROTTLE));
        Some(self.withheld.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_second_passes_and_says_how_many_did_not() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.admit(now), Some(0));
        for _ in 0..5 {
            assert_eq!(throttle.admit(now + LOG_THROTTLE / 2), None);
        }
        assert_eq!(throttle.admit(now + LOG_THROTTLE), Some(5));
        assert_eq!(throttle.admit(now + 2 * LOG_THROTTLE), Some(0));
    }
}
