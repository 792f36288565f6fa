//! `[balance]`: which endpoint gets a request.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[balance]` and `[cluster.balance]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// `"p2c"` (default), `"least_request"`, `"round_robin"`, `"random"`, `"ring_hash"` or
    /// `"maglev"`.
    pub policy: Option<Spanned<String>>,
    /// Of `least_request`: how many endpoints are compared. Default 2.
    pub choices: Option<Spanned<u32>>,
    /// Of `ring_hash`: at how many points of the ring the heaviest endpoint stands. Default 160.
    pub ring_points: Option<Spanned<u32>>,
    /// Of `maglev`: slots of the table, a prime number. Default 65537.
    pub table_size: Option<Spanned<u32>>,
    /// Of `ring_hash` and `maglev`: what requests to one endpoint have in common: `"header:NAME"`,
    /// `"cookie:NAME"` or `"source"`.
    pub hash: Option<Spanned<String>>,
    /// Whether endpoints of the sidecar's own zone are preferred. Default: true.
    pub zone_aware: Option<bool>,
    /// How many times its share a zone or a priority can carry. Default 1.4.
    pub overprovisioning: Option<Spanned<f64>>,
    /// Share of available endpoints below which availability counts for nothing. Default `"50%"`;
    /// `"0%"` switches it off.
    pub panic: Option<Spanned<String>>,
    /// How endpoints that are new get to their share. Default: at once.
    pub slow_start: Option<SlowStart>,
}

/// `slow_start = { window = "30s" }`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    /// How long it takes; `"0s"` switches it off.
    pub window: Option<Spanned<String>>,
    /// With what share of its weight an endpoint begins. Default `"10%"`.
    pub min_weight: Option<Spanned<String>>,
    /// Above 1 the share grows faster in the beginning, below 1 slower. Default 1: evenly.
    pub aggression: Option<Spanned<f64>>,
}
