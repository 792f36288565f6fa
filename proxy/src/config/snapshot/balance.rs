//! Which endpoint gets a request.

use std::time::Duration;

use http::HeaderName;
use serde::Serialize;

use super::dump;
use crate::config::defaults;

/// Which endpoint gets a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Balance {
    /// How an endpoint is chosen among its like.
    pub policy: BalancePolicy,
    /// What requests to one endpoint have in common; only policies that hash look at it.
    pub hash: Option<HashSource>,
    /// Whether endpoints of the sidecar's own zone are preferred.
    pub zone_aware: bool,
    /// How many times its share a zone or a priority can carry.
    pub overprovisioning: f64,
    /// Share of available endpoints, 0 to 1, below which availability counts for nothing; 0
    /// switches panic off.
    pub panic: f64,
    /// How new endpoints get to their share; `None`: at once. Policies that hash do not look at it.
    pub slow_start: Option<SlowStart>,
}

/// How an endpoint is chosen among its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BalancePolicy {
    /// The better of two by peak-EWMA cost.
    P2c,
    /// The one with the fewest active requests.
    LeastRequest {
        /// How many are compared, 2 to 16.
        choices: usize,
    },
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// By hash on a ring.
    RingHash {
        /// Points of the heaviest endpoint.
        points: u32,
    },
    /// By hash in a table.
    Maglev {
        /// Its slots, a prime number.
        table_size: u32,
    },
}

impl BalancePolicy {
    /// Whether requests that have something in common meet the same endpoint.
    pub fn hashes(self) -> bool {
        matches!(self, BalancePolicy::RingHash { .. } | BalancePolicy::Maglev { .. })
    }
}

/// What requests to one endpoint have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashSource {
    /// A header's value.
    Header(#[serde(serialize_with = "dump::text")] HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// The address of the client.
    Source,
}

/// How new endpoints get to their share. Envoy's `slow_start_config`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SlowStart {
    /// How long it takes, longer than 0.
    #[serde(serialize_with = "dump::duration")]
    pub window: Duration,
    /// The share of its weight that an endpoint begins with, above 0 and up to 1.
    pub min_weight: f64,
    /// Above 1 the share grows faster in the beginning, below 1 slower.
    pub aggression: f64,
}

impl Default for Balance {
    fn default() -> Self {
        Balance {
            policy: BalancePolicy::P2c,
            hash: None,
            zone_aware: true,
            overprovisioning: defaults::OVERPROVISIONING,
            panic: defaults::PANIC,
            slow_start: None,
        }
    }
}
