//! Keeps a failure that strikes every request from flooding the log: for each kind one line a
//! second, which says how many more there were. Metrics count all of them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::config::defaults::LOG_THROTTLE;

/// Lets one log line of each kind through per second, so that whoever makes many of one kind hides
/// no other.
#[derive(Debug, Default)]
pub struct Throttle(RefCell<BTreeMap<&'static str, Kept>>);

/// What is known of a kind.
#[derive(Debug)]
struct Kept {
    quiet_until: Instant,
    withheld: u64,
}

impl Throttle {
    /// If a line of this kind may be written now: how many were withheld since the last one. Kinds
    /// are few, and known when the program is written.
    pub fn admit(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.borrow_mut();
        let kept = kinds.entry(kind).or_insert(Kept { quiet_until: now, withheld: 0 });
        if now < kept.quiet_until {
            kept.withheld += 1;
            return None;
        }
        kept.quiet_until = now + LOG_THROTTLE;
        Some(std::mem::take(&mut kept.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_of_each_kind_passes_a_second_and_says_how_many_did_not() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.admit("denied", now), Some(0));
        for _ in 0..5 {
            assert_eq!(throttle.admit("denied", now + LOG_THROTTLE / 2), None);
        }
        assert_eq!(throttle.admit("not_secured", now + LOG_THROTTLE / 2), Some(0));
        assert_eq!(throttle.admit("denied", now + LOG_THROTTLE), Some(5));
        assert_eq!(throttle.admit("denied", now + 2 * LOG_THROTTLE), Some(0));
    }
}
