//! One direction of a link, purely decided: a stand-in with the shape of `fabric::decide` until that is merged.

use proxy::world::RngTree;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::fabric::LinkProfile;

/// The fate of one packet.
pub(super) struct Verdict {
    /// When it arrives, nanoseconds.
    pub due_ns: u64,
    /// Which of its segments never do.
    pub lost: LostSet,
}

/// Which segments of a packet are lost.
#[derive(PartialEq, Eq)]
pub(super) enum LostSet {
    /// None of them.
    None,
    /// At least one.
    All,
}

/// One direction. Packets keep their order.
pub(super) struct Direction {
    rng: StdRng,
    last_due_ns: u64,
}

impl Direction {
    pub fn between(rng: RngTree, from: usize, to: usize) -> Self {
        Direction { rng: rng.child("link from", from as u64).child("to", to as u64).rng(), last_due_ns: 0 }
    }

    pub fn decide(&mut self, now_ns: u64, profile: &LinkProfile, segments: usize) -> Verdict {
        let around = self.rng.random::<f64>() * 2.0 - 1.0;
        let shift = around * profile.jitter.as_nanos() as f64;
        let delay = (profile.delay.as_nanos() as u64).saturating_add_signed(shift as i64);
        self.last_due_ns = self.last_due_ns.max(now_ns + delay);
        let lost = (0..segments).filter(|_| self.rng.random::<f64>() < profile.loss).count();
        let lost = if lost == 0 { LostSet::None } else { LostSet::All };
        Verdict { due_ns: self.last_due_ns, lost }
    }
}
