//! Words that several logs have in common.

use std::time::SystemTime;

use time::OffsetDateTime;

/// A time in UTC with all of its microseconds (RFC 3339), so that every line has as many digits.
pub fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (date, (hour, minute, second)) = (at.date(), at.to_hms());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", at.microsecond())
}

/// The trace of a `traceparent` (W3C Trace Context 3.2.2): version, trace, span, flags.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let trace = traceparent.split('-').nth(1)?;
    let is_one = trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then_some(trace)
}

/// A host as a client names it, without user information: whoever sends that is refused, but a
/// password must not get into a log.
pub fn without_userinfo(host: &str) -> &str {
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_no_part_of_a_host() {
        for host in ["orders", "user:s3cr3t@orders", "user@orders", "a:b@c:d@orders", "@orders"] {
            assert_eq!(without_userinfo(host), "orders", "{host}");
        }
    }
}
