//! Words that several logs have in common.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A time in UTC with all of its microseconds (RFC 3339), so that every line has as many digits.
pub fn rfc3339(at: SystemTime) -> String {
    let time = OffsetDateTime::from(at);
    let seconds = time.replace_nanosecond(0).ok().and_then(|time| time.format(&Rfc3339).ok());
    let seconds = seconds.unwrap_or_default();
    format!("{}.{:06}Z", seconds.trim_end_matches('Z'), time.microsecond())
}

/// The trace of a `traceparent` (W3C Trace Context 3.2.2): version, trace, span, flags.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let trace = traceparent.split('-').nth(1)?;
    let is_one = trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then_some(trace)
}
