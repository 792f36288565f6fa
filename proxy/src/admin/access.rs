//! Who may give orders on the admin port: the pages that change something.
//!
//! The port is open to every process of the host, and a browser on it can be told to send requests
//! by any site that it shows. So an order takes proof: the user of the process, which the kernel
//! knows, or a token. Whatever looks like a browser's request for another site is refused in any
//! case, and so is a host that is not this one's, by which a name that leads here (DNS rebinding)
//! would be as good as a site of its own.

use std::net::IpAddr;
use std::path::PathBuf;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{HOST, HeaderMap, HeaderName, ORIGIN};
use http::uri::{Authority, Uri};

use crate::config;
use crate::http::headers::bearer;

/// Set by browsers: where a request comes from (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What proves that somebody may give orders.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The file with the token, read again for each order.
    pub token: Option<PathBuf>,
}

impl Access {
    /// Whether a request may give an order. `is_operator`: its process is of a user who may.
    ///
    /// # Errors
    /// Why not, in words for whoever sent it.
    pub(super) fn permit(&self, uri: &Uri, headers: &HeaderMap, is_operator: bool) -> Result<(), String> {
        let site = headers.get(SEC_FETCH_SITE).map(|site| site.as_bytes());
        if headers.contains_key(ORIGIN) || site.is_some_and(|site| site != b"none") {
            return Err("this is the request of a site in a browser".into());
        }
        if !host(uri, headers).is_some_and(is_loopback) {
            return Err("orders are given to 127.0.0.1, [::1] or localhost".into());
        }
        match (&self.token, bearer(headers)) {
            (Some(path), Some(shown)) => {
                let token = config::read(path).map_err(|error| format!("there is no token: {error}"))?;
                let token = token.trim().as_bytes();
                match !token.is_empty() && verify_slices_are_equal(token, shown).is_ok() {
                    true => Ok(()),
                    false => Err("this is not the token".into()),
                }
            }
            _ if is_operator => Ok(()),
            (Some(_), None) => {
                Err("this takes root, the sidecar's user, or the token of `admin.token`".into())
            }
            (None, _) => Err("this takes root or the sidecar's user; `admin.token` would let others".into()),
        }
    }
}

/// Whether a request is meant for a name that is not this host's: it may be that of a site, which
/// was made to lead here so that a browser lets the site read the answer.
pub(super) fn is_for_another(uri: &Uri, headers: &HeaderMap) -> bool {
    host(uri, headers).is_some_and(|host| !is_here(host, |_| true))
}

/// The host that a request is for. That of an absolute target counts (RFC 9112 section 3.2.2).
fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let of_target = uri.authority().map(Authority::as_str);
    of_target.or_else(|| headers.get(HOST).map(|host| host.to_str().unwrap_or_default()))
}

fn is_loopback(host: &str) -> bool {
    is_here(host, |address| address.is_loopback())
}

fn is_here(host: &str, fits: impl Fn(IpAddr) -> bool) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(fits)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_name_that_is_not_this_hosts_is_another_wherever_it_stands() {
        let other = |uri: &'static str, given: &[(&'static str, &'static str)]| {
            is_for_another(&Uri::from_static(uri), &headers(given))
        };
        for (host, is_other) in [
            ("10.0.0.1:15000", false),
            ("[::1]", false),
            ("LocalHost", false),
            ("rebound.example", true),
            ("", true),
        ] {
            assert_eq!(other("/clusters", &[("host", host)]), is_other, "{host:?}");
        }
        assert!(!other("/clusters", &[]), "HTTP/1.0 does without");
        assert!(other("http://rebound.example/shutdown", &[("host", "127.0.0.1")]));
        let access = Access::default();
        let target = Uri::from_static("http://rebound.example/shutdown");
        assert!(access.permit(&target, &headers(&[("host", "127.0.0.1")]), true).is_err());
    }

    #[test]
    fn an_order_takes_the_user_or_the_token_and_no_browser() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "open sesame\n").unwrap();
        let (plain, guarded) = (Access::default(), Access { token: Some(path.clone()) });
        const HERE: (&str, &str) = ("host", "localhost:15000");
        const TOKEN: (&str, &str) = ("authorization", "Bearer open sesame");
        for (access, given, is_operator, may) in [
            (&plain, vec![HERE], true, true),
            (&plain, vec![HERE], false, false),
            (&plain, vec![HERE, TOKEN], false, false),
            (&plain, vec![("host", "127.0.0.1")], true, true),
            (&plain, vec![("host", "127.8.0.1:1")], true, true),
            (&plain, vec![("host", "[::1]:15000")], true, true),
            (&plain, vec![("host", "rebound.example:15000")], true, false),
            (&plain, vec![("host", "10.0.0.1:15000")], true, false),
            (&plain, vec![("host", "localhost.example")], true, false),
            (&plain, vec![], true, false),
            (&plain, vec![HERE, ("origin", "https://site.example")], true, false),
            (&plain, vec![HERE, ("origin", "null")], true, false),
            (&plain, vec![HERE, ("sec-fetch-site", "cross-site")], true, false),
            (&plain, vec![HERE, ("sec-fetch-site", "same-site")], true, false),
            (&plain, vec![HERE, ("sec-fetch-site", "none")], true, true),
            (&guarded, vec![HERE], true, true),
            (&guarded, vec![HERE], false, false),
            (&guarded, vec![HERE, TOKEN], false, true),
            (&guarded, vec![HERE, ("authorization", "bearer open sesame")], false, true),
            (&guarded, vec![HERE, ("authorization", "Bearer open")], true, false),
            (&guarded, vec![HERE, ("authorization", "Bearer ")], false, false),
            (&guarded, vec![HERE, TOKEN, ("origin", "https://site.example")], false, false),
        ] {
            let permitted = access.permit(&Uri::from_static("/drain"), &headers(&given), is_operator);
            assert_eq!(permitted.is_ok(), may, "{given:?} {is_operator}: {permitted:?}");
        }
        std::fs::write(&path, "").unwrap();
        let none = headers(&[HERE, ("authorization", "Bearer ")]);
        assert!(guarded.permit(&Uri::default(), &none, false).is_err(), "an empty token is none");
    }
}
