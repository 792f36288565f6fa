//! The roots of a trust domain, and how one follows another without a moment in which two workloads
//! do not trust each other.
//!
//! A new root is announced first: it is in every bundle that is handed out, and signs nothing. After
//! one life of a workload's certificate everybody has renewed at least once and trusts it, so from
//! then on it signs. After another life nothing that the old root has signed is valid any more, and
//! it is taken out.
//!
//! Pure: the time of day is passed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A root: its certificate and its key, PEM. Not shown by `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Root {
    /// When it was made, seconds of Unix time.
    pub created: u64,
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// How long things are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// A workload's certificate.
    pub workload: Duration,
    /// A root. Its successor is announced after half of it.
    pub root: Duration,
}

/// The roots, oldest first.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Roots(Vec<Root>);

impl Roots {
    /// Whether a new root has to be announced now: there is none, or the newest is at half of its
    /// life.
    pub fn is_due(&self, now: u64, lifetimes: Lifetimes) -> bool {
        self.0.last().is_none_or(|newest| age(newest, now) >= lifetimes.root / 2)
    }

    /// Whether a root is announced that does not sign yet.
    pub fn is_changing(&self, now: u64, lifetimes: Lifetimes) -> bool {
        self.0.len() > 1 && self.0.last().is_some_and(|newest| age(newest, now) < lifetimes.workload)
    }

    /// Announces a root.
    pub fn announce(&mut self, root: Root) {
        self.0.push(root);
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Root> {
        self.0.iter()
    }

    /// The root that signs now: the newest that everybody trusts, or the first if there is no other.
    pub fn signer(&self, now: u64, lifetimes: Lifetimes) -> Option<&Root> {
        let trusted = |root: &&Root| age(root, now) >= lifetimes.workload;
        self.0.iter().rev().find(trusted).or(self.0.first())
    }

    /// Takes out what nothing valid is signed by any more. Says whether there was any.
    pub fn retire(&mut self, now: u64, lifetimes: Lifetimes) -> bool {
        let before = self.0.len();
        while self.0.get(1).is_some_and(|next| age(next, now) >= 2 * lifetimes.workload) {
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
        Root { created, certificate: format!("[{created}]"), key: String::new() }
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
