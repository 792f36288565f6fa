//! What an attempt says about the endpoint that it went to. Policy of one page: status codes, gRPC
//! statuses and errors on one side, four outcomes on the other.
//!
//! An endpoint is not blamed for what it did not do: a client that left, a limit of this sidecar's
//! own, a kept connection that was closed while nobody used it.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, RETRY_AFTER};

use crate::error::{Error, Kind};
use crate::grpc;

/// When a gRPC server wants the next attempt, milliseconds (gRFC A6).
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What an attempt says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Success,
    /// It does not work. It may have said for how long.
    Failure(Option<Duration>),
    /// It works, but wants no more for now (429, RESOURCE_EXHAUSTED, its sidecar's refusal). Counts
    /// for the success rate and not for the run of failures, as in Linkerd: an endpoint that
    /// answers is not dead.
    Overload(Option<Duration>),
    /// Nothing.
    Unknown,
}

impl Outcome {
    /// From the head of a response; `None` if a gRPC call's trailers will tell.
    pub fn of_head(status: StatusCode, headers: &HeaderMap, is_grpc: bool) -> Option<Self> {
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Some(Outcome::Overload(wait(headers)));
        }
        if status.is_server_error() {
            return Some(Outcome::Failure(wait(headers)));
        }
        if !is_grpc {
            return Some(Outcome::Success);
        }
        if headers.contains_key(grpc::STATUS) {
            return Some(Self::of_status(headers));
        }
        // An answer that is no gRPC will have no such trailers.
        let speaks_grpc = status == StatusCode::OK && grpc::is_grpc(headers);
        (!speaks_grpc).then_some(Outcome::Success)
    }

    /// From the trailers of a gRPC call. A call that ends without a status was cut short.
    pub fn of_trailers(trailers: &HeaderMap) -> Self {
        if trailers.contains_key(grpc::STATUS) { Self::of_status(trailers) } else { Outcome::Failure(None) }
    }

    /// UNKNOWN (2; what frameworks make of an uncaught exception), DEADLINE_EXCEEDED (4), INTERNAL
    /// (13), UNAVAILABLE (14) and DATA_LOSS (15) are failures, as for Linkerd. It adds
    /// PERMISSION_DENIED (7), which is the caller's own.
    fn of_status(headers: &HeaderMap) -> Self {
        let code = headers.get(grpc::STATUS).and_then(|status| status.to_str().ok()?.parse::<u8>().ok());
        match code {
            Some(2 | 4 | 13 | 14 | 15) => Outcome::Failure(wait(headers)),
            Some(8) => Outcome::Overload(wait(headers)),
            _ => Outcome::Success,
        }
    }

    /// From an attempt that got no answer. `unsent` says that not a byte of the request left.
    pub fn of_error(error: &Error, unsent: bool) -> Self {
        match error.kind {
            Kind::Client | Kind::Malformed | Kind::PoolFull | Kind::PoolTimeout | Kind::NoSocket => {
                Outcome::Unknown
            }
            // A kept connection that the endpoint closed in the meantime.
            _ if error.reused && unsent => Outcome::Unknown,
            // It took leave of the connection (GOAWAY), as servers do whose connections have come
            // of age.
            Kind::Refused if error.reset.is_none() => Outcome::Unknown,
            Kind::Refused => Outcome::Overload(None),
            _ => Outcome::Failure(None),
        }
    }

    /// From an opaque connection that could not be opened. One that was accepted, and reset at
    /// once, says nothing: that is how the sidecar of the other side tells a connection that its
    /// policies deny. Envoy's TCP proxy, too, counts only whether connecting succeeds.
    pub fn of_connect(error: &Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        match io.map(io::Error::kind) {
            Some(BrokenPipe | ConnectionReset) => Outcome::Unknown,
            _ => Self::of_error(error, true),
        }
    }

    /// From an answer that the endpoint's sidecar gave in its stead.
    pub fn of_refusal(kind: Kind, headers: &HeaderMap) -> Self {
        match kind {
            Kind::Overload => Outcome::Overload(wait(headers)),
            _ => Outcome::Failure(wait(headers)),
        }
    }

    /// Whether it counts against the success rate.
    pub(super) fn failed(self) -> bool {
        matches!(self, Outcome::Failure(_) | Outcome::Overload(_))
    }

    /// How long the endpoint asks for no requests, if it said so.
    pub(super) fn wait(self) -> Option<Duration> {
        match self {
            Outcome::Failure(wait) | Outcome::Overload(wait) => wait,
            Outcome::Success | Outcome::Unknown => None,
        }
    }
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3; a date would need two clocks to agree), or
/// gRPC's push-back.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let number = |name| headers.get(name)?.to_str().ok()?.trim().parse::<u32>().ok();
    let seconds = number(RETRY_AFTER).map(|seconds| Duration::from_secs(seconds.into()));
    seconds.or_else(|| number(PUSHBACK).map(|millis| Duration::from_millis(millis.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_connection_that_was_accepted_and_reset_says_nothing_and_one_that_was_refused_does() {
        use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut};
        let at = "10.0.0.1:80".parse().unwrap();
        for (kind, outcome) in [
            (ConnectionReset, Outcome::Unknown),
            (BrokenPipe, Outcome::Unknown),
            (ConnectionRefused, Outcome::Failure(None)),
            (TimedOut, Outcome::Failure(None)),
        ] {
            let error = Error::at(Kind::Connect, at, io::Error::from(kind));
            assert_eq!(Outcome::of_connect(&error), outcome, "{kind:?}");
        }
    }

    const S: Duration = Duration::from_secs(1);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn an_answer_says_whether_its_endpoint_works() {
        let http = |status: u16, pairs: &[_]| {
            Outcome::of_head(StatusCode::from_u16(status).unwrap(), &headers(pairs), false)
        };
        for (status, expected) in [
            (200, Outcome::Success),
            (404, Outcome::Success),
            (429, Outcome::Overload(None)),
            (500, Outcome::Failure(None)),
            (503, Outcome::Failure(None)),
        ] {
            assert_eq!(http(status, &[]), Some(expected), "{status}");
        }
        assert_eq!(http(429, &[("retry-after", "2")]), Some(Outcome::Overload(Some(2 * S))));
        assert_eq!(http(503, &[("retry-after", "1")]), Some(Outcome::Failure(Some(S))));
        let asked = headers(&[("retry-after", "2")]);
        assert_eq!(Outcome::of_refusal(Kind::Overload, &asked), Outcome::Overload(Some(2 * S)));
        assert_eq!(Outcome::of_refusal(Kind::Connect, &asked), Outcome::Failure(Some(2 * S)));
        let date = [("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")];
        assert_eq!(http(503, &date), Some(Outcome::Failure(None)));
    }

    #[test]
    fn a_grpc_call_is_judged_by_its_status_wherever_that_stands() {
        let grpc = ("content-type", "application/grpc");
        let head = |status: u16, pairs: &[_]| {
            Outcome::of_head(StatusCode::from_u16(status).unwrap(), &headers(pairs), true)
        };
        assert_eq!(head(200, &[grpc]), None, "its trailers will tell");
        assert_eq!(head(200, &[grpc, ("grpc-status", "14")]), Some(Outcome::Failure(None)), "trailers only");
        assert_eq!(head(200, &[("content-type", "text/html")]), Some(Outcome::Success), "not gRPC at all");
        assert_eq!(head(502, &[grpc]), Some(Outcome::Failure(None)));
        for (code, expected) in [
            ("0", Outcome::Success),
            ("1", Outcome::Success),
            ("2", Outcome::Failure(None)),
            ("4", Outcome::Failure(None)),
            ("5", Outcome::Success),
            ("7", Outcome::Success),
            ("8", Outcome::Overload(None)),
            ("13", Outcome::Failure(None)),
            ("14", Outcome::Failure(None)),
            ("15", Outcome::Failure(None)),
            ("16", Outcome::Success),
        ] {
            assert_eq!(Outcome::of_trailers(&headers(&[("grpc-status", code)])), expected, "{code}");
        }
        assert_eq!(Outcome::of_trailers(&HeaderMap::new()), Outcome::Failure(None), "cut short");
        let pushed_back = headers(&[("grpc-status", "8"), ("grpc-retry-pushback-ms", "1000")]);
        assert_eq!(Outcome::of_trailers(&pushed_back), Outcome::Overload(Some(S)));
    }

    #[test]
    fn an_endpoint_is_not_blamed_for_what_it_did_not_do() {
        let at = "10.0.0.1:80".parse().unwrap();
        let error = |kind| Error::at(kind, at, "");
        for kind in [Kind::Client, Kind::Malformed, Kind::PoolFull, Kind::PoolTimeout, Kind::NoSocket] {
            assert_eq!(Outcome::of_error(&error(kind), true), Outcome::Unknown, "{kind:?}");
        }
        let closed = error(Kind::Terminated).reused(true);
        assert_eq!(Outcome::of_error(&closed, true), Outcome::Unknown, "the race of an idle connection");
        assert_eq!(Outcome::of_error(&closed, false), Outcome::Failure(None));
        let refused = error(Kind::Refused);
        assert_eq!(Outcome::of_error(&refused, false), Outcome::Unknown, "GOAWAY");
        let reset = Error { reset: Some(h2::Reason::REFUSED_STREAM), ..refused };
        assert_eq!(Outcome::of_error(&reset, false), Outcome::Overload(None));
        for kind in [Kind::Connect, Kind::ConnectTimeout, Kind::TryTimeout, Kind::Protocol] {
            assert_eq!(Outcome::of_error(&error(kind), false), Outcome::Failure(None), "{kind:?}");
        }
    }
}
