//! Consistent hashing by a table (Maglev, Eisenbud and others, NSDI 2016, section 3.4): each member
//! has a preferred order of the slots, and in turn each takes the first one of its order that is
//! free. A look-up is one access; shares are even to within a slot; a change of members moves
//! somewhat more keys than a ring does.
//!
//! Weights as in Envoy: who weighs half as much as the heaviest takes a slot every second turn. The
//! table is made when the members change: with 65537 slots in some milliseconds, 256 KiB.

use super::group::Member;
use super::hash;

/// The table.
#[derive(Debug)]
pub struct Maglev {
    slots: Box<[u32]>,
}

const FREE: u32 = u32::MAX;

impl Maglev {
    /// Of these members, with `size` slots, which is a prime number.
    pub fn new(members: &[Member], size: u32) -> Self {
        struct Filler {
            position: u32,
            share: f64,
            credit: f64,
            next: u64,
            skip: u64,
        }
        let size = u64::from(size);
        let heaviest = f64::from(members.iter().map(|m| m.weight).max().unwrap_or(1));
        let filler = |m: &Member| Filler {
            position: m.position,
            share: f64::from(m.weight) / heaviest,
            credit: 0.0,
            next: hash::of_endpoint(m.address, 0) % size,
            skip: hash::of_endpoint(m.address, 1) % (size - 1) + 1,
        };
        // The order must not decide: two sidecars may know the members in different orders.
        let mut members = members.to_vec();
        members.sort_unstable_by_key(|m| m.address);
        let mut fillers: Vec<_> = members.iter().map(filler).collect();
        let mut slots = vec![FREE; size as usize].into_boxed_slice();
        let mut free = if fillers.is_empty() { 0 } else { slots.len() };
        'fill: loop {
            for filler in &mut fillers {
                filler.credit += filler.share;
                if filler.credit < 1.0 {
                    continue;
                }
                if free == 0 {
                    break 'fill;
                }
                filler.credit -= 1.0;
                // The size is prime, so the steps meet every slot.
                while slots[filler.next as usize] != FREE {
                    filler.next = (filler.next + filler.skip) % size;
                }
                slots[filler.next as usize] = filler.position;
                free -= 1;
            }
            if free == 0 {
                break;
            }
        }
        Maglev { slots }
    }

    /// The members from the owner of `hash` on, each as often as it has slots.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (before, after) = self.slots.split_at((hash % self.slots.len() as u64) as usize);
        after.iter().chain(before).filter(|slot| **slot != FREE).map(|slot| *slot as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::tests::placed;
    use super::*;

    fn shares(table: &Maglev, members: usize) -> Vec<f64> {
        let mut counts = vec![0_u32; members];
        for slot in &table.slots {
            counts[*slot as usize] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / table.slots.len() as f64).collect()
    }

    #[test]
    fn every_slot_is_taken_and_shares_are_those_of_the_weights() {
        let members = [placed(0, 1), placed(1, 2), placed(2, 5)];
        for (share, weight) in shares(&Maglev::new(&members, 65537), 3).iter().zip([1.0, 2.0, 5.0]) {
            assert!((share - weight / 8.0).abs() < 0.0001, "{share}");
        }
    }

    #[test]
    fn a_member_that_goes_moves_few_keys_of_others() {
        let members: Vec<_> = (0..10).map(|p| placed(p, 1)).collect();
        let (with, without) = (Maglev::new(&members, 65537), Maglev::new(&members[..9], 65537));
        let stayed = with.slots.iter().zip(&without.slots).filter(|(a, _)| **a != 9);
        let moved = stayed.clone().filter(|(a, b)| a != b).count() as f64 / stayed.count() as f64;
        assert!(moved < 0.05, "{moved}");
    }

    #[test]
    fn the_order_in_which_members_are_known_does_not_matter() {
        let members: Vec<_> = (0..7).map(|p| placed(p, 1 + p % 3)).collect();
        let reversed: Vec<_> = members.iter().rev().copied().collect();
        assert_eq!(Maglev::new(&members, 1009).slots, Maglev::new(&reversed, 1009).slots);
    }

    #[test]
    fn nobody_has_no_slots() {
        assert_eq!(Maglev::new(&[], 251).walk(3).next(), None);
    }
}
