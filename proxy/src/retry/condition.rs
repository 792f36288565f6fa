//! Which failures retries are for. Envoy's conditions (`x-envoy-retry-on` and
//! `x-envoy-retry-grpc-on` in its router's documentation), read off how an attempt ended.
//!
//! A gRPC status counts only in the headers of a response that has nothing else (trailers-only, in
//! gRPC's words). A response that has begun is never held back to look at the status in its
//! trailers: a stream could wait for ever.

use http::{Response, StatusCode};

use crate::config::{Retry, RetryCondition};
use crate::error::{Error, Kind};
use crate::grpc;

/// How an attempt ended, as far as retries care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Without a response.
    Failed {
        /// Why.
        kind: Kind,
        /// Whether it is certain that not a byte of the request was sent.
        unsent: bool,
    },
    /// With a response.
    Answered {
        /// Its status.
        status: u16,
        /// The gRPC status among its headers.
        grpc: Option<u16>,
    },
}

impl AttemptOutcome {
    /// What became of an attempt.
    pub fn of<B>(result: &Result<Response<B>, Error>, unsent: bool, is_grpc: bool) -> Self {
        match result {
            Ok(response) => AttemptOutcome::answered(response, is_grpc),
            Err(error) => AttemptOutcome::Failed { kind: error.kind, unsent },
        }
    }

    /// An attempt that was answered so.
    pub fn answered<B>(response: &Response<B>, is_grpc: bool) -> Self {
        let ok = is_grpc && response.status() == StatusCode::OK;
        let grpc = response.headers().get(grpc::STATUS).filter(|_| ok);
        let grpc = grpc.and_then(|status| status.to_str().ok()?.parse().ok());
        AttemptOutcome::Answered { status: response.status().as_u16(), grpc }
    }

    /// Whether nobody can have begun with the request, so that any may be made again. HTTP/2
    /// guarantees it for a refused stream (RFC 9113 section 8.7). What a response says about it is
    /// not enough: anybody could write that.
    pub fn is_untouched(self) -> bool {
        matches!(
            self,
            AttemptOutcome::Failed { unsent: true, .. } | AttemptOutcome::Failed { kind: Kind::Refused, .. }
        )
    }

    /// Whether the endpoint did what it was asked: its answer pays into the budget.
    pub fn is_success(self) -> bool {
        matches!(self, AttemptOutcome::Answered { status: ..500, grpc: None | Some(0) })
    }
}

