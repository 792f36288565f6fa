//! Members of one priority and one side of the zone's border, and the algorithm that picks among
//! them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::edf::Edf;
use super::maglev::Maglev;
use super::ring::Ring;
use super::{Attempted, Shares, least_request, p2c, slow_start};
use crate::config::{BalancePolicy, SlowStart};
use crate::endpoint::Endpoint;

/// A member as the algorithms see it when they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Where in the cluster.
    pub position: u32,
    /// Where in the network.
    pub address: SocketAddr,
    /// Its share, relative to the others'; at least 1.
    pub weight: u32,
}

/// What a pick may ask of the members, at one moment and for one request.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// All endpoints of the cluster.
    pub endpoints: &'a [Arc<Endpoint>],
    /// Their weights, by position, relative to the average of their group.
    pub weights: &'a [f64],
    /// How new ones are treated.
    pub slow_start: Option<&'a SlowStart>,
    /// The moment.
    pub now: Instant,
    /// Where the request was already.
    pub attempted: Attempted,
    /// Whether availability counts for nothing.
    pub panic: bool,
}

impl View<'_> {
    /// Whether the request may go there.
    pub fn admits(&self, position: usize) -> bool {
        !self.attempted.contains(position) && (self.panic || self.endpoints[position].is_available(self.now))
    }

    /// Whether the request may go there and the member is warm enough for it: one that counts with
    /// a tenth of its weight turns away nine of ten draws. Draws only if the member is warming up.
    pub fn lets_in(&self, position: usize, rng: &mut impl Rng) -> bool {
        if !self.admits(position) {
            return false;
        }
        let warmth = self.warmth(position);
        warmth >= 1.0 || rng.random::<f64>() < warmth
    }

    /// What one more request costs there.
    pub fn cost(&self, position: usize) -> f64 {
        self.endpoints[position].cost(self.now, self.weights[position])
    }

    fn warmth(&self, position: usize) -> f64 {
        let age = self.slow_start.and_then(|config| Some((config, self.endpoints[position].age(self.now)?)));
        age.map_or(1.0, |(config, age)| slow_start::warmth(config, age))
    }

    fn weight(&self, position: usize) -> f64 {
        self.weights[position] * self.warmth(position)
    }
}

/// Members and how they are picked.
#[derive(Debug)]
pub struct Group {
    /// The members.
    pub members: Box<[Member]>,
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    P2c,
    LeastRequest {
        choices: usize,
    },
    /// Taking turns, by weight over active requests.
    WeightedLeastRequest(Mutex<Edf>),
    RoundRobin(Mutex<Edf>),
    Random,
    Ring(Ring),
    Maglev(Maglev),
}

/// How far a key's walk goes before the members are looked at in turn: with half of the members out
/// of reach, so many steps find nobody once in 2^64 picks.
const WALK: usize = 64;

impl Group {
    /// Of these members, by `policy`.
    pub fn new(policy: &BalancePolicy, members: Vec<Member>) -> Self {
        let turns = || {
            let positions: Vec<_> = members.iter().map(|member| member.position).collect();
            Mutex::new(Edf::new(&positions))
        };
        let algorithm = match *policy {
            BalancePolicy::P2c => Algorithm::P2c,
            BalancePolicy::LeastRequest { choices } => {
                let one_weight = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
                if one_weight {
                    Algorithm::LeastRequest { choices }
                } else {
                    Algorithm::WeightedLeastRequest(turns())
                }
            }
            BalancePolicy::RoundRobin => Algorithm::RoundRobin(turns()),
            BalancePolicy::Random => Algorithm::Random,
            BalancePolicy::RingHash { points } => Algorithm::Ring(Ring::new(&members, points)),
            BalancePolicy::Maglev { table_size } => Algorithm::Maglev(Maglev::new(&members, table_size)),
        };
        Group { members: members.into(), algorithm }
    }

    /// One of `open`, which are the members that may be picked at all, and whether it was picked to
    /// explore. `hash` is the request's, for algorithms that ask for one; without it, chance.
    /// `None` if none is left that the view admits.
    pub fn pick(
        &self,
        open: &Shares,
        view: &View<'_>,
        hash: Option<u64>,
        rng: &mut impl Rng,
    ) -> Option<(usize, bool)> {
        let admits = |position: &usize| view.admits(*position);
        let picked = match &self.algorithm {
            Algorithm::P2c => match p2c::pick(open, view, rng) {
                Some(picked) => return Some(picked),
                None => None,
            },
            Algorithm::LeastRequest { choices } => least_request::pick(open, *choices, view, rng),
            Algorithm::WeightedLeastRequest(turns) => {
                let weight = |p: usize| view.weight(p) / f64::from(view.endpoints[p].pending() + 1);
                lock(turns).next(rng, weight, |p| view.admits(p))
            }
            Algorithm::RoundRobin(turns) => lock(turns).next(rng, |p| view.weight(p), |p| view.admits(p)),
            Algorithm::Random => {
                let draw = |_| open.draw(rng).filter(|p| view.lets_in(*p, rng));
                (0..p2c::ROUNDS).find_map(draw)
            }
            Algorithm::Ring(ring) => ring.walk(start(hash, rng)).take(WALK).find(admits),
            Algorithm::Maglev(table) => table.walk(start(hash, rng)).take(WALK).find(admits),
        };
        let anyone = || {
            let members = open.positions();
            let n = members.len().max(1) as u64;
            let (before, after) = members.split_at((start(hash, rng) % n) as usize);
            after.iter().chain(before).map(|position| *position as usize).find(admits)
        };
        picked.or_else(anyone).map(|position| (position, false))
    }
}

fn start(hash: Option<u64>, rng: &mut impl Rng) -> u64 {
    hash.unwrap_or_else(|| rng.random())
}

fn lock(turns: &Mutex<Edf>) -> std::sync::MutexGuard<'_, Edf> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A member on a machine of its own.
    pub fn placed(position: u32, weight: u32) -> Member {
        Member { position, address: ([10, 0, 0, position as u8], 8080).into(), weight }
    }
}
