//! Which endpoint gets the next request: the better of two drawn at random (power of two choices, Mitzenmacher 2001), by
//! peak-EWMA cost.
//!
//! Ejected endpoints and those that this request has already failed on are not drawn, unless nothing else is left: then
//! sending somewhere beats sending nowhere (Envoy calls it panic). A pick allocates nothing and looks at two endpoints
//! in the common case.

mod cluster;

use std::sync::Arc;

use rand::{Rng, RngExt};
use tokio::time::Instant;

pub use cluster::{Cluster, Table};

use crate::endpoint::Endpoint;

/// Endpoints that a request has already been tried on, by position. A request has a handful of tries, so a bit set of
/// the first 64 positions is enough; beyond them an endpoint may be drawn twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// Adds one.
    pub fn insert(&mut self, position: usize) {
        if position < 64 {
            self.0 |= 1 << position;
        }
    }

    /// Whether it is in.
    pub fn contains(&self, position: usize) -> bool {
        position < 64 && self.0 & (1 << position) != 0
    }
}

/// How many draws are made before all endpoints are looked at in turn: with half of them ejected, four pairs of draws
/// find nothing once in 256 picks.
const DRAWS: usize = 4;

/// Picks an endpoint's position, or `None` if there are no endpoints.
pub fn pick(endpoints: &[Arc<Endpoint>], now: Instant, rng: &mut impl Rng, tried: Tried) -> Option<usize> {
    let n = endpoints.len();
    if n < 2 {
        return (n == 1).then_some(0);
    }
    let cost = |position: usize| {
        if tried.contains(position) {
            return None;
        }
        let load = endpoints[position].load(now);
        load.available.then_some(load.cost)
    };
    for _ in 0..DRAWS {
        let first = rng.random_range(0..n);
        // Two different ones: draw the second from the others.
        let second = (first + rng.random_range(1..n)) % n;
        match (cost(first), cost(second)) {
            (Some(a), Some(b)) => return Some(if a <= b { first } else { second }),
            (Some(_), None) => return Some(first),
            (None, Some(_)) => return Some(second),
            (None, None) => {}
        }
    }
    let cheapest = |allowed: &dyn Fn(usize) -> bool| {
        let costs = (0..n).filter(|p| allowed(*p)).map(|p| (p, endpoints[p].load(now).cost));
        costs.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(p, _)| p)
    };
    cheapest(&|p| cost(p).is_some())
        .or_else(|| cheapest(&|p| !tried.contains(p)))
        .or_else(|| Some(rng.random_range(0..n)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Breaker;
    use crate::endpoint::{Outcome, Reason};
    use crate::world::RngTree;
    use std::time::Duration;

    const EJECT: Breaker = Breaker {
        consecutive_failures: 1,
        success_rate: 0.0,
        min_requests: 0,
        window: Duration::from_secs(10),
        base: Duration::from_secs(1),
        max: Duration::from_secs(1),
        cap: 1.0,
    };

    fn endpoints(n: u16, now: Instant) -> Vec<Arc<Endpoint>> {
        (0..n).map(|p| Arc::new(Endpoint::new(([10, 0, 0, 1], 1000 + p).into(), now))).collect()
    }

    fn counts(endpoints: &[Arc<Endpoint>], now: Instant, tried: Tried) -> Vec<u32> {
        let mut rng = RngTree::new(1).rng();
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..3000 {
            counts[pick(endpoints, now, &mut rng, tried).expect("there are endpoints")] += 1;
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn equal_endpoints_get_equal_shares() {
        let now = Instant::now();
        let counts = counts(&endpoints(3, now), now, Tried::default());
        // 1000 each; five standard deviations of a binomial(3000, 1/3) are 129.
        assert!(counts.iter().all(|c| c.abs_diff(1000) < 129), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_of_three_is_picked_only_against_nobody() {
        let now = Instant::now();
        let endpoints = endpoints(3, now);
        endpoints[1].observe(now - Duration::from_secs(1), now);
        assert_eq!(counts(&endpoints, now, Tried::default())[1], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_hand_weigh_as_much_as_latency() {
        let now = Instant::now();
        let endpoints = endpoints(2, now);
        for (endpoint, millis) in endpoints.iter().zip([1, 2]) {
            endpoint.observe(now - Duration::from_millis(millis), now);
        }
        assert_eq!(counts(&endpoints, now, Tried::default()), [3000, 0]);
        let _busy = [endpoints[0].begin(now), endpoints[0].begin(now)];
        assert_eq!(counts(&endpoints, now, Tried::default()), [0, 3000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_endpoint_is_tried_at_once_by_one_request() {
        let now = Instant::now();
        let endpoints = endpoints(3, now);
        endpoints[0].observe(now - Duration::from_millis(1), now);
        endpoints[1].observe(now - Duration::from_millis(1), now);
        // Drawn against either of the others: two pairs of three.
        let new = counts(&endpoints, now, Tried::default())[2];
        assert!(new.abs_diff(2000) < 129, "{new}");
        let _trial = endpoints[2].begin(now);
        assert_eq!(counts(&endpoints, now, Tried::default())[2], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn ejected_and_tried_endpoints_are_left_out_until_nothing_else_is_left() {
        let now = Instant::now();
        let endpoints = endpoints(3, now);
        endpoints[0].eject(Reason::Probe, Outcome::Failure(None), now, &EJECT, &mut RngTree::new(1).rng());
        let mut tried = Tried::default();
        tried.insert(1);
        assert_eq!(counts(&endpoints, now, tried), [0, 0, 3000]);
        tried.insert(2);
        assert_eq!(counts(&endpoints, now, tried), [3000, 0, 0], "an ejected one beats one that just failed");
        tried.insert(0);
        assert_eq!(counts(&endpoints, now, tried).iter().sum::<u32>(), 3000);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_picked_from_nothing() {
        assert_eq!(pick(&[], Instant::now(), &mut RngTree::new(1).rng(), Tried::default()), None);
    }
}
