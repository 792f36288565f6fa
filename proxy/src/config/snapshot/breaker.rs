//! When an endpoint is left alone.

use std::time::Duration;

/// When an endpoint is left alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Failures in a row that eject it; 0: any run is borne.
    pub consecutive_failures: u32,
    /// Success rate below which it is ejected, 0 to 1; 0: any rate is borne.
    pub success_rate: f64,
    /// Requests in a window before its rate says anything.
    pub min_requests: u32,
    /// How far back the rate looks; an endpoint that does well for so long has its next ejection halved.
    pub window: Duration,
    /// First ejection; each further one doubles it.
    pub base: Duration,
    /// Longest ejection.
    pub max: Duration,
    /// Share of the cluster that may be ejected at once, 0 to 1; one endpoint always may.
    pub cap: f64,
}
