//! What happens to a packet on one direction of a link: a pure function of its arrival, the profile
//! and a seed.
//!
//! There is no clock and no I/O here, so the engine on the kernel and the simulator get the same
//! decisions from the same seed. Invariants, each with a test:
//!
//! - packets of one direction keep their order, whatever the jitter and however the profile
//!   changes;
//! - a due time is computed once, when the packet arrives: a later change of profile never touches
//!   it;
//! - loss is drawn for every segment and jitter for every packet, always, from two separate
//!   streams. So the n-th segment has the same luck under every profile (more loss loses a
//!   superset) and a change of loss shifts no due time;
//! - a link of limited bandwidth passes no more than that over any stretch of time. A packet leaves
//!   when those before it have left, lost ones too: they are lost further on.
//!
//! On a real machine the arrivals differ from run to run, so there a seed gives the same
//! statistics, not the same run.

use std::time::Duration;

use proxy::world::RngTree;
use rand::RngExt;
use rand::rngs::StdRng;

use super::LinkProfile;

/// One direction between two instances: the state that decides about its packets.
#[derive(Debug)]
pub struct Direction {
    loss: StdRng,
    jitter: StdRng,
    /// The latest arrival so far.
    now_ns: u64,
    /// When the last byte of all packets so far has left, if the bandwidth is limited.
    free_ns: u64,
    last_due_ns: u64,
    counters: WireCounters,
}

/// What happens to one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketVerdict {
    /// When to hand it on, on the clock of the arrival. Nanoseconds.
    pub due_ns: u64,
    /// Which of its segments never arrive.
    pub lost: LostSet,
}

/// Which segments of a packet are lost. An ordinary packet is one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostSet {
    /// The packet arrives whole.
    None,
    /// These segments are lost, in rising order: at least one, and not all.
    Some(Vec<usize>),
    /// Nothing of it arrives.
    All,
}

/// What one direction has decided so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireCounters {
    /// Packets, large ones counted once.
    pub packets: u64,
    /// MTU-sized segments.
    pub segments: u64,
    /// Segments lost on purpose.
    pub lost_segments: u64,
    /// Packets that arrive, at least in part, later than they were sent.
    pub delayed_packets: u64,
}

impl Direction {
    /// A direction whose randomness follows from `rng`, which no other direction may share.
    pub fn new(rng: RngTree) -> Direction {
        Direction {
            loss: rng.child("loss", 0).rng(),
            jitter: rng.child("jitter", 0).rng(),
            now_ns: 0,
            free_ns: 0,
            last_due_ns: 0,
            counters: WireCounters::default(),
        }
    }

    /// The direction from one instance to another (positions in the plan), in the tree of a whole
    /// run.
    pub fn between(rng: RngTree, from: usize, to: usize) -> Direction {
        Direction::new(rng.child("link from", from as u64).child("to", to as u64))
    }

    /// Decides about a packet of so many bytes, `segments` MTU-sized segments (0 counts as 1), that
    /// arrives at `now_ns`. The clock is the caller's, in nanoseconds. Order is kept in the order of
    /// calls: a packet that a clock stamps earlier than the one before it has come with that one.
    pub fn decide(
        &mut self,
        now_ns: u64,
        profile: &LinkProfile,
        segments: usize,
        bytes: usize,
    ) -> PacketVerdict {
        let segments = segments.max(1);
        self.now_ns = self.now_ns.max(now_ns);
        let now_ns = self.now_ns;
        let gone_ns = self.serialise(now_ns, profile.bandwidth, bytes);
        let due_ns = gone_ns.saturating_add(self.draw_delay(profile)).max(self.last_due_ns);
        self.last_due_ns = due_ns;
        let lost = self.draw_loss(profile.loss, segments);
        self.counters.packets += 1;
        self.counters.segments += segments as u64;
        self.counters.lost_segments += lost.count(segments) as u64;
        self.counters.delayed_packets += u64::from(due_ns > now_ns && lost != LostSet::All);
        PacketVerdict { due_ns, lost }
    }

    /// What was decided so far.
    pub fn counters(&self) -> WireCounters {
        self.counters
    }

    /// When the last byte of a packet leaves.
    fn serialise(&mut self, now_ns: u64, bandwidth: u64, bytes: usize) -> u64 {
        if bandwidth == 0 {
            return now_ns;
        }
        let takes = bytes as u128 * 8 * 1_000_000_000 / u128::from(bandwidth);
        self.free_ns = self.free_ns.max(now_ns).saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
        self.free_ns
    }

    fn draw_delay(&mut self, profile: &LinkProfile) -> u64 {
        let around = self.jitter.random::<f64>() * 2.0 - 1.0;
        let shift = around * nanos(profile.jitter) as f64;
        nanos(profile.delay).saturating_add_signed(shift as i64)
    }

