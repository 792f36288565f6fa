//! What a proxy changes in a message that passes through (RFC 9110 section 7): whatever belongs to
//! one connection goes, the rest stays as it was.
//!
//! A message is framed anew for the next connection, always as HTTP/1.1. Trailers pass if they are
//! announced by a `Trailer` header and, in a response, wanted by the client's `TE: trailers`; hyper
//! drops them otherwise.
//!
//! A request that asks for a tunnel keeps its `Upgrade`, and an answer that opens one too: see
//! [`super::tunnel`]. Offers to go on in a newer HTTP or in TLS are ignored, as RFC 9110 section
//! 7.8 allows; the request is answered in HTTP/1.1.
//!
//! What it leaves out: transfer codings other than `chunked`, which are refused with 501 (RFC 9112
//! section 6.1).

use std::net::SocketAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use rand::Rng;

use super::{RequestBody, headers, informational, target, tunnel};
use crate::connection::WireProtocol;
use crate::error::{Error, Kind};
use crate::mutant::Mutant;

/// Whether a request that came over a connection where HTTP is `spoken` can be passed on.
///
/// # Errors
/// [`Kind::Malformed`], or [`Kind::Unsupported`] if it needs something that is not carried.
pub fn check_request(request: &Request<Incoming>, spoken: WireProtocol) -> Result<(), Error> {
    let refused = |kind, what: &'static str| Err(Error { cause: Some(what.into()), ..Error::new(kind) });
    if let Err(wrong) = target::check(request).and_then(|()| one_length(request.headers())) {
        return refused(Kind::Malformed, wrong);
    }
    if !only_chunked(request.headers()) {
        return refused(Kind::Unsupported, "transfer codings other than chunked");
    }
    // HTTP/2's library takes them (RFC 9113 section 8.2.1), and what reads the request as HTTP/1
    // strips them: a policy would judge another value than the app sees.
    if spoken == WireProtocol::Http2
        && request.headers().values().any(|value| headers::has_blank_end(value.as_bytes()))
    {
        return refused(Kind::Malformed, "a header whose value begins or ends with a blank");
    }
    Ok(())
}

