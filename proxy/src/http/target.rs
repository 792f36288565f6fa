//! The host that a request is for: its target, its `:authority` and its `Host`, judged by one rule
//! whatever version it came in (RFC 9110 sections 4.2 and 7.2, RFC 9112 section 3.2, RFC 9113
//! section 8.3.1).
//!
//! A route goes by the authority, and so does the app. What one of them could take for another host
//! than the other is refused: a port that is none, user information, a list, a second `Host`. Where
//! a target and a `Host` both name somebody, the target counts, and what is passed on says the same
//! twice ([`super::forward`], [`super::bridge`]).
//!
//! A host is a name of RFC 3986 (`reg-name`) or an address. Not percent-encoded, since one reader
//! would decode it; and without a comma, since another would take it for two.
//!
//! A path and a query hold what a browser may send in a query as it is (the URL standard's query
//! state): `{`, `}` and `|`, but neither `"` nor `<` nor `>`. Those are percent-encoded by every
//! browser, RFC 3986 has no place for them, and the library takes them in some places and not in
//! others. curl sends what it is given.
//!
//! What it leaves out: a fragment. HTTP/1's is refused by [`super::strict`]; HTTP/2's is cut off by
//! the library before anybody sees it, so that neither a route nor the app does.

use crate::host;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};
use http_body::Body;

/// Judges the target and the `Host` of a request.
///
/// # Errors
/// Says what is wrong.
pub fn check<B: Body>(request: &Request<B>) -> Result<(), &'static str> {
    let uri = request.uri();
    let authority = uri.authority();
    if authority.is_some_and(|authority| !host::is_valid(authority.as_str())) {
        return Err("the target is for no host that can be");
    }
    let authority_form = authority.is_some() && uri.scheme().is_none();
    if request.method() == Method::CONNECT {
        if !authority_form || uri.port_u16().is_none() {
            return Err("CONNECT takes a host and a port");
        }
        if !request.body().is_end_stream() {
            return Err("CONNECT has no body");
        }
    } else if authority_form {
        return Err("only CONNECT may have a bare host as its target");
    }
    if uri.path() == "*" && request.method() != Method::OPTIONS {
        return Err("only OPTIONS may have `*` as its target");
    }
    if uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err("the target is not http or https");
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if request.version() == Version::HTTP_2 && !path.starts_with(['/', '*']) {
        return Err("the path does not begin with a slash");
    }
    // The library does without one where there is no `:authority` either.
    if request.method() != Method::CONNECT && uri.path().is_empty() {
        return Err("there is no path");
    }
    // The library lets this one stand in a path, and none of the three in a query.
    if path.contains('"') {
        return Err("the target has a `\"` that is not percent-encoded");
    }
    host(request, authority.is_some())
}

/// The target of a request that names its host elsewhere. A path is empty where `:path` was nothing
/// but a fragment; written out, that would be a request line without a target.
pub fn origin_form(path: Option<PathAndQuery>) -> Uri {
    let uri = path.map_or_else(Uri::default, Uri::from);
    if uri.path().is_empty() { Uri::default() } else { uri }
}

