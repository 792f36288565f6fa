//! Between HTTP/1 and HTTP/2: one form of a request inside the sidecar, and HTTP/1 over shared
//! HTTP/2 connections between sidecars.
//!
//! [`super::forward`] brings every request into the form of HTTP/1: a path, a `Host`. [`to_http2`]
//! writes it for an HTTP/2 connection, where RFC 9113 section 8 wants pseudo-headers and no header
//! of the connection. A request that came in HTTP/1 goes out so only if the cluster is bridged,
//! which means that the endpoints have a sidecar like this one: a marker tells it that its app must
//! see HTTP/1, and [`restore_marked`] makes it so. As in Linkerd (`orig_proto.rs`), but without a marker
//! on the way back: the calling sidecar knows what its client speaks.
//!
//! What is not restored: the case of header names, and the words after a response's status.

use std::net::SocketAddr;

use http::header::{CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use http_body::Body;

use super::{RequestBody, target};
use crate::error::{Error, Kind};

/// Marks a request that was HTTP/1 and must be HTTP/1 again for the app.
pub const ORIGINAL: HeaderName = HeaderName::from_static("sidelab-orig-proto");

/// Writes a request for an HTTP/2 connection. `dst` stands in for a `Host` that is missing or no
/// authority; the header itself then stays as it is.
///
/// A body that waits for `100 Continue` waits no longer: hyper sends no 1xx answers over HTTP/2,
/// and passes none on. On the far side the app's own sidecar waits for the app.
pub fn to_http2(request: &mut Request<RequestBody>, dst: SocketAddr, was_http1: bool) {
    request.body_mut().release();
    head_to_http2(request, dst, was_http1);
}

fn head_to_http2<B>(request: &mut Request<B>, dst: SocketAddr, was_http1: bool) {
    let headers = request.headers_mut();
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    let host = headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if host.is_some() {
        headers.remove(HOST);
    }
    if was_http1 {
        headers.insert(ORIGINAL, HeaderValue::from_static("HTTP/1.1"));
    }
    *request.version_mut() = Version::HTTP_2;
    if request.method() == Method::CONNECT {
        // It has no scheme and no path (RFC 9113 section 8.5): its target is an authority already.
        return;
    }
    let authority =
        host.unwrap_or_else(|| Authority::try_from(dst.to_string()).expect("an address is an authority"));
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
}

/// Takes the marker out of a request, wherever it comes from, and says whether it was there.
pub fn take_marker(headers: &mut HeaderMap) -> bool {
    headers.remove(ORIGINAL).is_some()
}

/// Takes the marker out of a request of another sidecar, and if it was there, makes the request
/// what it was. Says whether it did.
///
/// # Errors
/// [`Kind::Malformed`], with what is wrong.
pub fn restore_marked<B: Body>(request: &mut Request<B>) -> Result<bool, Error> {
    let is_bridged = take_marker(request.headers_mut()) && request.version() == Version::HTTP_2;
    if is_bridged {
        let malformed =
            |wrong: &'static str| Error { cause: Some(wrong.into()), ..Error::new(Kind::Malformed) };
        restore(request).map_err(malformed)?;
    }
    Ok(is_bridged)
}

/// Makes a marked request what it was. Its authority is its `Host` (RFC 9113 section 8.3.1): one
/// that says something else goes, unless it is empty, which [`to_http2`] leaves where there was no
/// host.
///
/// # Errors
/// Says what is wrong with its target or `Host`, before there is only one of them left.
fn restore<B: Body>(request: &mut Request<B>) -> Result<(), &'static str> {
    target::check(request)?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let authority = parts.authority.take();
    let path = parts.path_and_query.take();
    *request.uri_mut() = target::origin_form(path);
    let headers = request.headers_mut();
    let has_none = headers.get(HOST).is_some_and(HeaderValue::is_empty);
    if let Some(authority) = authority.filter(|_| !has_none) {
        let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a valid value");
        headers.insert(HOST, host);
    }
    join_cookies(headers);
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// HTTP/2 may send a cookie header in pieces, which HTTP/1 may not (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1 {
        let whole = pieces.join(&b"; "[..]);
        // The last piece may be empty.
        let whole = HeaderValue::from_bytes(whole.trim_ascii_end()).expect("valid pieces make a valid whole");
        headers.insert(COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;

    fn there_and_back(mut request: Request<Empty<&'static [u8]>>) -> Request<Empty<&'static [u8]>> {
        head_to_http2(&mut request, "10.96.0.1:80".parse().unwrap(), true);
        assert_eq!(request.version(), Version::HTTP_2);
        assert!(request.uri().scheme().is_some() && request.uri().authority().is_some());
        assert!(take_marker(request.headers_mut()));
        restore(&mut request).unwrap();
        request
    }

    #[test]
    fn a_request_is_the_same_after_the_bridge() {
        for (uri, host) in [("/a?b=c", "orders"), ("/", "orders:8080"), ("*", "[::1]:80"), ("/x", "")] {
            let request =
                Request::builder().method("OPTIONS").uri(uri).header(HOST, host).body(Empty::new()).unwrap();
            let after = there_and_back(request);
            assert_eq!(after.uri(), uri);
            assert_eq!(after.headers()[HOST], host);
            assert_eq!((after.headers().len(), after.version()), (1, Version::HTTP_11));
        }
    }

    #[test]
    fn the_authority_is_the_host_whatever_a_header_says_beside_it() {
        for (hosts, expected) in
            [(&[][..], Some("orders")), (&["evil"], Some("orders")), (&["orders", "orders"], None)]
        {
            let mut request = Request::builder().version(Version::HTTP_2).uri("http://orders/");
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let mut request = request.body(Empty::<&[u8]>::new()).unwrap();
            let restored = restore(&mut request).ok().map(|()| request.headers()[HOST].to_str().unwrap());
            assert_eq!(restored, expected, "{hosts:?}");
        }
    }

    #[test]
    fn headers_of_the_connection_do_not_cross_and_pieces_of_a_cookie_become_one() {
        let request = Request::builder()
            .uri("/")
            .header(HOST, "orders")
            .header(CONNECTION, "te")
            .header("te", "trailers")
            .header(TRANSFER_ENCODING, "chunked")
            .header(COOKIE, "a=1")
            .header(COOKIE, "b=2")
            .header(COOKIE, "");
        let after = there_and_back(request.body(Empty::new()).unwrap());
        let mut names: Vec<_> = after.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "host", "te"]);
        assert_eq!(after.headers()[COOKIE], "a=1; b=2;");
    }
}
