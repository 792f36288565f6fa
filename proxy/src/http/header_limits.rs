//! How large the head of a message may be: `limits.headers` lines and `limits.header_bytes` bytes,
//! in every version and at every hop alike.
//!
//! A head is counted as it is passed on, in the form of HTTP/1. What sidecars add to it on the way
//! does not count, or the next hop would refuse what this one let pass; what a route adds counts,
//! and is refused by the hop that adds it. The libraries below have limits of their own, which are
//! wider, so that the answer to what is only somewhat too large is ours: it says why, and a gRPC
//! client gets a status.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, TE, TRANSFER_ENCODING};
use http::{Request, Response};

use super::bridge::ORIGINAL;
use super::deadline::X_REQUEST_TIMEOUT;
use super::headers::{X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID, X_RETRY_ATTEMPT};
use crate::config::Http1;
use crate::config::defaults::{ADDED_HEADER_BYTES, ADDED_HEADERS};
use crate::error::{Error, Kind};
use crate::grpc;

/// Fields that a sidecar adds, or writes anew and perhaps longer.
const ADDED: [HeaderName; ADDED_HEADERS] = [
    X_REQUEST_ID,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_REQUEST_TIMEOUT,
    grpc::TIMEOUT,
    X_RETRY_ATTEMPT,
    ORIGINAL,
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    CONTENT_LENGTH,
];

/// Bytes of a line of the head that are neither name nor value: a colon, a blank and the line's
/// end.
const LINE: usize = 4;

/// What a request line has beside method and target, and the empty line after the head.
const REQUEST_LINE: usize = 14;

/// What a status line has beside the words, and the empty line after the head.
const STATUS_LINE: usize = 17;

/// Judges a request in the form of HTTP/1, as it is sent on.
///
/// # Errors
/// [`Kind::HeadersTooLarge`].
pub fn request<B>(request: &Request<B>, limits: Http1) -> Result<(), Error> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let start = request.method().as_str().len() + target + REQUEST_LINE;
    check(request.headers(), start, limits)
        .map_err(|wrong| Error { cause: Some(wrong.into()), ..Error::new(Kind::HeadersTooLarge) })
}

/// Judges a response.
///
/// # Errors
/// Says what is wrong.
pub fn response<B>(response: &Response<B>, limits: Http1) -> Result<(), &'static str> {
    let reason = response.status().canonical_reason().unwrap_or_default().len();
    check(response.headers(), reason + STATUS_LINE, limits)
}

fn check(headers: &HeaderMap, start: usize, limits: Http1) -> Result<(), &'static str> {
    let bytes = headers.iter().map(|(name, value)| line(name, value.len())).sum::<usize>() + start;
    if headers.len() <= limits.headers && bytes <= limits.header_bytes {
        return Ok(());
    }
    let added = ADDED.into_iter().filter_map(|name| Some((headers.get(&name)?.len(), name)));
    let (lines, spared) = added.fold((0, 0), |(lines, bytes), (len, name)| {
        (lines + 1, bytes + line(&name, len).min(ADDED_HEADER_BYTES / ADDED_HEADERS))
    });
    if headers.len() - lines > limits.headers {
        return Err("more header lines than `limits.headers`");
    }
    if bytes - spared > limits.header_bytes {
        return Err("a head of more bytes than `limits.header_bytes`");
    }
    Ok(())
}

fn line(name: &HeaderName, value: usize) -> usize {
    name.as_str().len() + value + LINE
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const LIMITS: Http1 = Http1 { header_bytes: 200, headers: 3, preserve_header_case: false };

    fn of(lines: &[(&str, usize)]) -> Result<(), Kind> {
        let mut request_ = Request::builder().uri("/a?b");
        for (name, len) in lines {
            request_ = request_.header(*name, HeaderValue::try_from("x".repeat(*len)).unwrap());
        }
        request(&request_.body(()).unwrap(), LIMITS).map_err(|error| error.kind)
    }

    #[test]
    fn lines_and_bytes_are_counted_and_what_sidecars_add_is_not() {
        let large = Err(Kind::HeadersTooLarge);
        // The request line and the end take 21 bytes, a line with a name of one letter 5.
        for (lines, expected) in [
            (&[("a", 1), ("b", 1), ("c", 1)][..], Ok(())),
            (&[("a", 1), ("b", 1), ("c", 1), ("d", 1)], large),
            (&[("a", 1), ("a", 1), ("a", 1), ("a", 1)], large),
            (&[("a", 1), ("b", 1), ("c", 1), ("x-request-id", 36), ("x-retry-attempt", 1)], Ok(())),
            (&[("a", 1), ("b", 1), ("x-request-id", 1), ("x-request-id", 1)], Ok(())),
            (&[("a", 1), ("b", 1), ("c", 1), ("x-request-id", 1), ("x-request-id", 1)], large),
            (&[("a", 174)], Ok(())),
            (&[("a", 175)], large),
            (&[("a", 174), ("x-request-id", 36), ("x-forwarded-for", 40)], Ok(())),
            (&[("a", 1), ("x-request-id", 300)], large),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_libraries_limits_leave_room_for_what_is_added() {
        let read = LIMITS.with_added();
        assert_eq!((read.headers, read.header_bytes), (3 + ADDED.len(), 200 + ADDED_HEADER_BYTES));
        assert!(
            LIMITS.header_list() as usize >= 2 * read.header_bytes - ADDED_HEADER_BYTES + 32 * read.headers
        );
    }
}
