//! Consistent hashing on a ring (Karger 1997, as in libketama): each member stands at many points
//! of a circle of hashes, and a key belongs to the member at the next point. A member that comes or
//! goes moves the keys of its own points and no others.
//!
//! Points are counted for each member and not for the whole ring as in Envoy (`minimum_ring_size`):
//! there every change of the number of members changes everybody's points. The heaviest member has
//! `points` of them, the others in proportion, so a change of the largest weight moves more than it
//! must.

use super::group::Member;
use super::hash;

/// The ring.
#[derive(Debug)]
pub struct Ring {
    /// Hash and position, by hash.
    points: Box<[(u64, u32)]>,
}

impl Ring {
    /// Of these members; the heaviest stands at `points` points, everyone at one at least.
    pub fn new(members: &[Member], points: u32) -> Self {
        let heaviest = members.iter().map(|member| member.weight).max().unwrap_or(1);
        let share = |weight: u32| (u64::from(points) * u64::from(weight)).div_ceil(u64::from(heaviest));
        let mut all: Vec<_> = members
            .iter()
            .flat_map(|m| (0..share(m.weight)).map(|index| (hash::of_endpoint(m.address, index), m.position)))
            .collect();
        all.sort_unstable();
        Ring { points: all.into() }
    }

    /// The members from the owner of `hash` on; after it come those that own the key if the ones
    /// before are gone. Members come as often as they have points.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(first);
        after.iter().chain(before).map(|(_, position)| *position as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::tests::placed;
    use super::*;

    const KEYS: u64 = 20_000;

    fn owners(members: &[Member]) -> Vec<usize> {
        let ring = Ring::new(members, 160);
        (0..KEYS).map(|key| ring.walk(hash::mix(key)).next().unwrap()).collect()
    }

    #[test]
    fn a_member_that_comes_or_goes_moves_only_keys_of_its_own() {
        let many: Vec<_> = (0..10).map(|p| placed(p, 1)).collect();
        let (with, without) = (owners(&many), owners(&many[..9]));
        let moved = with.iter().zip(&without).filter(|(a, b)| a != b);
        assert!(moved.clone().all(|(a, _)| *a == 9), "a key moved between two members that stayed");
        let share = moved.count() as f64 / KEYS as f64;
        assert!((0.06..0.15).contains(&share), "{share}");
    }

    #[test]
    fn keys_are_shared_by_weight() {
        let members = [placed(0, 1), placed(1, 2), placed(2, 3)];
        let owners = owners(&members);
        for member in members {
            let share =
                owners.iter().filter(|p| **p == member.position as usize).count() as f64 / KEYS as f64;
            let fair = f64::from(member.weight) / 6.0;
            // A member of k points owns its share give or take one part in the root of k: five of
            // them at 54 points.
            assert!((share - fair).abs() < fair * 0.68, "{share} instead of {fair}");
        }
    }

    #[test]
    fn a_walk_meets_everyone() {
        let members: Vec<_> = (0..5).map(|p| placed(p, 1)).collect();
        let met: std::collections::BTreeSet<_> = Ring::new(&members, 160).walk(u64::MAX).collect();
        assert_eq!(met.len(), 5);
        assert_eq!(Ring::new(&[], 160).walk(7).next(), None);
    }
}
