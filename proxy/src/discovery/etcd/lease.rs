//! When to register, to renew and to withdraw: what a lease needs, one step at a time. Pure.
//!
//! Invariants: nothing is granted while a lease may still be alive, so no app stands in the
//! registry under two leases; what is not wanted is withdrawn before anything else; a renewal is
//! due after a third of the lease; failures wait as they are told to.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::LeaseId;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseStep {
    /// Ask for a lease.
    Grant,
    /// Put the document under the lease.
    Publish(LeaseId),
    /// Renew it.
    Renew(LeaseId),
    /// End it.
    Withdraw(LeaseId),
    /// Nothing, until then or until something else is wanted.
    Wait(Option<Instant>),
}

/// A registration in the course of time.
#[derive(Debug, Default)]
pub struct Lease {
    wanted: bool,
    held: Option<GrantedLease>,
    /// No step before this, since the last one failed.
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct GrantedLease {
    id: LeaseId,
    ttl: Duration,
    published: bool,
    renew_at: Instant,
}

impl Lease {
    /// Whether the app should stand in the registry. A change of mind does not wait for a failure's
    /// time.
    pub fn want(&mut self, wanted: bool) {
        if std::mem::replace(&mut self.wanted, wanted) != wanted {
            self.not_before = None;
        }
    }

    /// What to do at `now`.
    pub fn step(&self, now: Instant) -> LeaseStep {
        let due = match &self.held {
            None if !self.wanted => return LeaseStep::Wait(None),
            None => LeaseStep::Grant,
            Some(held) if !self.wanted => LeaseStep::Withdraw(held.id),
            Some(held) if !held.published => LeaseStep::Publish(held.id),
            Some(held) if held.renew_at <= now => LeaseStep::Renew(held.id),
            Some(held) => return LeaseStep::Wait(Some(held.renew_at)),
        };
        match self.not_before {
            Some(at) if now < at => LeaseStep::Wait(Some(at)),
            _ => due,
        }
    }

    /// A lease of this length was granted.
    pub fn granted(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.held = Some(GrantedLease { id, ttl, published: false, renew_at: now + ttl / 3 });
        self.not_before = None;
    }

    /// The document stands there.
    pub fn published(&mut self) {
        if let Some(held) = &mut self.held {
            held.published = true;
        }
        self.not_before = None;
    }

    /// It was renewed.
    pub fn renewed(&mut self, ttl: Duration, now: Instant) {
        if let Some(held) = &mut self.held {
            held.ttl = ttl;
            held.renew_at = now + ttl / 3;
        }
        self.not_before = None;
    }

    /// It has ended, by itself or because it was withdrawn.
    pub fn ended(&mut self) {
        self.held = None;
        self.not_before = None;
    }

    /// The last step failed; the next one waits for so long.
    pub fn failed(&mut self, wait: Duration, now: Instant) {
        self.not_before = Some(now + wait);
    }

    /// Whether the document stands in the registry, as far as is known.
    pub fn is_published(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(15);
    const ID: LeaseId = LeaseId(7);

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_granted_published_renewed_at_a_third_and_withdrawn() {
        let now = Instant::now();
        let mut lease = Lease::default();
        assert_eq!(lease.step(now), LeaseStep::Wait(None), "an app that is not ready is not registered");
        lease.want(true);
        assert_eq!(lease.step(now), LeaseStep::Grant);
        lease.granted(ID, TTL, now);
        assert_eq!(lease.step(now), LeaseStep::Publish(ID));
        lease.published();
        assert!(lease.is_published());
        let third = now + TTL / 3;
        assert_eq!(lease.step(now), LeaseStep::Wait(Some(third)));
        assert_eq!(lease.step(third), LeaseStep::Renew(ID));
        lease.renewed(TTL, third);
        assert_eq!(lease.step(third), LeaseStep::Wait(Some(third + TTL / 3)));
        lease.want(false);
        assert_eq!(lease.step(third), LeaseStep::Withdraw(ID), "what is not wanted does not wait");
        lease.ended();
        assert_eq!(lease.step(third), LeaseStep::Wait(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_lost_is_granted_anew_and_one_that_cannot_be_renewed_is_not() {
        let now = Instant::now();
        let mut lease = Lease::default();
        lease.want(true);
        lease.granted(ID, TTL, now);
        lease.published();
        // The registry is gone for longer than the lease lasts: it may still know it when it comes
        // back.
        let late = now + TTL * 2;
        assert_eq!(lease.step(late), LeaseStep::Renew(ID));
        lease.failed(Duration::from_secs(1), late);
        assert_eq!(lease.step(late), LeaseStep::Wait(Some(late + Duration::from_secs(1))));
        assert_eq!(lease.step(late + Duration::from_secs(1)), LeaseStep::Renew(ID));
        lease.ended();
        assert_eq!(lease.step(late), LeaseStep::Grant);
    }

    proptest! {
        #[test]
        fn at_most_one_lease_is_held_and_nothing_is_published_unasked(
            story in proptest::collection::vec((0..6_u8, 0..8_u64), 0..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let mut now = Instant::now();
                let mut lease = Lease::default();
                let mut wanted = false;
                // The lease that the registry has.
                let mut there: Option<LeaseId> = None;
                let mut last = 0;
                for (luck, wait) in story {
                    now += Duration::from_secs(wait);
                    match lease.step(now) {
                        LeaseStep::Grant => {
                            prop_assert!(wanted && there.is_none());
                            last += 1;
                            there = Some(LeaseId(last));
                            lease.granted(LeaseId(last), TTL, now);
                        }
                        _ if luck == 0 => lease.failed(Duration::from_secs(1), now),
                        LeaseStep::Publish(id) | LeaseStep::Renew(id) => {
                            prop_assert!(wanted && there == Some(id));
                            if luck == 1 {
                                there = None;
                                lease.ended();
                            } else if lease.is_published() {
                                lease.renewed(TTL, now);
                            } else {
                                lease.published();
                            }
                        }
                        LeaseStep::Withdraw(id) => {
                            prop_assert!(!wanted && there == Some(id));
                            there = None;
                            lease.ended();
                        }
                        LeaseStep::Wait(until) => {
                            prop_assert!(until.is_none_or(|until| until > now));
                            if luck > 3 {
                                wanted = !wanted;
                                lease.want(wanted);
                            }
                        }
                    }
                }
                Ok(())
            })?;
        }
    }
}
