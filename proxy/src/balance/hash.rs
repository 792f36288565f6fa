//! Hashes that mean the same in every sidecar, every release and every world: which endpoint a user
//! meets must not depend on which process asks. `std`'s hashers promise none of that.
//!
//! FNV-1a (Fowler, Noll, Vo) over the bytes and MurmurHash3's finalizer (Appleby) over the result,
//! because FNV's high bits alone are poor for short words and a ring is ordered by them. Not
//! against an adversary: whoever may choose his key may choose his endpoint.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::COOKIE;

use crate::config::HashSource;

/// The hash of some bytes.
pub fn stable<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Spreads what differs in a few bits over all of them.
pub fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The `index`th hash of an endpoint.
pub fn of_endpoint(address: SocketAddr, index: u64) -> u64 {
    let port = address.port().to_be_bytes();
    let base = match address.ip() {
        IpAddr::V4(ip) => stable(ip.octets().iter().chain(&port)),
        IpAddr::V6(ip) => stable(ip.octets().iter().chain(&port)),
    };
    // Steps of the golden ratio, as in SplitMix64 (Steele, Lea, Flood 2014).
    mix(base.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// What a request of `peer` with these headers hashes to; `None` if what is asked for is not there.
/// An opaque connection has no headers.
pub fn of_request(source: &HashSource, headers: Option<&HeaderMap>, peer: IpAddr) -> Option<u64> {
    match source {
        HashSource::Source => Some(match peer.to_canonical() {
            IpAddr::V4(ip) => stable(&ip.octets()),
            IpAddr::V6(ip) => stable(&ip.octets()),
        }),
        HashSource::Header(name) => {
            let mut values = headers?.get_all(name).iter().peekable();
            values.peek()?;
            // A list may stand in one line or in several (RFC 9110, section 5.3).
            let between = std::iter::once(&b',');
            Some(stable(
                values
                    .enumerate()
                    .flat_map(|(i, value)| between.clone().take(usize::from(i > 0)).chain(value.as_bytes())),
            ))
        }
        HashSource::Cookie(name) => {
            let cookies = headers?.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
            let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(given, _)| given.trim() == name)?;
            Some(stable(value.trim().as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn hashes_are_the_same_in_every_release() {
        // Changing these moves every user of every consistent hash to another endpoint.
        assert_eq!(stable(b""), 0xefd0_1f60_ba99_2926);
        assert_eq!(stable(b"user-42"), stable(&b"user-42".to_vec()));
        assert_ne!(stable(b"user-42"), stable(b"user-43"));
    }

    #[test]
    fn the_top_bits_of_hashes_of_similar_words_are_evenly_spread() {
        let mut counts = [0_u32; 64];
        for i in 0..64_000 {
            counts[(stable(format!("user-{i}").as_bytes()) >> 58) as usize] += 1;
        }
        // Chi-square with 63 degrees of freedom: above 131 once in a million.
        let chi: f64 = counts.iter().map(|c| (f64::from(*c) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 131.0, "{chi}");
    }

    #[test]
    fn a_request_is_known_by_its_header_its_cookie_or_its_client() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("42"));
        headers.append(COOKIE, HeaderValue::from_static("a=1; session = s1"));
        headers.append(COOKIE, HeaderValue::from_static("session=s2"));
        fn of(source: HashSource, headers: Option<&HeaderMap>) -> Option<u64> {
            of_request(&source, headers, [10, 0, 0, 1].into())
        }
        let header = |name| HashSource::Header(http::HeaderName::from_static(name));
        let cookie = |name: &str| HashSource::Cookie(name.into());
        for (source, expected) in [
            (header("x-user"), Some(stable(b"42"))),
            (header("x-other"), None),
            (cookie("session"), Some(stable(b"s1"))),
            (cookie("sess"), None),
            (HashSource::Source, Some(stable(&[10, 0, 0, 1]))),
        ] {
            assert_eq!(of(source.clone(), Some(&headers)), expected, "{source:?}");
        }
        assert_eq!(of(header("x-user"), None), None, "an opaque connection");
        assert_eq!(
            of_request(&HashSource::Source, None, "::ffff:10.0.0.1".parse().unwrap()),
            of(HashSource::Source, None)
        );
        let one_line = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-user"),
            HeaderValue::from_static("42,43"),
        )]);
        headers.append("x-user", HeaderValue::from_static("43"));
        assert_eq!(of(header("x-user"), Some(&headers)), of(header("x-user"), Some(&one_line)));
    }
}
