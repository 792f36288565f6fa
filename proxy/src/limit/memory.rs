//! When memory is short: the resident size of the process against its budget, looked at ten times a
//! second, as Envoy's overload manager does with its heap. And when it is worth giving back what
//! the allocator keeps: glibc's keeps nearly all of what a burst of connections took, which looks
//! like a leak (linkerd2#11430) and would let a sidecar shed load for ever.

use tokio::time::Instant;

use crate::config::defaults::MEMORY_RELEASE_INTERVAL;
use crate::config::defaults::MEMORY_RELIEF;

/// Whether load must be shed at a resident size of `used` bytes, given that it was (`shedding`) or
/// was not before.
pub fn is_short(used: u64, budget: u64, shedding: bool) -> bool {
    if shedding { used as f64 > budget as f64 * MEMORY_RELIEF } else { used > budget }
}

/// By how much load must have fallen to make it worth while, connections and requests. Ours: some
/// megabytes.
const GIVE_BACK_FALL: i64 = 500;

/// Decides when memory is given back: after load has fallen by half, or while memory is short.
#[derive(Debug, Default)]
pub struct MemoryRelease {
    /// The most that was carried since the last time, of each kind.
    most: [i64; 2],
    last: Option<Instant>,
}

impl MemoryRelease {
    /// Whether it is time, with as much at hand as [`Load::carried`](super::Load::carried) says.
    pub fn is_due(&mut self, now: Instant, carried: [i64; 2], short: bool) -> bool {
        let mut fallen = false;
        for (most, carried) in self.most.iter_mut().zip(carried) {
            *most = carried.max(*most);
            fallen |= *most - carried >= GIVE_BACK_FALL && carried <= *most / 2;
        }
        let early = self.last.is_some_and(|last| now.duration_since(last) < MEMORY_RELEASE_INTERVAL);
        if early || !(fallen || short) {
            return false;
        }
        (self.most, self.last) = (carried, Some(now));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_given_back_after_a_fall_by_half_or_when_short_but_not_all_the_time() {
        let begun = Instant::now();
        let mut give_back = MemoryRelease::default();
        for (second, carried, short, expected) in [
            (0, [10_000, 0], false, false),
            (1, [5_001, 0], false, false),
            (2, [5_000, 0], false, true),
            // Too soon, but not forgotten.
            (3, [0, 0], false, false),
            (4, [0, 0], false, true),
            (9, [0, 0], false, false),
            (10, [900, 0], false, false),
            (12, [450, 0], false, false),
            (13, [1_000, 0], true, true),
            (14, [1_000, 0], true, false),
            (15, [1_000, 0], true, true),
            // What was idle has gone, and nothing else has changed.
            (20, [1_000, 9_000], false, false),
            (22, [1_000, 4_000], false, true),
        ] {
            let now = begun + Duration::from_secs(second);
            assert_eq!(give_back.is_due(now, carried, short), expected, "{second}");
        }
    }

    #[test]
    fn shedding_begins_past_the_budget_and_ends_well_below_it() {
        let mut shedding = false;
        for (used, expected) in
            [(90, false), (100, false), (101, true), (96, true), (95, false), (100, false)]
        {
            shedding = is_short(used, 100, shedding);
            assert_eq!(shedding, expected, "{used}");
        }
    }
}
