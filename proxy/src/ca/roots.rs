//! The roots of a trust domain, and how one follows another without a moment in which two workloads
//! do not trust each other.
//!
//! A new root is announced first: it is in every bundle that is handed out, and signs nothing.
//! After one life of a workload's certificate everybody has renewed at least once and trusts it, so
//! from then on it signs. After another life nothing that the old root has signed is valid any
//! more, and it is taken out.
//!
//! Pure: the time of day is passed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A root: its certificate and its key, PEM. Not shown by `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Root {
    /// When it was made, seconds of Unix time.
    pub created: u64,
    /// When it ends.
    pub expires: u64,
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// How long things are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// A workload's certificate; the longest that there is.
    pub workload: Duration,
    /// A new root.
    pub root: Duration,
}

/// The roots, oldest first.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Roots(Vec<Root>);

impl Roots {
    /// Whether a new root has to be announced now: there is none, the newest is at half of its own
    /// life, or it ends before everybody could trust another one.
    pub fn is_due(&self, now: u64, lifetimes: Lifetimes) -> bool {
        self.0.last().is_none_or(|newest| {
            let half = newest.created + (newest.expires - newest.created) / 2;
            now >= half || now + 2 * lifetimes.workload.as_secs() >= newest.expires
        })
    }

    /// Whether a root is announced that does not sign yet.
    pub fn is_changing(&self, now: u64, lifetimes: Lifetimes) -> bool {
        let (newest, signer) = (self.0.last(), self.signer(now, lifetimes));
        newest.zip(signer).is_some_and(|(newest, signer)| !std::ptr::eq(newest, signer))
    }

    /// Announces a root.
    pub fn announce(&mut self, root: Root) {
        self.0.push(root);
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Root> {
        self.0.iter()
    }

    /// The root that signs now: the newest that everybody trusts, or the oldest if there is no
    /// such; never one that has ended.
    pub fn signer(&self, now: u64, lifetimes: Lifetimes) -> Option<&Root> {
        let alive = || self.0.iter().filter(|root| now < root.expires);
        alive().rev().find(|root| age(root, now) >= lifetimes.workload).or(alive().next())
    }

    /// Whether nothing that is valid was signed by the oldest root.
    pub fn is_over(&self, now: u64, lifetimes: Lifetimes) -> bool {
        matches!(&self.0[..], [first, next, ..]
            if age(next, now) >= 2 * lifetimes.workload || now >= first.expires)
    }

    /// Takes out the roots that are over. Says whether there was any.
    pub fn retire(&mut self, now: u64, lifetimes: Lifetimes) -> bool {
        let before = self.0.len();
        while self.is_over(now, lifetimes) {
            self.0.remove(0);
        }
        self.0.len() < before
    }

    /// The certificates of all roots, PEM: whom workloads trust.
    pub fn certificates(&self) -> String {
        self.0.iter().map(|root| &*root.certificate).collect()
    }
}

fn age(root: &Root, now: u64) -> Duration {
    Duration::from_secs(now.saturating_sub(root.created))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIVES: Lifetimes = Lifetimes { workload: Duration::from_secs(20), root: Duration::from_secs(200) };

    fn root(created: u64) -> Root {
        Root { created, expires: created + 200, certificate: format!("[{created}]"), key: String::new() }
    }

    #[test]
    fn a_new_root_is_trusted_before_it_signs_and_the_old_one_until_nothing_of_it_is_valid() {
        let mut roots = Roots::default();
        assert!(roots.is_due(1000, LIVES));
        roots.announce(root(1000));
        let signer = |roots: &Roots, now| roots.signer(now, LIVES).unwrap().created;
        assert_eq!(signer(&roots, 1000), 1000, "nobody waits for the first");
        assert!(!roots.is_due(1099, LIVES) && roots.is_due(1100, LIVES));
        roots.announce(root(1100));
        assert_eq!((signer(&roots, 1119), signer(&roots, 1120)), (1000, 1100));
        assert!(roots.is_changing(1119, LIVES) && !roots.is_changing(1120, LIVES));
        assert_eq!(roots.certificates(), "[1000][1100]");
        assert!(!roots.retire(1139, LIVES) && roots.retire(1140, LIVES));
        assert_eq!(roots.certificates(), "[1100]");
    }

    #[test]
    fn longer_lives_are_not_believed_of_a_root_that_was_made_for_shorter_ones() {
        let mut roots = Roots::default();
        roots.announce(root(1000));
        let longer = Lifetimes { workload: Duration::from_secs(80), root: Duration::from_secs(10_000) };
        assert!(!roots.is_due(1039, longer) && roots.is_due(1040, longer), "it ends soon");
        roots.announce(root(1150));
        let signer = |roots: &Roots, now| roots.signer(now, longer).map(|root| root.created);
        assert_eq!(signer(&roots, 1199), Some(1000));
        assert_eq!(signer(&roots, 1200), Some(1150), "one that has ended signs nothing");
        assert_eq!(signer(&roots, 1350), None);
        assert!(roots.retire(1200, longer) && roots.certificates() == "[1150]");
    }

    proptest! {
        /// Each workload renews every ten seconds, at a time of its own, and gets a certificate of
        /// the signer and the bundle of that moment. Any two then trust each other at any time.
        #[test]
        fn any_two_workloads_trust_each_other_all_the_time(
            requested in 0_u64..300,
            (first, second) in (0_u64..10, 0_u64..10),
        ) {
            let mut roots = Roots::default();
            let mut held: [Option<(u64, String)>; 2] = [None, None];
            for now in 0..400_u64 {
                if roots.is_due(now, LIVES) || now == requested && !roots.is_changing(now, LIVES) {
                    roots.announce(root(now));
                }
                roots.retire(now, LIVES);
                for (held, phase) in held.iter_mut().zip([first, second]) {
                    if held.is_none() || now % 10 == phase {
                        *held = Some((roots.signer(now, LIVES).unwrap().created, roots.certificates()));
                    }
                }
                let [Some((a, trusted_by_a)), Some((b, trusted_by_b))] = &held else { unreachable!() };
                prop_assert!(trusted_by_a.contains(&format!("[{b}]")), "at {now}");
                prop_assert!(trusted_by_b.contains(&format!("[{a}]")), "at {now}");
            }
        }
    }
}
