//! Headers that belong to one connection and not to the message (RFC 9110 section 7.6.1), and those
//! that a mesh adds.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use rand::{Rng, RngExt};

use crate::config::Forwarded;

/// Identifies a request on its way through the mesh. Kept if the client sends one.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which retry a request is, counted from 1. Set by the hop that repeats it, and passed on by apps
/// that pass on their request's id: a sidecar that finds it in a request of its app does not repeat
/// that on top of the outer hop, since three attempts at each of three hops would be 27. An app
/// that makes it up gets fewer retries and nothing else.
pub const X_RETRY_ATTEMPT: HeaderName = HeaderName::from_static("x-retry-attempt");
/// Through whom the request came so far.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Who a client is that has proved it, in Envoy's format.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The scheme that it was made with.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What a `Connection` header may name without effect: a message makes no sense without these, and
/// a client that has them removed on the way would have a proxy and an app see two different
/// messages.
const NEVER_HOP_BY_HOP: [HeaderName; 3] = [HOST, CONTENT_LENGTH, X_REQUEST_ID];

/// Removes what the next connection must not see: `Connection`, every header it names, and those
/// that are hop-by-hop by themselves. hyper frames the message anew, so `Transfer-Encoding` goes
/// too; `Trailer` describes the message and stays.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named = hop_by_hop(list(headers, CONNECTION));
        headers.remove(CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, TE] {
        headers.remove(name);
    }
}

/// Removes the headers that `Connection` names, and their names from it, but leaves what concerns
/// this hop. So what is added from now on stays, whatever the client has named.
pub fn remove_named(headers: &mut HeaderMap) {
    const OPTIONS: [&str; 4] = ["close", "keep-alive", "te", "upgrade"];
    let is_option = |name: &&str| OPTIONS.iter().any(|option| option.eq_ignore_ascii_case(name));
    let (options, named): (Vec<_>, Vec<_>) = list(headers, CONNECTION).partition(is_option);
    if named.is_empty() {
        return;
    }
    let named = hop_by_hop(named.into_iter());
    match HeaderValue::try_from(options.join(", ")) {
        Ok(options) if !options.is_empty() => drop(headers.insert(CONNECTION, options)),
        _ => drop(headers.remove(CONNECTION)),
    }
    for name in named {
        headers.remove(name);
    }
}

/// The headers that end here because `Connection` names them.
fn hop_by_hop<'n>(named: impl Iterator<Item = &'n str>) -> Vec<HeaderName> {
    let names = named.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    names.filter(|name| !NEVER_HOP_BY_HOP.contains(name)).collect()
}

/// The token of an `Authorization: Bearer` (RFC 6750 section 2.1), whatever the case of the scheme.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}

/// Removes every spelling of a header that some servers take for it: those that hand headers on as
/// variables (CGI, WSGI, PHP) have one name for `-` and `_`.
pub fn remove_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(name);
    let others: Vec<HeaderName> = headers.keys().filter(|other| is_spelling(other, name)).cloned().collect();
    for other in others {
        headers.remove(other);
    }
}

/// Whether `other` is another spelling of a header for such servers.
pub fn is_spelling(other: &HeaderName, name: &HeaderName) -> bool {
    let dashed = other.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte });
    other.as_str().contains('_') && dashed.eq(name.as_str().bytes())
}

/// Whether a blank stands at either end of a header's value: whoever reads it as HTTP/1 strips it.
pub fn has_blank_end(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.first()) || is_blank(value.last())
}

/// Removes what may not stand in trailers, where no reader expects it (RFC 9110 section 6.5.1):
/// what belongs to one connection, what frames or routes a message, says who asks, for whom and
/// from where, or what a body is. hyper drops some of it on an HTTP/1 connection and h2 gives up
/// the stream for other; so it makes no difference which of them comes next.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    static NEVER: [HeaderName; 22] = [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        CONTENT_LENGTH,
        HOST,
        MAX_FORWARDS,
        AUTHORIZATION,
        COOKIE,
        X_REQUEST_ID,
        X_FORWARDED_CLIENT_CERT,
        X_FORWARDED_FOR,
        X_FORWARDED_PROTO,
        FORWARDED,
        CACHE_CONTROL,
        SET_COOKIE,
        CONTENT_ENCODING,
        CONTENT_RANGE,
        CONTENT_TYPE,
    ];
    let never = |name: &HeaderName| {
        let may_be_spelt = name.as_str().contains('_');
        NEVER.iter().any(|one| name == one || may_be_spelt && is_spelling(name, one))
    };
    let found: Vec<HeaderName> = trailers.keys().filter(|name| never(name)).cloned().collect();
    for name in found {
        trailers.remove(name);
    }
}

