//! The links between instances: which profile holds for each ordered pair now, and what it does to
//! each packet.
//!
//! What a link does is decided by the same pure `fabric` model as on the kernel. A profile is
//! looked up when a packet leaves, so a change touches only later packets. Traffic inside an
//! instance never comes here.
//!
//! turmoil's own partition, hold and latency are not used: its partition refuses connections at
//! once instead of swallowing them, and its streams never retransmit.

use std::collections::BTreeMap;

use proxy::world::RngTree;

use crate::fabric::LinkProfile;
use crate::mesh::Link;

use crate::fabric::{Direction, LostSet};

/// Ethernet, IPv4 and TCP with timestamps.
const HEADERS: usize = 66;

/// An ordered pair of instances: sender, receiver.
pub(super) type Pair = (usize, usize);

/// What some directions did to packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LinkCounters {
    /// Packets (segments) handed to the link.
    pub packets: u64,
    /// Of these, swallowed.
    pub lost: u64,
    /// Of these, delivered later than they were sent.
    pub delayed: u64,
}

impl LinkCounters {
    pub fn since(self, earlier: LinkCounters) -> LinkCounters {
        LinkCounters {
            packets: self.packets - earlier.packets,
            lost: self.lost - earlier.lost,
            delayed: self.delayed - earlier.delayed,
        }
    }
}

struct State {
    direction: Direction,
    profile: LinkProfile,
    counters: LinkCounters,
    /// Hosts take turns within a tick, so a packet may claim a time a little before its
    /// predecessor's.
    last: u64,
}

/// Every link of the plan.
pub(super) struct Links {
    rng: RngTree,
    base: BTreeMap<Pair, LinkProfile>,
    /// Faults in force, oldest first; the newest that names a pair decides.
    faults: Vec<(String, BTreeMap<Pair, LinkProfile>)>,
    states: BTreeMap<Pair, State>,
}

impl Links {
    pub fn new(rng: RngTree, base: &[Link]) -> Self {
        let base = base.iter().map(|l| ((l.from, l.to), l.profile)).collect();
        Links { rng, base, faults: Vec::new(), states: BTreeMap::new() }
    }

    /// Sends `bytes` in `segments` segments from one instance to another at `now`. Returns when
    /// they arrive, or `None` if the link swallows any of them: callers send several at once only
    /// over a link without loss.
    pub fn send(&mut self, pair: Pair, now: u64, segments: u32, bytes: usize) -> Option<u64> {
        let profile = self.profile(pair);
        let state = self.state(pair);
        state.last = state.last.max(now);
        let verdict = state.direction.decide(
            state.last,
            &profile,
            segments as usize,
            bytes + segments as usize * HEADERS,
        );
        state.counters.packets += u64::from(segments);
        if verdict.lost != LostSet::None {
            state.counters.lost += u64::from(segments);
            return None;
        }
        if verdict.due_ns > state.last {
            state.counters.delayed += u64::from(segments);
        }
        Some(verdict.due_ns)
    }

    /// The profile in force.
    pub fn profile(&self, pair: Pair) -> LinkProfile {
        let changed = self.states.get(&pair).map(|s| s.profile);
        changed.unwrap_or_else(|| self.base.get(&pair).copied().unwrap_or_default())
    }

    /// There and back without jitter, nanoseconds.
    pub fn round_trip(&self, (from, to): Pair) -> u64 {
        (self.profile((from, to)).delay + self.profile((to, from)).delay).as_nanos() as u64
    }

    /// Puts a fault in force.
    pub fn fault(&mut self, name: &str, links: &[Link]) {
        self.faults.push((name.to_owned(), links.iter().map(|l| ((l.from, l.to), l.profile)).collect()));
        self.refresh(links);
    }

    /// Takes a fault back; its pairs return to what another fault or the plan says.
    pub fn heal(&mut self, name: &str, links: &[Link]) {
        self.faults.retain(|(n, _)| n != name);
        self.refresh(links);
    }

    fn refresh(&mut self, links: &[Link]) {
        for link in links {
            let pair = (link.from, link.to);
            let fault = self.faults.iter().rev().find_map(|(_, of)| of.get(&pair)).copied();
            let profile = fault.unwrap_or_else(|| self.base.get(&pair).copied().unwrap_or_default());
            self.state(pair).profile = profile;
        }
    }

    fn state(&mut self, pair: Pair) -> &mut State {
        let rng = self.rng;
        let base = self.base.get(&pair).copied().unwrap_or_default();
        self.states.entry(pair).or_insert_with(|| {
            let direction = Direction::between(rng, pair.0, pair.1);
            State { direction, profile: base, counters: LinkCounters::default(), last: 0 }
        })
    }

    /// What some directions did so far, summed.
    pub fn counters(&self, pairs: impl IntoIterator<Item = Pair>) -> LinkCounters {
        pairs.into_iter().filter_map(|pair| self.states.get(&pair)).fold(
            LinkCounters::default(),
            |sum, state| LinkCounters {
                packets: sum.packets + state.counters.packets,
                lost: sum.lost + state.counters.lost,
                delayed: sum.delayed + state.counters.delayed,
            },
        )
    }

    /// Every direction that carried a packet or was changed.
    pub fn used(&self) -> impl Iterator<Item = (Pair, LinkCounters)> + '_ {
        self.states.iter().map(|(&pair, state)| (pair, state.counters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn link(loss: f64, delay_ms: u64) -> Link {
        let profile = LinkProfile { delay: Duration::from_millis(delay_ms), loss, ..LinkProfile::default() };
        Link { from: 0, to: 1, profile }
    }

    #[test]
    fn the_newest_fault_decides_and_healing_uncovers_the_one_below() {
        let mut links = Links::new(RngTree::new(1), &[link(0.0, 5)]);
        assert_eq!(links.send((0, 1), 0, 1, 0), Some(5_000_000));
        links.fault("slow", &[link(0.0, 50)]);
        links.fault("cut", &[link(1.0, 0)]);
        assert_eq!(links.send((0, 1), 1_000_000, 1, 0), None);
        links.heal("cut", &[link(1.0, 0)]);
        assert_eq!(links.send((0, 1), 2_000_000, 1, 0), Some(52_000_000));
        links.heal("slow", &[link(0.0, 50)]);
        assert_eq!(links.profile((0, 1)), link(0.0, 5).profile);
        assert_eq!(links.profile((1, 0)), LinkProfile::default());
        assert_eq!(links.counters([(0, 1)]), LinkCounters { packets: 3, lost: 1, delayed: 2 });
    }
}
