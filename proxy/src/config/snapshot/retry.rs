//! Retries after a failure, and how many there may be.

use std::time::Duration;

use serde::Serialize;

use super::dump;

/// Retries after a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// Attempts beyond the first; 0 switches retries off.
    pub attempts: u32,
    /// After which failures.
    pub on: RetryConditions,
    /// The statuses that [`RetryCondition::RetriableStatusCodes`] means.
    pub status_codes: Vec<u16>,
    /// Whether requests are repeated that may have had an effect.
    pub unsafe_methods: bool,
    /// The first wait is drawn from zero to this.
    #[serde(serialize_with = "dump::duration")]
    pub base: Duration,
    /// Longest wait of our own choice.
    #[serde(serialize_with = "dump::duration")]
    pub max: Duration,
    /// Longest wait that an answer may ask for and still be tried again.
    #[serde(serialize_with = "dump::duration")]
    pub retry_after: Duration,
    /// Bytes of a request's body that are kept to be sent again.
    pub body: usize,
    /// After how much silence a second attempt begins beside the first, if ever.
    #[serde(serialize_with = "dump::optional_duration")]
    pub hedge: Option<Duration>,
}

/// What pays for the retries of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RetryBudget {
    /// What share of a retry each success pays for, 0 to 1.
    pub share: f64,
    /// Retries a second that are there without successes.
    pub per_second: u32,
    /// Retries that may be saved up.
    pub reserve: u32,
}

/// A kind of failure after which a request may be tried again. The names are Envoy's (`retry_on`
/// and `retry_grpc_on` of its route configuration), and so is what they mean, but that no method is
/// repeated that is not safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryCondition {
    /// No connection to the endpoint, or none from its sidecar to the app.
    ConnectFailure,
    /// The endpoint, or its sidecar, took no further request: nothing was processed.
    RefusedStream,
    /// No answer at all: the connection ended, or an attempt took too long.
    Reset,
    /// The connection ended before a byte of the request was sent on it.
    ResetBeforeRequest,
    /// 500 to 599, and all four above.
    ServerError,
    /// 502, 503 or 504.
    GatewayError,
    /// 409.
    Retriable4xx,
    /// One of `status_codes`.
    RetriableStatusCodes,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
}

impl RetryCondition {
    /// All of them, in their order.
    pub const ALL: [RetryCondition; 13] = [
        RetryCondition::ConnectFailure,
        RetryCondition::RefusedStream,
        RetryCondition::Reset,
        RetryCondition::ResetBeforeRequest,
        RetryCondition::ServerError,
        RetryCondition::GatewayError,
        RetryCondition::Retriable4xx,
        RetryCondition::RetriableStatusCodes,
        RetryCondition::Cancelled,
        RetryCondition::DeadlineExceeded,
        RetryCondition::ResourceExhausted,
        RetryCondition::Internal,
        RetryCondition::Unavailable,
    ];

    /// Envoy's name.
    pub fn name(self) -> &'static str {
        match self {
            RetryCondition::ConnectFailure => "connect-failure",
            RetryCondition::RefusedStream => "refused-stream",
            RetryCondition::Reset => "reset",
            RetryCondition::ResetBeforeRequest => "reset-before-request",
            RetryCondition::ServerError => "5xx",
            RetryCondition::GatewayError => "gateway-error",
            RetryCondition::Retriable4xx => "retriable-4xx",
            RetryCondition::RetriableStatusCodes => "retriable-status-codes",
            RetryCondition::Cancelled => "cancelled",
            RetryCondition::DeadlineExceeded => "deadline-exceeded",
            RetryCondition::ResourceExhausted => "resource-exhausted",
            RetryCondition::Internal => "internal",
            RetryCondition::Unavailable => "unavailable",
        }
    }

    /// The gRPC status that it stands for.
    pub fn grpc(self) -> Option<u16> {
        match self {
            RetryCondition::Cancelled => Some(1),
            RetryCondition::DeadlineExceeded => Some(4),
            RetryCondition::ResourceExhausted => Some(8),
            RetryCondition::Internal => Some(13),
            RetryCondition::Unavailable => Some(14),
            _ => None,
        }
    }
}

/// A set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryConditions(u16);

impl RetryConditions {
    /// Of these.
    pub const fn of(conditions: &[RetryCondition]) -> Self {
        let (mut bits, mut n) = (0, 0);
        while n < conditions.len() {
            bits |= 1 << conditions[n] as u16;
            n += 1;
        }
        RetryConditions(bits)
    }

    /// Whether it is in.
    pub fn contains(self, condition: RetryCondition) -> bool {
        self.0 & 1 << condition as u16 != 0
    }
}
