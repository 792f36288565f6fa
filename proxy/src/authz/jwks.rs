//! The keys of issuers, and when they are fetched.
//!
//! [`IssuerKeys`] is what workers read; the control thread writes it. [`Schedule`] says when to
//! fetch: at its interval, sooner if a token names a key that is not known, but not more often than
//! [`JWKS_UNKNOWN_KEY`], and after a failure with growing waits, in which the old keys stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rand::{Rng, RngExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::defaults::{JWKS_RETRY, JWKS_UNKNOWN_KEY};
use crate::jwk_set::KeySet;

/// The keys of one issuer as they are known now. Shared by all workers and the control thread.
#[derive(Debug, Default)]
pub struct IssuerKeys {
    set: ArcSwapOption<KeySet>,
    /// A token named a key that is not known.
    missed: Notify,
    /// Whether somebody keeps them fresh.
    followed: AtomicBool,
    /// Why they are not as new as they should be, if they are not.
    trouble: ArcSwapOption<String>,
}

impl IssuerKeys {
    /// The keys, if there are any.
    pub fn set(&self) -> Option<Arc<KeySet>> {
        self.set.load_full()
    }

    /// Replaces them, or takes them away. There is no trouble any more.
    pub fn put(&self, set: Option<KeySet>) {
        self.set.store(set.map(Arc::new));
        self.trouble.store(None);
    }

    /// Notes why they are not as new as they should be.
    pub fn trouble(&self, why: String) {
        self.trouble.store(Some(Arc::new(why)));
    }

    /// Why they are not as new as they should be; `None` if they are.
    pub fn in_trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    /// A token named a key that is not known.
    pub(super) fn miss(&self) {
        self.missed.notify_one();
    }

    /// Waits until a token names a key that is not known.
    pub async fn missed(&self) {
        self.missed.notified().await;
    }

    /// Whether nobody kept them fresh so far; from now on somebody does.
    pub fn follow(&self) -> bool {
        !self.followed.swap(true, Ordering::Relaxed)
    }
}

/// When a key set is fetched.
#[derive(Debug)]
pub struct Schedule {
    refresh: Duration,
    stale_after: Option<Duration>,
    due: Instant,
    /// When it was fetched last, whatever came of it.
    last: Option<Instant>,
    /// When it was fetched with success.
    good: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// Of a set that is fetched at once, and then every `refresh`.
    pub fn new(refresh: Duration, stale_after: Option<Duration>, now: Instant) -> Self {
        Schedule { refresh, stale_after, due: now, last: None, good: None, failures: 0 }
    }

    /// When to fetch next.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// When the keys are too old to be used.
    pub fn stale(&self) -> Option<Instant> {
        Some(self.good? + self.stale_after?)
    }

    /// It was fetched.
    pub fn fetched(&mut self, now: Instant, rng: &mut impl Rng) {
        self.last = Some(now);
        self.good = Some(now);
        self.failures = 0;
        // A little early, and not all sidecars at once.
        self.due = now + self.refresh.mul_f64(rng.random_range(0.9..1.0));
    }

    /// It could not be fetched.
    pub fn failed(&mut self, now: Instant, rng: &mut impl Rng) {
        self.last = Some(now);
        let (first, longest) = JWKS_RETRY;
        let wait = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        self.due = now + wait.min(self.refresh).mul_f64(rng.random_range(0.5..1.0));
    }

    /// A token named a key that is not known: perhaps there is a new one.
    pub fn missed(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| last + JWKS_UNKNOWN_KEY).max(now);
        self.due = self.due.min(earliest);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_cause_a_fetch_but_no_storm() {
        let (begun, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(Duration::from_secs(600), None, begun);
        assert_eq!(schedule.due(), begun);
        schedule.fetched(begun, &mut rng);
        assert!(schedule.due() >= at(540) && schedule.due() <= at(600));
        let mut fetches = 0;
        for second in 0..120 {
            schedule.missed(at(second));
            if schedule.due() <= at(second) {
                fetches += 1;
                schedule.fetched(at(second), &mut rng);
            }
        }
        assert_eq!(fetches, 3, "at 30, 60 and 90 s");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_keys_grow_stale() {
        let (begun, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let (refresh, stale) = (Duration::from_secs(600), Some(Duration::from_secs(3600)));
        let mut schedule = Schedule::new(refresh, stale, begun);
        assert_eq!(schedule.stale(), None);
        schedule.fetched(begun, &mut rng);
        assert_eq!(schedule.stale(), Some(begun + Duration::from_secs(3600)));
        let mut waits = Vec::new();
        for _ in 0..10 {
            let now = schedule.due();
            schedule.failed(now, &mut rng);
            waits.push(schedule.due() - now);
        }
        assert!(waits[0] <= Duration::from_secs(1) && waits[9] >= Duration::from_secs(30), "{waits:?}");
        assert_eq!(schedule.stale(), Some(begun + Duration::from_secs(3600)), "failures prolong nothing");
    }
}
