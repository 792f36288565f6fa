//! Streams as they may be but seldom are: a few bytes at a time, and torn apart by something in
//! between.
//!
//! TCP promises the order of bytes and nothing of how many come at once, and any box on the way may
//! end a connection with a RST to both sides at any byte (a load balancer that restarts, a firewall
//! that forgets). Links cannot show either: their faults are about packets. Each connection's luck
//! hangs on the seed and on its own number, so one more or less of them changes nothing for the
//! others.

use std::time::Duration;

use proxy::world::RngTree;
use rand::RngExt;
use rand::rngs::StdRng;

/// How badly streams behave. The default is not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Chaos {
    /// The share of connections between instances that are torn apart, 0 to 1.
    pub resets: f64,
    /// After how many bytes in one direction at most.
    pub within: u64,
    /// How many bytes a read or a write moves at most; 0: as many as there are. Each order of
    /// magnitude below is as likely as any other, so that a few bytes come often and yet many do
    /// not take for ever.
    pub most: usize,
    /// When it is over, virtual time: from then on no connection is torn apart, and those that are
    /// opened behave.
    pub until: Duration,
}

impl Chaos {
    /// The faults of connection `id`, which begins `now` (nanoseconds); `None` if it has none.
    pub(super) fn faults(
        &self,
        rng: RngTree,
        id: u64,
        is_local: bool,
        now: u64,
    ) -> Option<Box<ConnectionFaults>> {
        if u128::from(now) >= self.until.as_nanos()
            || *self == (Chaos { until: self.until, ..Chaos::default() })
        {
            return None;
        }
        let mut rng = rng.child("chaos", id).rng();
        let torn = !is_local && rng.random_bool(self.resets.clamp(0.0, 1.0));
        let after = torn.then(|| (rng.random_range(0..2_usize), rng.random_range(0..=self.within)));
        (after.is_some() || self.most > 0).then(|| {
            Box::new(ConnectionFaults { after, until: self.until.as_nanos() as u64, most: self.most, rng })
        })
    }
}

/// What becomes of one connection.
pub(super) struct ConnectionFaults {
    /// It is torn apart when this end has written so many bytes.
    after: Option<(usize, u64)>,
    /// Nanoseconds.
    until: u64,
    most: usize,
    rng: StdRng,
}

impl ConnectionFaults {
    /// How many of `n` bytes move now; at least one, if there is any.
    pub fn portion(&mut self, n: usize) -> usize {
        if self.most == 0 || n <= 1 {
            return n;
        }
        let magnitude = self.rng.random_range(0..=self.most.ilog2());
        self.rng.random_range(1..=self.most.min(2 << magnitude)).min(n)
    }

    /// Notes that an end has written `n` bytes at `now`. True if that tears the connection apart.
    pub fn passed(&mut self, side: usize, n: usize, now: u64) -> bool {
        let Some((torn, left)) = &mut self.after else { return false };
        if *torn != side || now >= self.until {
            return false;
        }
        *left = left.saturating_sub(n as u64);
        let over = *left == 0;
        if over {
            self.after = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_connection_has_its_own_luck_and_none_when_chaos_is_over() {
        let chaos = Chaos { resets: 0.5, within: 100, most: 7, until: S };
        let tree = RngTree::new(1);
        let torn = |id| chaos.faults(tree, id, false, 0).is_some_and(|faults| faults.after.is_some());
        let count = (0..1000).filter(|id| torn(*id)).count();
        assert!((400..600).contains(&count), "{count}");
        assert!((0..1000).all(|id| torn(id) == torn(id)));
        assert!(chaos.faults(tree, 1, false, S.as_nanos() as u64).is_none());
        assert!(
            (0..1000).all(|id| chaos.faults(tree, id, true, 0).is_some_and(|faults| faults.after.is_none()))
        );
        assert!(Chaos { until: S, ..Chaos::default() }.faults(tree, 1, false, 0).is_none());
    }

    #[test]
    fn bytes_move_in_portions_and_the_last_one_tears() {
        let chaos = Chaos { resets: 1.0, within: 50, most: 7, until: S };
        let mut faults = chaos.faults(RngTree::new(1), 3, false, 0).expect("it is torn");
        let portions: Vec<usize> = (0..1000).map(|_| faults.portion(100)).collect();
        assert!((1..=7).all(|n| portions.contains(&n)) && portions.iter().all(|n| (1..=7).contains(n)));
        assert_eq!((faults.portion(1), faults.portion(0)), (1, 0));
        let (side, _) = faults.after.expect("it is torn");
        assert!(!faults.passed(1 - side, 1000, 0), "by the other end's bytes it is not");
        assert!(!faults.passed(side, 1000, S.as_nanos() as u64), "nor when it is over");
        let mut passed = 0;
        while !faults.passed(side, 1, 0) {
            passed += 1;
        }
        assert!(passed <= 50 && !faults.passed(side, 1000, 0), "once is enough");
    }
}
