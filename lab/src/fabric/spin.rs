//! How long before the next packet is due the engine stops sleeping and starts to watch the clock.
//!
//! A sleep of the kernel ends tens of microseconds late, so the last stretch is spun. But a thread
//! that spins for every packet of a busy queue never sleeps, and under SCHED_FIFO the kernel then
//! stops it for 50 ms. So it spins only for a packet that stands alone, and out of a budget that
//! refills at a fixed share of time. Pure.

/// The stretch that is spun, nanoseconds: about what a sleep overshoots on an idle machine.
pub const LEAD_NS: u64 = 60_000;
/// A packet stands alone if the one before was released this long before it is due, nanoseconds.
const ALONE_NS: u64 = 4 * LEAD_NS;
/// One part in this many of all time may be spun away.
const SHARE: u64 = 10;
/// The budget never grows beyond this many nanoseconds, so a pause is not followed by a storm.
const BUDGET_CAP_NS: u64 = 20 * LEAD_NS;

/// The budget for spinning.
#[derive(Debug, Default)]
pub struct Spin {
    budget_ns: u64,
    counted_ns: u64,
    released_ns: u64,
    spent_ns: u64,
    /// The due time that the budget was last good for: what was begun is finished.
    granted_ns: u64,
}

impl Spin {
    /// How much earlier than `due` to wake up, nanoseconds. 0: sleep all the way.
    pub fn lead(&mut self, now: u64, due: u64) -> u64 {
        self.budget_ns = (self.budget_ns + now.saturating_sub(self.counted_ns) / SHARE).min(BUDGET_CAP_NS);
        self.counted_ns = self.counted_ns.max(now);
        let alone = due >= self.released_ns.saturating_add(ALONE_NS);
        if !alone || (self.budget_ns < LEAD_NS && due != self.granted_ns) {
            return 0;
        }
        self.granted_ns = due;
        LEAD_NS
    }

    /// A packet was released.
    pub fn released(&mut self, now: u64) {
        self.released_ns = now;
    }

    /// Time was spun away.
    pub fn spent(&mut self, ns: u64) {
        self.budget_ns = self.budget_ns.saturating_sub(ns);
        self.spent_ns += ns;
    }

    /// All the time spun away so far, nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.spent_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Releases packets `gap` apart for a while; returns the share of time spun away.
    fn duty(gap: u64, packets: u64) -> f64 {
        let mut spin = Spin::default();
        for n in 1..=packets {
            let due = n * gap;
            let lead = spin.lead(due - gap, due);
            spin.spent(lead.min(gap));
            spin.released(due);
        }
        spin.total_ns() as f64 / (packets * gap) as f64
    }

    #[test]
    fn a_lone_packet_is_spun_for() {
        let mut spin = Spin::default();
        assert_eq!(spin.lead(1_000_000_000, 1_005_000_000), LEAD_NS);
    }

    #[test]
    fn a_stretch_that_was_begun_is_spun_to_its_end() {
        let mut spin = Spin::default();
        let due = 1_000_000;
        assert_eq!(spin.lead(LEAD_NS * SHARE, due), LEAD_NS);
        spin.spent(LEAD_NS / 2);
        assert_eq!(spin.lead(LEAD_NS * SHARE, due), LEAD_NS);
        assert_eq!(spin.lead(LEAD_NS * SHARE, due + 1), 0);
    }

    #[test]
    fn a_busy_queue_is_never_spun_for() {
        for gap in [1_000, 24_000, 120_000, ALONE_NS - 1] {
            assert_eq!(duty(gap, 50_000), 0.0, "packets {gap} ns apart");
        }
    }

    #[test]
    fn the_time_spun_away_stays_under_its_share_at_any_spacing() {
        for gap in [ALONE_NS, 300_000, 500_000, 1_000_000, 20_000_000] {
            assert!(duty(gap, 10_000) <= 1.0 / SHARE as f64 + 1e-9, "packets {gap} ns apart");
        }
        assert!(duty(1_000_000, 10_000) > 0.05, "the budget is there to be used");
    }

    #[test]
    fn a_long_pause_does_not_save_up_for_a_storm() {
        let mut spin = Spin::default();
        spin.lead(3_600_000_000_000, 3_600_000_000_001);
        spin.spent(BUDGET_CAP_NS);
        assert_eq!(spin.lead(3_600_000_000_000, 3_600_100_000_000), 0);
    }
}
