//! What a proxy changes in a message that passes through (RFC 9110 section 7): whatever belongs to one connection goes,
//! the rest stays as it was.
//!
//! A message is framed anew for the next connection, always as HTTP/1.1. Trailers pass if they are announced by a
//! `Trailer` header and, in a response, wanted by the client's `TE: trailers`; hyper drops them otherwise.
//!
//! What it leaves out: tunnels. A CONNECT request, or one that asks for another protocol and cannot do without it (a
//! WebSocket), is refused with 501, so that nobody takes a stripped `Upgrade` for the app's own refusal. Offers to go on
//! in a newer HTTP or in TLS are ignored, as RFC 9110 section 7.8 allows; the request is answered in HTTP/1.1.

use std::net::SocketAddr;

use http::header::{HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use rand::Rng;

use super::{RequestBody, headers};
use crate::error::{Error, Kind};

/// Makes a request that was meant for `dst` fit for the next hop.
///
/// # Errors
/// [`Kind::Unsupported`] if it needs something that is not carried.
pub fn request(
    request: Request<Incoming>,
    dst: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Request<RequestBody>, Error> {
    carried(request.method(), request.headers())?;
    let mut request = request.map(RequestBody::new);
    if request.uri().authority().is_some() {
        to_origin_form(&mut request);
    } else if request.version() == Version::HTTP_10 && !request.headers().contains_key(HOST) {
        // HTTP/1.0 does without `Host`, HTTP/1.1 may not.
        let host = HeaderValue::from_str(&dst.to_string()).expect("an address is a valid value");
        request.headers_mut().insert(HOST, host);
    }
    *request.version_mut() = Version::HTTP_11;
    let wants_trailers = headers::lists(request.headers(), TE, "trailers");
    let unknown_length = request.body().size_hint().exact().is_none();
    let headers = request.headers_mut();
    headers::remove_hop_by_hop(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("te"));
    }
    if unknown_length {
        // Said outright, because hyper takes a GET request without it for one without a body.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    headers::ensure_request_id(headers, rng);
    Ok(request)
}

/// Makes a response fit for the client.
pub fn response<B>(response: &mut Response<B>) {
    *response.version_mut() = Version::HTTP_11;
    headers::remove_hop_by_hop(response.headers_mut());
}

/// Whether a response is one that can be passed on.
///
/// # Errors
/// Says what is wrong with it.
pub fn check(response: &Response<Incoming>) -> Result<(), &'static str> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err("switched protocols without being asked");
    }
    if !only_chunked(response.headers()) {
        return Err("a transfer coding that was not asked for");
    }
    Ok(())
}

fn carried(method: &Method, headers: &HeaderMap) -> Result<(), Error> {
    let refuse = |what: &str| Err(Error { cause: Some(what.into()), ..Error::new(Kind::Unsupported) });
    if method == Method::CONNECT {
        return refuse("CONNECT tunnels");
    }
    if !only_chunked(headers) {
        return refuse("transfer codings other than chunked");
    }
    let asked = headers::list(headers, UPGRADE);
    let optional = |p: &str| {
        let name = p.split('/').next().unwrap_or(p);
        ["h2c", "http", "tls"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    match headers.contains_key(UPGRADE) && !asked.into_iter().all(optional) {
        true => refuse("protocol upgrades"),
        false => Ok(()),
    }
}

/// Whether the message's transfer coding, if it has one, is `chunked`: any other would have to be undone, because the
/// header that names it does not pass.
fn only_chunked(headers: &HeaderMap) -> bool {
    headers::list(headers, TRANSFER_ENCODING).all(|coding| coding.eq_ignore_ascii_case("chunked"))
}

/// `GET http://a/b` is meant for proxies; its authority counts and `Host` does not (RFC 9112 section 3.2.2).
fn to_origin_form(request: &mut Request<RequestBody>) {
    let authority = request.uri().authority().map_or("", |a| a.as_str());
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let host = HeaderValue::from_str(host).expect("an authority is a valid value");
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    request.headers_mut().insert(HOST, host);
}
