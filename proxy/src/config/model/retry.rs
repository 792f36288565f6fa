//! `[retry]` and `[retry_budget]`: retries after a failure, and how many there may be.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[retry]` and `[cluster.retry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Attempts beyond the first. Default 2; 0 switches retries off.
    pub attempts: Option<Spanned<u32>>,
    /// After which failures, in Envoy's words. Default `["connect-failure", "refused-stream",
    /// "reset", "gateway-error", "unavailable"]`.
    pub on: Option<Vec<Spanned<String>>>,
    /// The statuses that `"retriable-status-codes"` means. Default: none.
    pub status_codes: Option<Spanned<Vec<Spanned<u16>>>>,
    /// Whether requests are repeated that may have had an effect: POST, PATCH, every gRPC call.
    /// Default: false.
    pub unsafe_methods: Option<bool>,
    /// The first wait is drawn from zero to this, and later ones from more. Default `"25ms"`.
    pub base: Option<Spanned<String>>,
    /// Longest wait of our own choice. Default `"250ms"`.
    pub max: Option<Spanned<String>>,
    /// Longest wait that an answer may ask for (`Retry-After`, `grpc-retry-pushback-ms`) and still
    /// be tried again. Default `"1s"`; `"0s"`: such an answer is always passed on.
    pub retry_after: Option<Spanned<String>>,
    /// Bytes of a request's body that are kept to be sent again. Default `"64KiB"`; `"0KiB"`: none.
    pub body: Option<Spanned<String>>,
    /// After how much silence a second attempt begins beside the first. Off by default, as is
    /// `"0s"`.
    pub hedge: Option<Spanned<String>>,
}

/// `[retry_budget]` and `[cluster.retry_budget]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// What share of a retry each success pays for. Default `"20%"`.
    pub share: Option<Spanned<String>>,
    /// Retries a second that are there without successes. Default 1.
    pub per_second: Option<Spanned<u32>>,
    /// Retries that may be saved up. Default 20.
    pub reserve: Option<Spanned<u32>>,
}
