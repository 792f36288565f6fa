//! Which endpoint gets the next request.
//!
//! A [`Cluster`] has a [`Balancer`] for all its members, and one for each subset that routes ask
//! for. A balancer chooses priority and zone by what can be picked there ([`level`]), and within
//! them a member by the algorithm that the configuration names, each in a file of its own: [`p2c`],
//! [`least_request`], [`edf`] (round robin), [`Shares`] (random), [`ring`], [`maglev`].
//!
//! A member that is ejected or unhealthy is not picked, unless so few are left that health is no
//! guide any more (panic). A request that is tried again goes to somebody else if there is anybody.
//! A pick allocates nothing and looks at a handful of members.
//!
//! Left out: bounded loads under hashes (a hot key is its endpoint's problem), and least-loaded
//! spilling over between zones (a zone that is slow but available keeps its requests).

mod balancer;
mod cluster;
pub mod edf;
pub mod group;
pub mod hash;
pub mod least_request;
pub mod level;
pub mod maglev;
pub mod p2c;
pub mod ring;
mod shares;
pub mod slow_start;
mod status;
mod table;

pub use balancer::{Balancer, Picked};
pub use cluster::Cluster;
pub use group::View;
pub use shares::Shares;
pub use status::{ClusterStatus, EndpointStatus};
pub use table::Table;

pub use crate::endpoint::PickContext;

/// Endpoints that a request has already been tried on, by position. A request has a handful of
/// attempts; beyond [`Attempted::MOST`] the first ones are forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempted {
    positions: [u32; Attempted::MOST],
    count: u32,
}

impl Attempted {
    /// How many are remembered.
    pub const MOST: usize = 8;

    /// Adds one.
    pub fn insert(&mut self, position: usize) {
        self.positions[self.count as usize % Self::MOST] = position as u32;
        self.count = self.count.saturating_add(1);
    }

    /// Whether it is in.
    pub fn contains(&self, position: usize) -> bool {
        self.positions.iter().take(self.count as usize).any(|attempted| *attempted as usize == position)
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests;