    fn draw_loss(&mut self, loss: f64, segments: usize) -> LostSet {
        let mut lost = Vec::new();
        for segment in 0..segments {
            if self.loss.random::<f64>() < loss {
                if segments == 1 {
                    return LostSet::All;
                }
                lost.push(segment);
            }
        }
        match lost.len() {
            0 => LostSet::None,
            n if n == segments => LostSet::All,
            _ => LostSet::Some(lost),
        }
    }
}

impl LostSet {
    /// How many segments are lost of a packet that has `segments`.
    pub fn count(&self, segments: usize) -> usize {
        match self {
            LostSet::None => 0,
            LostSet::Some(lost) => lost.len(),
            LostSet::All => segments,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn profile() -> impl Strategy<Value = LinkProfile> {
        (0..50_000_u64, 0..20_000_u64, 0.0..=1.0).prop_map(|(delay, jitter, loss)| LinkProfile {
            delay: Duration::from_micros(delay),
            jitter: Duration::from_micros(jitter),
            loss,
            bandwidth: 0,
        })
    }

    /// Packets: the gap to the one before (ns), the profile in force, the number of segments.
    fn packets() -> impl Strategy<Value = Vec<(u64, LinkProfile, usize)>> {
        vec((0..5_000_000_u64, profile(), 1..46_usize), 1..60)
    }

    fn run(seed: u64, packets: &[(u64, LinkProfile, usize)]) -> (Vec<(u64, PacketVerdict)>, WireCounters) {
        let mut direction = Direction::between(RngTree::new(seed), 0, 1);
        let mut now = 0;
        let verdicts = packets
            .iter()
            .map(|(gap, profile, segments)| {
                now += gap;
                (now, direction.decide(now, profile, *segments, 1500 * segments))
            })
            .collect();
        (verdicts, direction.counters())
    }

    proptest! {
        #[test]
        fn packets_keep_their_order_under_any_change_of_profile(seed: u64, packets in packets()) {
            let (verdicts, _) = run(seed, &packets);
            prop_assert!(verdicts.windows(2).all(|pair| pair[0].1.due_ns <= pair[1].1.due_ns));
        }

        #[test]
        fn a_delay_stays_within_the_jitter_unless_order_pushes_it_later(seed: u64, packets in packets()) {
            let (verdicts, _) = run(seed, &packets);
            let mut before = 0;
            for ((now, verdict), (_, profile, _)) in verdicts.iter().zip(&packets) {
                let earliest = now + nanos(profile.delay.saturating_sub(profile.jitter));
                let latest = now + nanos(profile.delay + profile.jitter);
                prop_assert!(verdict.due_ns >= earliest);
                prop_assert!(verdict.due_ns <= latest.max(before));
                before = verdict.due_ns;
            }
        }

        #[test]
        fn a_narrow_link_never_passes_more_than_its_bandwidth(
            seed: u64, packets in packets(), bandwidth in 100_000..100_000_000_u64,
        ) {
            let narrowed = |p: &LinkProfile| LinkProfile { bandwidth, jitter: Duration::ZERO, ..*p };
            let narrow: Vec<_> = packets.iter().map(|(gap, p, n)| (*gap, narrowed(p), *n)).collect();
            let (verdicts, _) = run(seed, &narrow);
            // Whatever has come out by some moment fits in the time since the first packet came in;
            // each packet's own time is rounded down to a nanosecond.
            let (first, mut bytes) = (verdicts[0].0, 0);
            for ((_, verdict), (_, profile, segments)) in verdicts.iter().zip(&narrow) {
                bytes += 1500 * segments;
                let time = u128::from(verdict.due_ns - first);
                let takes = bytes as u128 * 8_000_000_000 / u128::from(bandwidth);
                prop_assert!(time + narrow.len() as u128 >= takes + profile.delay.as_nanos());
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_decisions(seed: u64, packets in packets()) {
            prop_assert_eq!(run(seed, &packets), run(seed, &packets));
        }

        #[test]
        fn a_change_of_loss_moves_no_due_time_and_more_loss_loses_a_superset(
            seed: u64, packets in packets(), less in 0.0..0.5,
        ) {
            let with = |loss: f64| {
                packets.iter().map(|(gap, p, n)| (*gap, LinkProfile { loss, ..*p }, *n)).collect::<Vec<_>>()
            };
            let (few, _) = run(seed, &with(less));
            let (many, _) = run(seed, &with(less + 0.3));
            for ((few, many), (_, _, segments)) in few.iter().zip(&many).zip(&packets) {
                prop_assert_eq!(few.1.due_ns, many.1.due_ns);
                let many = indices(&many.1.lost, *segments);
                prop_assert!(indices(&few.1.lost, *segments).iter().all(|index| many.contains(index)));
            }
        }

        #[test]
        fn a_change_of_delay_and_jitter_moves_no_loss(seed: u64, packets in packets(), loss in 0.0..1.0) {
            let with = |delay, jitter| {
                let profile = LinkProfile { delay, jitter, loss, ..LinkProfile::default() };
                packets.iter().map(|(g, _, n)| (*g, profile, *n)).collect::<Vec<_>>()
            };
            let (slow, _) = run(seed, &with(Duration::from_millis(9), Duration::from_millis(3)));
            let (fast, _) = run(seed, &with(Duration::ZERO, Duration::ZERO));
            prop_assert!(slow.iter().zip(&fast).all(|(slow, fast)| slow.1.lost == fast.1.lost));
        }

        #[test]
        fn nothing_is_lost_at_zero_and_everything_on_a_cut_link(seed: u64, segments in 1..200_usize) {
            let mut direction = Direction::new(RngTree::new(seed));
            prop_assert_eq!(direction.decide(5, &LinkProfile::default(), segments, 1500).lost, LostSet::None);
            prop_assert_eq!(direction.decide(5, &LinkProfile::CUT, segments, 1500).lost, LostSet::All);
        }

        #[test]
        fn the_counters_agree_with_the_verdicts(seed: u64, packets in packets()) {
            let (verdicts, counters) = run(seed, &packets);
            let lost = verdicts.iter().zip(&packets).map(|((_, v), (_, _, n))| v.lost.count(*n) as u64).sum::<u64>();
            prop_assert_eq!(counters.packets, packets.len() as u64);
            prop_assert_eq!(counters.segments, packets.iter().map(|(_, _, n)| *n as u64).sum::<u64>());
            prop_assert_eq!(counters.lost_segments, lost);
        }
    }

    fn indices(lost: &LostSet, segments: usize) -> Vec<usize> {
        match lost {
            LostSet::None => Vec::new(),
            LostSet::Some(lost) => lost.clone(),
            LostSet::All => (0..segments).collect(),
        }
    }

    #[test]
    fn a_stamp_that_is_earlier_than_the_one_before_it_delays_nothing() {
        let mut direction = Direction::new(RngTree::new(1));
        for now_ns in [5_000, 4_000, 6_000] {
            direction.decide(now_ns, &LinkProfile::default(), 1, 100);
        }
        assert_eq!((direction.counters().packets, direction.counters().delayed_packets), (3, 0));
    }

    #[test]
    fn the_loss_rate_is_the_one_asked_for_whatever_the_size_of_the_packets() {
        for (segments, loss) in [(1, 0.01), (1, 0.3), (45, 0.01), (7, 0.5)] {
            let mut direction = Direction::new(RngTree::new(11));
            let profile = LinkProfile { loss, ..LinkProfile::default() };
            for now in 0..200_000 / segments {
                direction.decide(now as u64, &profile, segments, 1500);
            }
            let WireCounters { segments: drawn, lost_segments, .. } = direction.counters();
            let sigma = (drawn as f64 * loss * (1.0 - loss)).sqrt();
            let error = lost_segments as f64 - drawn as f64 * loss;
            assert!(error.abs() < 4.0 * sigma, "{lost_segments} of {drawn} lost, asked for {loss}");
        }
    }

    #[test]
    fn jitter_is_spread_evenly_around_the_delay() {
        let mut direction = Direction::new(RngTree::new(3));
        let (delay, jitter) = (Duration::from_millis(10), Duration::from_millis(4));
        let profile = LinkProfile { delay, jitter, ..LinkProfile::default() };
        // A second apart, so that order pushes nothing.
        let delays = (0..20_000_u64)
            .map(|n| direction.decide(n * 1_000_000_000, &profile, 1, 1500).due_ns % 1_000_000_000);
        let mut delays = delays.collect::<Vec<_>>();
        delays.sort_unstable();
        for (rank, expected_ms) in [(0.0, 6.0), (0.25, 8.0), (0.5, 10.0), (0.75, 12.0), (1.0, 14.0)] {
            let at = delays[((delays.len() - 1) as f64 * rank) as usize] as f64 / 1e6;
            assert!((at - expected_ms).abs() < 0.15, "quantile {rank} is {at} ms, not {expected_ms}");
        }
    }

    #[test]
    fn directions_do_not_share_their_luck() {
        let profile = LinkProfile { loss: 0.5, ..LinkProfile::default() };
        let decisions = |from, to| {
            let mut direction = Direction::between(RngTree::new(1), from, to);
            (0..64).map(|now| direction.decide(now, &profile, 1, 1500).lost).collect::<Vec<_>>()
        };
        assert_ne!(decisions(0, 1), decisions(1, 0));
        assert_ne!(decisions(0, 1), decisions(0, 2));
        assert_eq!(decisions(2, 1), decisions(2, 1));
    }
}
