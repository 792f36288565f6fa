//! `grpc-timeout`: how long the caller will wait, counted from the moment the request is received.
//! A proxy keeps it and passes on what is left, so that the whole chain gives up together
//! (linkerd2#12964 tells what happens otherwise).

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

/// The header.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// `TimeoutValue` of `PROTOCOL-HTTP2.md` has at most eight digits.
const MAX_VALUE: u128 = 99_999_999;

/// Units from the finest to the coarsest, with their length in nanoseconds.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// How long the caller will wait, if it says so. A value that is not valid counts as none, as in
/// grpc-go's server.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| name == unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + u128::from(digit - b'0'));
    // Eight digits of hours fit into 64 bits of milliseconds, but not of nanoseconds.
    let nanos = value * nanos;
    Some(Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32))
}

/// Replaces the header by what is left of it: in the finest unit that eight digits allow, rounded
/// down, so that the next hop never waits longer than the caller, but for the last nanosecond.
pub fn forward_timeout(headers: &mut HeaderMap, left: Duration) {
    let nanos = left.as_nanos().max(1);
    let (unit, length) = UNITS.iter().find(|(_, length)| nanos / length <= MAX_VALUE).unwrap_or(&UNITS[5]);
    let value = format!("{}{}", (nanos / length).min(MAX_VALUE), char::from(*unit));
    headers.insert(TIMEOUT, HeaderValue::from_str(&value).expect("digits and a letter are a valid value"));
}

/// When the caller of a gRPC method gives up. None if it is no gRPC call, and if it waits longer
/// than clocks count.
pub fn deadline(headers: &HeaderMap, is_grpc: bool) -> Option<Instant> {
    if is_grpc { Instant::now().checked_add(timeout(headers)?) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(value: &str) -> Option<Duration> {
        timeout(&HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_str(value).unwrap())]))
    }

    #[test]
    fn every_unit_is_understood_and_nonsense_is_none() {
        for (value, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0S", Some(Duration::ZERO)),
            ("100000000n", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("", None),
        ] {
            assert_eq!(read(value), expected, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_passed_on_is_never_longer_and_hardly_shorter(nanos in 1_u64..) {
            let left = Duration::from_nanos(nanos);
            let mut headers = HeaderMap::new();
            forward_timeout(&mut headers, left);
            let passed = timeout(&headers).expect("it is valid");
            prop_assert!(passed <= left);
            // A value has at least five digits when a finer unit would not do.
            prop_assert!(left - passed <= left / 90_000, "{:?} became {:?}", left, passed);
        }
    }
}
