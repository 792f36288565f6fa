//! How long to wait before another attempt.
//!
//! Envoy's fully jittered exponential back-off: before the n-th retry a random time from 0 to
//! `(2^n - 1)` times the base interval, up to a cap. It is spread over the whole range, because the
//! callers of a service that failed all at once would otherwise come back all at once.
//!
//! There is one exception. The wait gives an endpoint time to recover, and its callers time to
//! spread out. If the endpoint has not even begun with the request and there is another one,
//! neither is needed: the other gets what it would have got had it been picked first. So the first
//! such retry goes at once.
//!
//! An answer may say itself when to come back: `Retry-After` (RFC 9110 section 10.2.3), or
//! `grpc-retry-pushback-ms` (gRPC's proposal A6). It is heeded up to a limit; past that the answer
//! is the client's. A date in `Retry-After` is ignored: the clocks of two machines agree no better
//! than to a second or so, which is all that would be waited.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, RETRY_AFTER};
use rand::{Rng, RngExt};

use crate::config::Retry;
use crate::mutant::Mutant;

/// gRPC's way to say when, in milliseconds; something negative, or no number: never.
pub const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// When an answer says that it may be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryAfter {
    /// It says nothing.
    #[default]
    Nothing,
    /// Not before this time is over.
    After(Duration),
    /// Not at all.
    Never,
}

impl RetryAfter {
    /// Reads it from the headers of a response.
    pub fn of(headers: &HeaderMap) -> Self {
        if let Some(value) = headers.get(PUSHBACK) {
            let millis = value.to_str().ok().and_then(|text| text.parse().ok());
            return millis
                .map_or(RetryAfter::Never, |millis| RetryAfter::After(Duration::from_millis(millis)));
        }
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        seconds.map_or(RetryAfter::Nothing, |seconds| RetryAfter::After(Duration::from_secs(seconds)))
    }
}

/// How long to wait before the retry that is the `nth`, counted from 1. `elsewhere`: nobody has
/// begun with the request, and it goes to another endpoint. `None` if the last answer asks for more
/// time than is given.
pub fn wait(
    retry: &Retry,
    nth: u32,
    elsewhere: bool,
    asked: RetryAfter,
    rng: &mut impl Rng,
) -> Option<Duration> {
    match asked {
        RetryAfter::Never => None,
        RetryAfter::After(time) if time > retry.retry_after => None,
        // As Envoy does, up to half as much again: many were told the same.
        RetryAfter::After(time) => Some(time + up_to(time / 2, rng).max(backoff(retry, nth, rng))),
        RetryAfter::Nothing if elsewhere && nth == 1 => Some(Duration::ZERO),
        RetryAfter::Nothing => Some(backoff(retry, nth, rng)),
    }
}

fn backoff(retry: &Retry, nth: u32, rng: &mut impl Rng) -> Duration {
    if Mutant::DoesNotBackOff.is_planted() {
        return Duration::ZERO;
    }
    let steps = 1_u32.checked_shl(nth).unwrap_or(0).wrapping_sub(1);
    up_to(retry.base.saturating_mul(steps).min(retry.max), rng)
}

fn up_to(most: Duration, rng: &mut impl Rng) -> Duration {
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.random_range(0..=nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RetryConditions, defaults};
    use crate::world::RngTree;
    use proptest::prelude::*;

    fn retry(base: Duration, max: Duration) -> Retry {
        Retry {
            attempts: 9,
            on: RetryConditions::default(),
            status_codes: vec![],
            unsafe_methods: false,
            base,
            max,
            retry_after: defaults::RETRY_AFTER_MAX,
            body: 0,
            hedge: None,
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_fill_the_whole_range_of_envoys_formula() {
        let retry = retry(25 * MS, 250 * MS);
        let mut rng = RngTree::new(1).rng();
        for (nth, most) in
            [(1, 25 * MS), (2, 75 * MS), (3, 175 * MS), (4, 250 * MS), (9, 250 * MS), (40, 250 * MS)]
        {
            let waits: Vec<_> =
                (0..1000).map(|_| wait(&retry, nth, false, RetryAfter::Nothing, &mut rng).unwrap()).collect();
            let (least, longest) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            // Of 1000 uniform draws none falls into the outer 2 % once in 600 million times.
            assert!(
                *least < most / 50 && *longest > most * 49 / 50 && *longest <= most,
                "{nth}: {least:?} {longest:?}"
            );
        }
    }

    #[test]
    fn only_the_first_retry_of_an_untouched_request_goes_elsewhere_at_once() {
        let retry = retry(25 * MS, 250 * MS);
        let mut rng = RngTree::new(1).rng();
        let mut is_at_once = |nth, elsewhere| {
            (0..100)
                .all(|_| wait(&retry, nth, elsewhere, RetryAfter::Nothing, &mut rng) == Some(Duration::ZERO))
        };
        assert!(is_at_once(1, true) && !is_at_once(2, true) && !is_at_once(1, false));
    }

    #[test]
    fn an_answer_may_say_when() {
        let asked = |name: &'static str, value: &'static str| {
            RetryAfter::of(&HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]))
        };
        for (name, value, expected) in [
            ("retry-after", "1", RetryAfter::After(Duration::from_secs(1))),
            ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT", RetryAfter::Nothing),
            ("retry-after", "-1", RetryAfter::Nothing),
            ("grpc-retry-pushback-ms", "200", RetryAfter::After(200 * MS)),
            ("grpc-retry-pushback-ms", "-1", RetryAfter::Never),
            ("grpc-retry-pushback-ms", "soon", RetryAfter::Never),
            ("x", "1", RetryAfter::Nothing),
        ] {
            assert_eq!(asked(name, value), expected, "{name}: {value}");
        }
    }

    proptest! {
        #[test]
        fn what_an_answer_asks_for_is_waited_and_never_more_than_is_given(
            (millis, nth, seed, elsewhere) in (0_u64..3000, 1_u32..10, any::<u64>(), any::<bool>())
        ) {
            let retry = retry(25 * MS, 250 * MS);
            let time = Duration::from_millis(millis);
            let waited = wait(&retry, nth, elsewhere, RetryAfter::After(time), &mut RngTree::new(seed).rng());
            prop_assert_eq!(waited.is_some(), time <= retry.retry_after);
            if let Some(waited) = waited {
                prop_assert!(waited >= time && waited <= time + (time / 2).max(retry.max), "{:?} {:?}", time, waited);
            }
        }
    }
}
