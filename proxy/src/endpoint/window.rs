//! How many requests of the last few seconds failed: a ring of buckets, as in Linkerd's
//! success-rate breaker.
//!
//! What is older than the window is forgotten bucket by bucket, so the figure is exact to a tenth
//! of the window. Ten buckets and not one average: an endpoint that was fine for hours must not
//! need hours to look bad.

use std::time::Duration;

use tokio::time::Instant;

/// Buckets of a window. Linkerd's ten.
const BUCKETS: usize = 10;

/// Results of the last few seconds.
#[derive(Debug, Clone, Default)]
pub struct Window {
    buckets: [Tally; BUCKETS],
    /// When the first bucket began, and how long each is; `None` before the first result.
    began: Option<(Instant, Duration)>,
    /// Which bucket since then is the newest.
    newest: u64,
}

/// Results, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All.
    pub requests: u32,
    /// Those that failed.
    pub failures: u32,
}

impl Tally {
    /// The share that did not fail; 1 of none.
    pub fn success_rate(self) -> f64 {
        1.0 - f64::from(self.failures) / f64::from(self.requests.max(1))
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Tally>>(tallies: I) -> Tally {
        tallies.fold(Tally::default(), |all, one| Tally {
            requests: all.requests.saturating_add(one.requests),
            failures: all.failures.saturating_add(one.failures),
        })
    }
}

impl Window {
    /// Adds a result to a window of this `length`.
    pub fn add(&mut self, now: Instant, length: Duration, failed: bool) {
        self.advance(now, length);
        let bucket = &mut self.buckets[(self.newest % BUCKETS as u64) as usize];
        bucket.requests = bucket.requests.saturating_add(1);
        bucket.failures = bucket.failures.saturating_add(u32::from(failed));
    }

    /// The results of the last `length`.
    pub fn tally(&mut self, now: Instant, length: Duration) -> Tally {
        self.advance(now, length);
        self.buckets.iter().copied().sum()
    }

    /// Empties buckets whose time has come again. A window of another length than before begins
    /// anew.
    fn advance(&mut self, now: Instant, length: Duration) {
        let width = (length / BUCKETS as u32).max(Duration::from_nanos(1));
        let began = match self.began {
            Some((began, before)) if before == width => began,
            _ => {
                *self = Window { began: Some((now, width)), ..Window::default() };
                now
            }
        };
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Workers read the clock before they take the lock: a result may be a little older than the
        // newest bucket.
        let current = (nanos(now.saturating_duration_since(began)) / nanos(width)).max(self.newest);
        for bucket in (self.newest + 1..=current).take(BUCKETS) {
            self.buckets[(bucket % BUCKETS as u64) as usize] = Tally::default();
        }
        self.newest = current;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn now() -> Instant {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        clock.expect("a runtime").block_on(async { Instant::now() })
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (mut window, start) = (Window::default(), now());
        window.add(start, LENGTH, true);
        window.add(start + LENGTH / 2, LENGTH, false);
        assert_eq!(window.tally(start + LENGTH / 2, LENGTH), Tally { requests: 2, failures: 1 });
        assert_eq!(window.tally(start + LENGTH, LENGTH), Tally { requests: 1, failures: 0 });
        assert_eq!(window.tally(start + 10 * LENGTH, LENGTH), Tally::default());
        assert_eq!(window.tally(start + 10 * LENGTH, LENGTH).success_rate(), 1.0);
    }

    #[test]
    fn a_window_of_another_length_begins_anew() {
        let (mut window, start) = (Window::default(), now());
        window.add(start, LENGTH, true);
        assert_eq!(window.tally(start, LENGTH / 2), Tally::default());
    }

    proptest! {
        /// Compared with a list of everything: never less than what is younger than nine tenths of
        /// the window, never more than what is younger than the whole.
        #[test]
        fn a_tally_is_exact_to_one_bucket(steps in proptest::collection::vec((0u64..3000, any::<bool>()), 1..100)) {
            let (mut window, mut now) = (Window::default(), now());
            let mut all = Vec::new();
            for (wait, failed) in steps {
                now += Duration::from_millis(wait);
                window.add(now, LENGTH, failed);
                all.push((now, failed));
                let younger = |age: Duration| all.iter().filter(|(at, _)| now - *at < age).count() as u32;
                let tally = window.tally(now, LENGTH);
                prop_assert!(tally.requests >= younger(LENGTH * 9 / 10));
                prop_assert!(tally.requests <= younger(LENGTH));
                prop_assert!(tally.failures <= tally.requests);
            }
        }
    }
}
