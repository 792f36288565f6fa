//! What a copy of a request says, beside the original.

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};

use crate::host::without_port;

/// Makes the headers of a request in the form of HTTP/1 those of its copy: the host says that it is
/// one, with Envoy's suffix (`orders:80` is `orders-shadow:80`), so that logs and apps can tell;
/// and a body that is there whole has a length and waits for nobody to want it.
pub fn become_copy(headers: &mut HeaderMap) {
    if let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty())
    {
        let name = without_port(host);
        let shadow = format!("{name}-shadow{}", &host[name.len()..]);
        // An address in brackets has no name to add to.
        if let Ok(shadow) = HeaderValue::try_from(shadow)
            && !name.ends_with(']')
        {
            headers.insert(HOST, shadow);
        }
    }
    for name in [EXPECT, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_copy_says_that_it_is_one() {
        for (host, expected) in [
            ("orders", "orders-shadow"),
            ("orders.example:8080", "orders.example-shadow:8080"),
            ("[::1]:80", "[::1]:80"),
            ("", ""),
        ] {
            let mut headers = HeaderMap::from_iter([
                (HOST, HeaderValue::from_static(host)),
                (EXPECT, HeaderValue::from_static("100-continue")),
            ]);
            become_copy(&mut headers);
            assert_eq!((&headers[HOST], headers.len()), (&HeaderValue::from_static(expected), 1));
        }
    }
}
