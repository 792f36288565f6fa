//! `[outlier_detection]`: when an endpoint is ejected.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[outlier_detection]` and `[cluster.outlier_detection]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlierDetection {
    /// Failures in a row that eject an endpoint. Default 5; 0 switches this off.
    pub consecutive_failures: Option<Spanned<u32>>,
    /// Success rate below which an endpoint is ejected, if the others do better. Default `"80%"`;
    /// `"0%"` switches this off.
    pub success_rate: Option<Spanned<String>>,
    /// Requests in a window before its rate says anything. Default 10.
    pub min_requests: Option<Spanned<u32>>,
    /// How far back the rate looks; an endpoint that does well for so long has its next ejection
    /// halved. Default `"10s"`.
    pub window: Option<Spanned<String>>,
    /// First ejection. Default `"1s"`.
    pub base: Option<Spanned<String>>,
    /// Longest ejection. Default `"60s"`.
    pub max: Option<Spanned<String>>,
    /// Share of the cluster that may be ejected at once. Default `"50%"`.
    pub cap: Option<Spanned<String>>,
}
