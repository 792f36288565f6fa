//! `[cluster.limits]`: how much one cluster may take of this sidecar.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[cluster.limits]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterLimits {
    /// Connections to its endpoints. Default 10000.
    pub connections: Option<Spanned<u32>>,
    /// Requests that wait for a connection. Default 1024.
    pub pending: Option<Spanned<u32>>,
    /// Requests in flight. Default 10000.
    pub requests: Option<Spanned<u32>>,
    /// Retries in flight. Default 100.
    pub retries: Option<Spanned<u32>>,
}
