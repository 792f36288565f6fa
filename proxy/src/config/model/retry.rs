//! `[retry]`: tries after a failure.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[retry]` and `[cluster.retry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Tries beyond the first. Default 2; 0 switches retries off.
    #[serde(default)]
    pub attempts: Option<Spanned<u32>>,
}