/// The first of `retry`'s conditions that holds after an attempt, if one does.
pub fn reason(retry: &Retry, ended: AttemptOutcome) -> Option<RetryCondition> {
    use RetryCondition as C;
    let candidates: [Option<C>; 3] = match ended {
        AttemptOutcome::Failed { kind, unsent } => match kind {
            Kind::Connect | Kind::ConnectTimeout | Kind::Handshake | Kind::NoSocket | Kind::NoEndpoint => {
                [Some(C::ConnectFailure), Some(C::ServerError), None]
            }
            Kind::Refused | Kind::PoolFull | Kind::PoolTimeout | Kind::Overload => {
                [Some(C::RefusedStream), Some(C::ServerError), None]
            }
            Kind::Terminated | Kind::Protocol | Kind::TryTimeout | Kind::ResponseTimeout => {
                [unsent.then_some(C::ResetBeforeRequest), Some(C::Reset), Some(C::ServerError)]
            }
            _ => [None; 3],
        },
        AttemptOutcome::Answered { grpc: Some(code), .. } => {
            [C::ALL.into_iter().find(|condition| condition.grpc() == Some(code)), None, None]
        }
        AttemptOutcome::Answered { status, .. } => {
            let by_class = match status {
                502..=504 => Some(C::GatewayError),
                409 => Some(C::Retriable4xx),
                _ => None,
            };
            let listed = retry.status_codes.contains(&status).then_some(C::RetriableStatusCodes);
            [by_class, listed, (status >= 500).then_some(C::ServerError)]
        }
    };
    candidates.into_iter().flatten().find(|condition| retry.on.contains(*condition))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RetryConditions, parse};

    fn holds(condition: RetryCondition, ended: AttemptOutcome) -> bool {
        let mut retry = (*parse("a", "service = 'web'\n[[cluster]]\nname = 'a'\naddresses = ['10.0.0.1:1']\nendpoints = ['10.0.0.2:1']")
            .unwrap()
            .clusters[0]
            .retry)
            .clone();
        retry.on = RetryConditions::of(&[condition]);
        retry.status_codes = vec![429];
        reason(&retry, ended) == Some(condition)
    }

    #[test]
    fn each_condition_holds_for_what_envoy_says_and_nothing_else() {
        use RetryCondition as C;
        let failed = |kind, unsent| AttemptOutcome::Failed { kind, unsent };
        let status = |status| AttemptOutcome::Answered { status, grpc: None };
        let grpc = |code| AttemptOutcome::Answered { status: 200, grpc: Some(code) };
        let all: [(AttemptOutcome, &[C]); 22] = [
            (failed(Kind::Connect, true), &[C::ConnectFailure, C::ServerError]),
            (failed(Kind::ConnectTimeout, true), &[C::ConnectFailure, C::ServerError]),
            (failed(Kind::NoEndpoint, false), &[C::ConnectFailure, C::ServerError]),
            (failed(Kind::Refused, false), &[C::RefusedStream, C::ServerError]),
            (failed(Kind::PoolFull, true), &[C::RefusedStream, C::ServerError]),
            (failed(Kind::PoolTimeout, true), &[C::RefusedStream, C::ServerError]),
            (failed(Kind::Overload, false), &[C::RefusedStream, C::ServerError]),
            (failed(Kind::Terminated, true), &[C::ResetBeforeRequest, C::Reset, C::ServerError]),
            (failed(Kind::Terminated, false), &[C::Reset, C::ServerError]),
            (failed(Kind::TryTimeout, false), &[C::Reset, C::ServerError]),
            (failed(Kind::Client, false), &[]),
            (failed(Kind::Deadline, false), &[]),
            (status(200), &[]),
            (status(404), &[]),
            (status(409), &[C::Retriable4xx]),
            (status(429), &[C::RetriableStatusCodes]),
            (status(500), &[C::ServerError]),
            (status(503), &[C::GatewayError, C::ServerError]),
            (grpc(0), &[]),
            (grpc(5), &[]),
            (grpc(8), &[C::ResourceExhausted]),
            (grpc(14), &[C::Unavailable]),
        ];
        for (ended, expected) in all {
            let found: Vec<_> = C::ALL.into_iter().filter(|condition| holds(*condition, ended)).collect();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{ended:?}");
        }
    }

    #[test]
    fn only_an_answer_without_a_failure_in_it_is_a_success() {
        let answered = |status, grpc| AttemptOutcome::Answered { status, grpc };
        assert!(
            answered(200, None).is_success()
                && answered(404, None).is_success()
                && answered(200, Some(0)).is_success()
        );
        assert!(!answered(500, None).is_success() && !answered(200, Some(14)).is_success());
        assert!(!AttemptOutcome::Failed { kind: Kind::Connect, unsent: true }.is_success());
    }

    #[test]
    fn a_grpc_status_counts_in_the_answer_to_a_grpc_call_only() {
        let response = Response::builder().header("grpc-status", "14").body(()).unwrap();
        let result: Result<_, Error> = Ok(response);
        assert_eq!(
            AttemptOutcome::of(&result, false, true),
            AttemptOutcome::Answered { status: 200, grpc: Some(14) }
        );
        assert_eq!(
            AttemptOutcome::of(&result, false, false),
            AttemptOutcome::Answered { status: 200, grpc: None }
        );
    }
}