/// Makes a request that was meant for `dst`, and has been checked, fit for the next hop.
pub fn request(request: Request<Incoming>, dst: SocketAddr, rng: &mut impl Rng) -> Request<RequestBody> {
    let upgrade: Vec<HeaderValue> = match tunnel::is_asked(&request) {
        true => request.headers().get_all(UPGRADE).iter().cloned().collect(),
        false => Vec::new(),
    };
    let mut request = request.map(RequestBody::new);
    if request.method() == Method::CONNECT {
        // Its target is the host to connect to and stays as it is.
    } else if request.uri().authority().is_some() {
        to_origin_form(&mut request);
    } else if request.version() == Version::HTTP_10 && !request.headers().contains_key(HOST) {
        // HTTP/1.0 does without `Host`, HTTP/1.1 may not.
        let host = HeaderValue::from_str(&dst.to_string()).expect("an address is a valid value");
        request.headers_mut().insert(HOST, host);
    }
    if request.version() == Version::HTTP_10 {
        // Ignored there, as RFC 9110 section 10.1.1 demands.
        request.headers_mut().remove(EXPECT);
    } else if informational::is_expected(request.headers()) {
        informational::withhold(&mut request);
    }
    *request.version_mut() = Version::HTTP_11;
    let wants_trailers = headers::lists(request.headers(), TE, "trailers");
    let unknown_length = request.body().size_hint().exact().is_none();
    let headers = request.headers_mut();
    headers::remove_hop_by_hop(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    for protocol in upgrade {
        headers.append(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if unknown_length {
        // Said outright, because hyper takes a GET request without it for one without a body.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    headers::ensure_request_id(headers, rng);
    request
}

/// Makes a response fit for the client.
pub fn response<B>(response: &mut Response<B>) {
    *response.version_mut() = Version::HTTP_11;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = response.headers().get(UPGRADE).filter(|_| switched).cloned();
    headers::remove_hop_by_hop(response.headers_mut());
    if let Some(protocol) = upgrade {
        response.headers_mut().insert(UPGRADE, protocol);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if response.extensions().get::<informational::BodyUnread>().is_some() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The last touch: what hyper's server would say otherwise than it should to a client of `version`.
/// `not_modified` is a body that is none, but that hyper does not know to be none: it would drop
/// the `Content-Length` of a 304.
pub fn to_client<B: Body>(version: Version, response: &mut Response<B>, not_modified: impl FnOnce() -> B) {
    let headers = response.headers();
    let unknown_length = !response.body().is_end_stream() && response.body().size_hint().exact().is_none();
    if version == Version::HTTP_10 && (unknown_length || headers::lists(headers, CONNECTION, "close")) {
        // The connection ends with the response, but to one of HTTP/1.1 hyper would add
        // `Connection: keep-alive`.
        *response.version_mut() = Version::HTTP_10;
    }
    let length_of_get = response.status() == StatusCode::NOT_MODIFIED && response.body().is_end_stream();
    if version != Version::HTTP_2 && length_of_get && response.headers().contains_key(CONTENT_LENGTH) {
        *response.body_mut() = not_modified();
    }
}

/// Whether a response is one that can be passed on.
///
/// # Errors
/// Says what is wrong with it.
pub fn check<B>(response: &Response<B>, upgrade_asked: bool) -> Result<(), &'static str> {
    let upgrade_asked = upgrade_asked || Mutant::TunnelsUnasked.is_planted();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !upgrade_asked {
        return Err("switched protocols without being asked");
    }
    let headers = response.headers();
    if !only_chunked(headers) {
        return Err("a transfer coding that was not asked for");
    }
    one_length(headers)?;
    if headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING) {
        return Err("both a length and a transfer coding");
    }
    if headers.get_all(TRANSFER_ENCODING).iter().count() > 1 {
        return Err("chunked more than once");
    }
    if response.version() == Version::HTTP_10 && headers.contains_key(TRANSFER_ENCODING) {
        return Err("a transfer coding in version 1.0");
    }
    // RFC 9110 section 8.6, RFC 9112 section 6.1. Whoever believes in the body takes what follows
    // the head for it, and whoever does not takes it for the next answer. A length of 0 is wrong
    // too, but many send it, and it says the truth.
    let has_length = headers.get(CONTENT_LENGTH).is_some_and(|l| l.as_bytes().iter().any(|b| *b != b'0'));
    let has_body = has_length || headers.contains_key(TRANSFER_ENCODING);
    if response.status() == StatusCode::NO_CONTENT && has_body {
        return Err("a body where there may be none");
    }
    Ok(())
}

/// Whether a message has no length or a single one that is a number. Of a message that a library
/// has read already it does not matter to that any more, but the next reader sees the header too.
fn one_length(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    if lengths.next().is_some() {
        return Err("more than one length");
    }
    // A sign is no digit, whatever `parse` says.
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match digits.map(str::parse::<u64>) {
        Some(Ok(_)) => Ok(()),
        _ => Err("a length that is no number, or too large a one"),
    }
}

/// Whether the message's transfer coding, if it has one, is `chunked` and nothing else, as
/// [`super::strict`] sees it too: any other would have to be undone, because the header that names
/// it does not pass.
fn only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// `GET http://a/b` is meant for proxies; its authority counts and `Host` does not (RFC 9112
/// section 3.2.2).
fn to_origin_form(request: &mut Request<RequestBody>) {
    let authority = request.uri().authority().map_or("", |a| a.as_str());
    let host = HeaderValue::from_str(authority).expect("an authority is a valid value");
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = target::origin_form(path);
    request.headers_mut().insert(HOST, host);
}
