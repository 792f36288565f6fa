//! Whether an endpoint may be picked, and since when: the little that a balancer reads of every
//! endpoint, in atomics, so that it need not lock a thousand of them.
//!
//! What decides (outlier detection, a health check) stays where it is; whenever that has changed,
//! the endpoint writes down the moment from which it may be picked, and [`Changes`] counts. A
//! balancer that has seen this count before, and for whom no such moment has passed, knows that its
//! picture of the cluster still holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How often the availability of any endpoint of a cluster has changed. Shared by the cluster's
/// endpoints; outlives snapshots as they do.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<AtomicU64>);

impl Changes {
    /// The count now.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// From which moment requests may go somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AvailableFrom {
    /// They may.
    Open,
    /// One may at this moment, unless something happens before.
    At(Instant),
    /// Not before something happens.
    Never,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Availability {
    made: Instant,
    /// Nanoseconds from `made`; [`OPEN`] and [`NEVER`] are no moments.
    opens: AtomicU64,
    /// Since when it takes requests again, or for the first time although its cluster is older:
    /// nanoseconds from `made`, and one more. Zero: for as long as anybody knows.
    fresh: AtomicU64,
    /// See [`Availability::stale_since`]: nanoseconds from `made`, and one more. Zero: never.
    stale_since: AtomicU64,
    changes: Changes,
}

const OPEN: u64 = 0;
const NEVER: u64 = u64::MAX;

impl Availability {
    pub(super) fn new(now: Instant, changes: Changes, added: bool) -> Self {
        let fresh = u64::from(added).into();
        Availability { made: now, opens: OPEN.into(), fresh, stale_since: 0.into(), changes }
    }

    /// Writes down what is true now. Must be called under the lock of what decides it.
    pub(super) fn set(&self, opens: AvailableFrom, now: Instant) {
        let opens = match opens {
            AvailableFrom::Open => OPEN,
            // A moment is not OPEN, even if it is the first.
            AvailableFrom::At(at) => self.offset(at).clamp(OPEN + 1, NEVER - 1),
            AvailableFrom::Never => NEVER,
        };
        if self.opens.load(Ordering::Relaxed) == opens {
            return;
        }
        if opens == OPEN {
            self.fresh.store(self.offset(now) + 1, Ordering::Relaxed);
        }
        self.opens.store(opens, Ordering::Release);
        self.changes.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        let opens = self.opens.load(Ordering::Acquire);
        opens == OPEN || self.offset(now) >= opens
    }

    /// The moment after `now` from which it will be open.
    pub(super) fn will_open(&self, now: Instant) -> Option<Instant> {
        let opens = self.opens.load(Ordering::Acquire);
        (opens != NEVER && opens > self.offset(now)).then(|| self.made + Duration::from_nanos(opens))
    }

    /// How long it has taken requests, if that is known.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        let since = self.fresh.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_nanos(self.offset(now).saturating_sub(since)))
    }

    /// What was open to it before `at` is not to be trusted any more.
    pub(super) fn doubt(&self, at: Instant) {
        self.stale_since.fetch_max(self.offset(at) + 1, Ordering::Relaxed);
    }

    /// Since when what is open to it can be trusted; `None`: it always could.
    pub(super) fn stale_since(&self) -> Option<Instant> {
        let at = self.stale_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.made + Duration::from_nanos(at))
    }

    fn offset(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.made).as_nanos()).unwrap_or(NEVER - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn every_change_is_counted_and_nothing_else() {
        let (now, changes) = (Instant::now(), Changes::default());
        let availability = Availability::new(now, changes.clone(), false);
        availability.set(AvailableFrom::Open, now);
        assert_eq!(
            (changes.count(), availability.is_open(now), availability.will_open(now)),
            (0, true, None)
        );
        availability.set(AvailableFrom::At(now + S), now);
        availability.set(AvailableFrom::At(now + S), now);
        assert_eq!((changes.count(), availability.is_open(now)), (1, false));
        assert_eq!(availability.will_open(now), Some(now + S));
        assert!(availability.is_open(now + S), "the moment needs no change");
        assert_eq!((changes.count(), availability.will_open(now + S)), (1, None));
        availability.set(AvailableFrom::At(now), now + S);
        assert_eq!(changes.count(), 2, "a moment is a moment, even if it is the first");
        let far = now + Duration::from_secs(1_000_000_000_000);
        availability.set(AvailableFrom::At(far), now + S);
        assert!(availability.will_open(now).is_some(), "and even if it is beyond what can be counted");
        let availability = Availability::new(now, changes.clone(), false);
        let before = changes.count();
        availability.set(AvailableFrom::Never, now + S);
        assert_eq!((changes.count(), availability.is_open(now + 60 * S)), (before + 1, false));
        assert_eq!(availability.will_open(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_fresh_when_it_was_added_or_is_back_and_not_when_it_was_always_there() {
        let now = Instant::now();
        let always = Availability::new(now, Changes::default(), false);
        assert_eq!(always.age(now + S), None);
        let added = Availability::new(now, Changes::default(), true);
        assert_eq!(added.age(now + S), Some(S));
        always.set(AvailableFrom::At(now + S), now);
        assert_eq!(always.age(now + S), None, "a probe is not a return");
        always.set(AvailableFrom::Open, now + 2 * S);
        assert_eq!(always.age(now + 5 * S), Some(3 * S));
    }
}
