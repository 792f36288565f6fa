//! Headers that belong to one connection and not to the message (RFC 9110 section 7.6.1), and those that a mesh adds.

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use rand::{Rng, RngExt};

/// Identifies a request on its way through the mesh. Kept if the client sends one.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what the next connection must not see: `Connection`, every header it names, and those that are hop-by-hop
/// by themselves. hyper frames the message anew, so `Transfer-Encoding` goes too.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
        let named = values.flat_map(|value| value.split(','));
        let named: Vec<_> =
            named.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect();
        headers.remove(CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, TRAILER] {
        headers.remove(name);
    }
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
    use super::*;
    use crate::world::RngTree;

    #[test]
    fn headers_of_the_connection_do_not_pass() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive"));
        headers.append(CONNECTION, HeaderValue::from_static("close, X-Private"));
        for (name, value) in [
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
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
