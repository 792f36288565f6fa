//! When an endpoint is ejected.

use std::time::Duration;

use serde::Serialize;

use super::dump;
use crate::config::defaults;

/// When an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OutlierDetection {
    /// Failures in a row that eject it; 0: any run is borne.
    pub consecutive_failures: u32,
    /// Success rate below which it is ejected, 0 to 1; 0: any rate is borne.
    pub success_rate: f64,
    /// Requests in a window before its rate says anything.
    pub min_requests: u32,
    /// How far back the rate looks; an endpoint that does well for so long has its next ejection
    /// halved.
    #[serde(serialize_with = "dump::duration")]
    pub window: Duration,
    /// First ejection; each further one doubles it.
    #[serde(serialize_with = "dump::duration")]
    pub base: Duration,
    /// Longest ejection.
    #[serde(serialize_with = "dump::duration")]
    pub max: Duration,
    /// Share of the cluster that may be ejected at once, 0 to 1; one endpoint always may.
    pub cap: f64,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            consecutive_failures: defaults::CONSECUTIVE_FAILURES,
            success_rate: defaults::SUCCESS_RATE,
            min_requests: defaults::SUCCESS_RATE_REQUESTS,
            window: defaults::OUTLIER_WINDOW,
            base: defaults::EJECTION_BASE,
            max: defaults::EJECTION_MAX,
            cap: defaults::EJECTION_CAP,
        }
    }
}