/// The members of a header that is a list, over all its lines.
pub fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

/// Whether a header that is a list has this member.
pub fn lists(headers: &HeaderMap, name: HeaderName, member: &str) -> bool {
    list(headers, name).any(|m| m.eq_ignore_ascii_case(member))
}

/// Says who made a request that leaves the app's machine: the app itself, or whoever the app made
/// it for.
///
/// Only the caller's sidecar does so: the app's own would add the caller's machine once more. Off
/// by default, as in Istio, whose sidecars leave `X-Forwarded-For` to gateways (Envoy's
/// `use_remote_address` is false there): an app that counts proxies from the right would count one
/// more.
pub fn forwarded(how: Forwarded, app: IpAddr, headers: &mut HeaderMap) {
    if how == Forwarded::Off {
        return;
    }
    let app = app.to_canonical().to_string();
    if how == Forwarded::Replace {
        for name in [FORWARDED, X_FORWARDED_FOR, X_FORWARDED_PROTO] {
            headers.remove(name);
        }
    }
    // One line, because some apps look at the first only.
    let mut line = list(headers, X_FORWARDED_FOR).collect::<Vec<_>>().join(", ");
    if !line.is_empty() {
        line += ", ";
    }
    line += &app;
    let line = HeaderValue::from_str(&line).expect("parts of valid values and an address are a valid value");
    headers.insert(X_FORWARDED_FOR, line);
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// Gives the request an id if it has none: a random UUID (RFC 9562 version 4), as Envoy does.
pub fn ensure_request_id(headers: &mut HeaderMap, rng: &mut impl Rng) {
    if headers.contains_key(X_REQUEST_ID) {
        return;
    }
    let mut random: u128 = rng.random();
    random = random & !(0xf << 76) | (0x4 << 76);
    random = random & !(0b11 << 62) | (0b10 << 62);
    let mut text = [b'-'; 36];
    let mut digits = (0..32).rev().map(|i| b"0123456789abcdef"[(random >> (4 * i)) as usize & 0xf]);
    for (at, place) in text.iter_mut().enumerate() {
        if ![8, 13, 18, 23].contains(&at) {
            *place = digits.next().expect("32 digits fill 36 places less four dashes");
        }
    }
    let value = HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes are a valid value");
    headers.insert(X_REQUEST_ID, value);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::world::RngTree;

    #[test]
    fn what_the_client_names_goes_before_anything_is_added() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("Upgrade, x-subject"));
        headers.append(CONNECTION, HeaderValue::from_static("host"));
        for name in ["x-subject", "host", "upgrade", "x_subject"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        remove_named(&mut headers);
        let left: BTreeSet<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, BTreeSet::from(["connection", "host", "upgrade", "x_subject"]));
        assert_eq!(headers[CONNECTION], "Upgrade");
        remove_spellings(&mut headers, &HeaderName::from_static("x-subject"));
        assert!(!headers.contains_key("x_subject"));
    }

    #[test]
    fn headers_of_the_connection_do_not_pass() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive"));
        headers.append(CONNECTION, HeaderValue::from_static("close, X-Private, Host"));
        for (name, value) in [
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("accept", "*/*"),
            ("host", "orders"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }

    #[test]
    fn a_request_without_an_id_gets_a_uuid_and_one_with_an_id_keeps_it() {
        let mut headers = HeaderMap::new();
        let mut rng = RngTree::new(1).rng();
        ensure_request_id(&mut headers, &mut rng);
        let id = headers[X_REQUEST_ID].to_str().unwrap().to_owned();
        let parts: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(&id[14..15], "4", "{id}");
        assert!("89ab".contains(&id[19..20]), "{id}");
        ensure_request_id(&mut headers, &mut rng);
        assert_eq!(headers[X_REQUEST_ID], id);
    }
}