/// Judges the `Host` of a request whose target names somebody or not.
fn host<B>(request: &Request<B>, has_authority: bool) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().map(|host| host.to_str().unwrap_or("/"));
    if hosts.next().is_some() {
        return Err("more than one Host header");
    }
    match (host, request.version()) {
        (None, Version::HTTP_11) => Err("no Host header"),
        (None | Some(""), Version::HTTP_2) if !has_authority => Err("neither an authority nor a Host header"),
        // An empty one is what RFC 9110 section 7.2 prescribes for a target without a host.
        (None | Some(""), _) => Ok(()),
        (Some(host), _) if host::is_valid(host) => Ok(()),
        (Some(_), _) => Err("the Host header is not a host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{HOSTS, NO_HOSTS};
    use http::uri::Authority;
    use http_body_util::Empty;
    use proptest::prelude::*;

    fn request(version: Version, method: &str, uri: &str, hosts: &[&str]) -> Result<(), &'static str> {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check(&request.body(Empty::<&[u8]>::new()).unwrap())
    }

    #[test]
    fn every_version_has_the_same_hosts_wherever_they_stand() {
        for (hosts, expected) in [(HOSTS, true), (NO_HOSTS, false)] {
            for host in hosts {
                assert_eq!(request(Version::HTTP_10, "GET", "/", &[host]).is_ok(), expected, "{host}");
                assert_eq!(request(Version::HTTP_11, "GET", "/", &[host]).is_ok(), expected, "{host}");
                assert_eq!(request(Version::HTTP_2, "GET", "/", &[host]).is_ok(), expected, "{host}");
                assert_eq!(request(Version::HTTP_2, "GET", "http://a/", &[host]).is_ok(), expected, "{host}");
                if Authority::try_from(*host).is_ok() && host.find(['/', '?', '#']).is_none() {
                    let uri = format!("http://{host}/");
                    assert_eq!(request(Version::HTTP_11, "GET", &uri, &["a"]).is_ok(), expected, "{uri}");
                    assert_eq!(request(Version::HTTP_2, "GET", &uri, &[]).is_ok(), expected, "{uri}");
                }
            }
        }
    }

    #[test]
    fn there_is_one_host_and_only_a_target_without_one_or_an_old_client_does_without() {
        use Version as V;
        for (version, uri, hosts, expected) in [
            (V::HTTP_11, "/", &[][..], Err("no Host header")),
            (V::HTTP_11, "/", &[""], Ok(())),
            (V::HTTP_10, "/", &[], Ok(())),
            (V::HTTP_2, "/", &[], Err("neither an authority nor a Host header")),
            (V::HTTP_2, "/", &[""], Err("neither an authority nor a Host header")),
            (V::HTTP_2, "http://a/", &[""], Ok(())),
            (V::HTTP_2, "http://a/", &["a", "a"], Err("more than one Host header")),
            (V::HTTP_2, "http://a/?x", &[], Ok(())),
            (V::HTTP_2, "http://a?x", &[], Err("the path does not begin with a slash")),
        ] {
            assert_eq!(request(version, "GET", uri, hosts), expected, "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn a_request_of_http2_has_a_path_also_if_it_has_no_authority() {
        for (path, expected) in
            [(Some("/"), Ok(())), (Some("#a"), Err("there is no path")), (None, Err("there is no path"))]
        {
            let mut parts = http::uri::Parts::default();
            parts.path_and_query = path.map(|path| PathAndQuery::try_from(path).unwrap());
            let request = Request::builder().version(Version::HTTP_2).uri(parts).header(HOST, "a");
            assert_eq!(check(&request.body(Empty::<&[u8]>::new()).unwrap()), expected, "{path:?}");
        }
    }

    #[test]
    fn a_target_has_what_a_browser_sends_in_a_query_as_it_is() {
        for byte in b'!'..=b'~' {
            let c = char::from(byte);
            for (uri, is_path) in [(format!("/a{c}b?c"), true), (format!("/a?b={c}c"), false)] {
                // A browser encodes a backtick in a path. What follows a `#` or a `?` is another
                // part.
                let expected = !matches!((c, is_path), ('"' | '<' | '>' | '#', _) | ('`', true));
                let passes = uri.parse::<http::Uri>().is_ok()
                    && request(Version::HTTP_11, "GET", &uri, &["a"]).is_ok();
                assert_eq!(passes, expected || c == '#', "{uri}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_passes_is_an_authority_of_the_library_too(text in "[ -~]{0,12}|\\[[0-9a-f:]{0,9}\\](:[0-9]{0,6})?") {
            if host::is_valid(&text) {
                let authority = Authority::try_from(text.as_str());
                prop_assert!(authority.is_ok_and(|a| a.as_str() == text), "{}", text);
            }
        }
    }
}
