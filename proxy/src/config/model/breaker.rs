//! `[breaker]`: when an endpoint is left alone.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[breaker]` and `[cluster.breaker]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row that eject an endpoint. Default 5; 0 switches ejection off.
    #[serde(default)]
    pub consecutive_failures: Option<Spanned<u32>>,
    /// First ejection. Default `"1s"`.
    #[serde(default)]
    pub base: Option<Spanned<String>>,
    /// Longest ejection. Default `"60s"`.
    #[serde(default)]
    pub max: Option<Spanned<String>>,
    /// Share of the cluster that may be ejected at once. Default `"50%"`.
    #[serde(default)]
    pub cap: Option<Spanned<String>>,
}
