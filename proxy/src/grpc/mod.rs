//! gRPC over HTTP/2 as far as a proxy cares: which requests are gRPC, how a failure is told (a
//! status in headers or trailers, always under HTTP 200), and how long the caller will wait.
//!
//! From the gRPC project's `PROTOCOL-HTTP2.md` and `statuscodes.md`. Messages are never looked
//! into, but for the sidecar's own ([`message`]).

pub mod message;
mod timeout;

use std::fmt::Write;

use bytes::Bytes;
use h2::Reason;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

pub use timeout::{TIMEOUT, deadline, forward_timeout, timeout};

/// What gRPC messages are declared as; a suffix may name the encoding.
pub const CONTENT_TYPE: &str = "application/grpc";

/// The status of a call.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The words that go with it, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The statuses that a proxy gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The caller went away.
    Cancelled = 1,
    /// Nobody says what it is.
    Unknown = 2,
    /// The caller's deadline passed.
    DeadlineExceeded = 4,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// Something is used up, or larger than it may be.
    ResourceExhausted = 8,
    /// Nobody here knows the service or the method.
    Unimplemented = 12,
    /// Somebody broke the protocol.
    Internal = 13,
    /// The service cannot be reached now; the call may be tried again.
    Unavailable = 14,
    /// Nobody knows who the caller is.
    Unauthenticated = 16,
}

/// Whether a message is part of a gRPC call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(http::header::CONTENT_TYPE) else { return false };
    let Some(rest) = value.as_bytes().strip_prefix(CONTENT_TYPE.as_bytes()) else { return false };
    // Not `application/grpc-web`, which is HTTP/1's.
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// What an HTTP status means to a gRPC client: the project's `http-grpc-status-mapping.md`.
pub fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// What the code of a reset stream means to a gRPC client: the table of `PROTOCOL-HTTP2.md`, "HTTP2
/// Transport Mapping". A code that it does not know is INTERNAL, as NO_ERROR is where a status was
/// due.
pub fn code_of_reset(reason: Reason) -> Code {
    match reason {
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// An answer without a message, whose status stands in its headers.
pub fn response(code: Code, message: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    put_status(response.headers_mut(), code, message);
    response
}

/// Writes a status into headers or trailers.
pub fn put_status(headers: &mut HeaderMap, code: Code, message: &str) {
    headers.insert(STATUS, HeaderValue::from(code as u16));
    if let Ok(value) = HeaderValue::from_str(&percent_encoded(message)) {
        headers.insert(MESSAGE, value);
    }
}

/// `Percent-Encoded` of `PROTOCOL-HTTP2.md`: printable ASCII but for `%` stays as it is.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_what_only_begins_like_it() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers =
                HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn each_code_of_a_reset_has_the_status_that_grpc_gives_it() {
        let expected = [13, 13, 13, 13, 13, 13, 13, 14, 1, 13, 13, 8, 7, 13, 13];
        for (code, status) in expected.into_iter().enumerate() {
            assert_eq!(code_of_reset((code as u32).into()) as u16, status, "{code}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let mut headers = HeaderMap::new();
        put_status(&mut headers, Code::Unavailable, "100 % kaputt: ä\n");
        assert_eq!(headers[STATUS], "14");
        assert_eq!(headers[MESSAGE], "100 %25 kaputt: %C3%A4%0A");
    }
}
