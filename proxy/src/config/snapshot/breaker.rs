//! When an endpoint is left alone.

use std::time::Duration;

/// When an endpoint is left alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Failures in a row that eject it; 0 switches ejection off.
    pub consecutive_failures: u32,
    /// First ejection; each further one doubles it.
    pub base: Duration,
    /// Longest ejection.
    pub max: Duration,
    /// Share of the cluster that may be ejected at once, 0 to 1; one endpoint always may.
    pub cap: f64,
}
