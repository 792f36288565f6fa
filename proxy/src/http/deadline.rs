//! When the caller gives up: `grpc-timeout` of a gRPC call, and `x-request-timeout` of any request.
//! It bounds all attempts together, and what is left of it is passed on, so that a whole chain of
//! services gives up at the same time and none works for a caller who has gone.
//!
//! The value of `x-request-timeout` is a length of time as in the configuration file: `250ms`,
//! `1.5s`, `2m`. One that is none counts as none, as with gRPC. The unit is written out, since
//! other proxies' headers of this kind count milliseconds (Envoy's
//! `x-envoy-upstream-rq-timeout-ms`) or seconds (HAProxy's, nginx's), and nobody sees which.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::config::units;
use crate::grpc;
use crate::mutant::Mutant;

/// How long the caller will wait, counted from the moment that the request is received.
pub const X_REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// When the caller gives up, if it says so: the earlier of the two.
pub fn of(headers: &HeaderMap, is_grpc: bool) -> Option<Instant> {
    let plain = headers.get(X_REQUEST_TIMEOUT).and_then(|text| units::duration(text.to_str().ok()?).ok());
    let plain = plain.and_then(|limit| Instant::now().checked_add(limit));
    match (grpc::deadline(headers, is_grpc), plain) {
        (Some(grpc), Some(plain)) => Some(grpc.min(plain)),
        (grpc, plain) => grpc.or(plain),
    }
}

/// Says to the next hop what is `left`, rounded down, but never that it is nothing: some take that
/// for no limit.
pub fn forward(headers: &mut HeaderMap, is_grpc: bool, left: Duration) {
    if Mutant::PassesOnTheWholeDeadline.is_planted() {
        return;
    }
    if is_grpc {
        grpc::forward_timeout(headers, left);
    }
    if headers.contains_key(X_REQUEST_TIMEOUT) {
        let value = HeaderValue::from_str(&format!("{}ms", left.as_millis().max(1)));
        headers.insert(X_REQUEST_TIMEOUT, value.expect("digits and letters are a valid value"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let entries = all.iter().copied();
        entries
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_both_counts_and_nonsense_does_not() {
        let in_ms = |all: &[_], is_grpc| {
            of(&headers(all), is_grpc).map(|at| at.duration_since(Instant::now()).as_millis())
        };
        for (value, expected) in [
            ("1.5s", Some(1500)),
            ("200ms", Some(200)),
            ("0s", Some(0)),
            ("2m", Some(120_000)),
            ("15", None),
            ("soon", None),
        ] {
            assert_eq!(in_ms(&[("x-request-timeout", value)], false), expected, "{value}");
        }
        let both = [("x-request-timeout", "1s"), ("grpc-timeout", "300m")];
        assert_eq!([in_ms(&both, true), in_ms(&both, false)], [Some(300), Some(1000)]);
    }

    #[test]
    fn what_is_left_is_passed_on_in_the_callers_words() {
        let left = Duration::from_micros(1_499_999);
        let mut plain = headers(&[("x-request-timeout", "2s")]);
        forward(&mut plain, false, left);
        assert_eq!(plain, headers(&[("x-request-timeout", "1499ms")]));
        let mut call = headers(&[("grpc-timeout", "2S")]);
        forward(&mut call, true, left);
        assert_eq!(call, headers(&[("grpc-timeout", "1499999u")]));
    }

    #[test]
    fn the_last_of_a_deadline_is_not_passed_on_as_none() {
        for left in [Duration::ZERO, Duration::from_nanos(1)] {
            let mut both = headers(&[("x-request-timeout", "1ms"), ("grpc-timeout", "1m")]);
            forward(&mut both, true, left);
            assert_eq!(both, headers(&[("x-request-timeout", "1ms"), ("grpc-timeout", "1n")]));
        }
    }
}
