//! Hosts as requests name them, perhaps with a port: which there can be, and one spelling of each.

use std::net::Ipv6Addr;

/// A host, perhaps with a port, in lower case and without the dot that may end a full name; an
/// address of IPv6 as RFC 5952 has it; a port without zeros in front of it, and none that is empty.
pub fn comparable(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let (name, port) = host.split_at(name_len(host.as_bytes()));
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let address = address.and_then(|address| address.parse::<Ipv6Addr>().ok());
    let mut host = address.map_or_else(|| name.to_owned(), |address| format!("[{address}]"));
    let port = port.strip_prefix(':').unwrap_or_default();
    if !port.is_empty() {
        let digits = port.trim_start_matches('0');
        host.push(':');
        host.push_str(if digits.is_empty() { "0" } else { digits });
    }
    host
}

/// Whether this is `uri-host [ ":" port ]`, as RFC 3986 has it but for escapes and commas: what one
/// reader would decode, and what another would take for two.
pub fn is_valid(text: &str) -> bool {
    let (is_host, rest) = match text.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((address, rest)) => (address.parse::<Ipv6Addr>().is_ok(), rest),
            None => return false,
        },
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (!name.is_empty() && name.bytes().all(may_stand_in_a_name), rest)
        }
    };
    let is_port = match rest.strip_prefix(':') {
        // RFC 3986 section 3.2.3 lets it be empty. A sign is no digit, whatever `parse` says.
        Some(port) => {
            port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
        }
        None => rest.is_empty(),
    };
    is_host && is_port
}

/// `unreserved` and `sub-delims` of RFC 3986 section 2, without the comma.
fn may_stand_in_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte)
}

/// Whether a host, or the end of one, names a port.
pub fn has_port(host: &str) -> bool {
    name_len(host.as_bytes()) != host.len()
}

/// A host without the port behind it.
pub fn without_port(host: &str) -> &str {
    &host[..name_len(host.as_bytes())]
}

/// How long a host is without the port behind it. `[::1]` ends with a colon and digits too.
pub fn name_len(host: &[u8]) -> usize {
    let colon = host.iter().rposition(|byte| *byte == b':');
    let is_port = |colon: &usize| host[colon + 1..].iter().all(u8::is_ascii_digit);
    colon.filter(is_port).unwrap_or(host.len())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use http::uri::Authority;

    pub(crate) const HOSTS: &[&str] = &[
        "a",
        "a:80",
        "a:",
        "a:0",
        "a:65535",
        "A-b.c_d~e",
        "1.2.3.4:5",
        "[::1]",
        "[::1]:80",
        "[::ffff:1.2.3.4]:",
        "a;b",
    ];

    pub(crate) const NO_HOSTS: &[&str] = &[
        "a:x",
        "a:-1",
        "a:+1",
        "a:65536",
        "a:99999",
        "a:1:2",
        "a:8 0",
        "a:0x50",
        ":80",
        "u@a",
        "u:p@a",
        "@a",
        "a,b",
        "a, b",
        "a,",
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "a%41",
        "a%",
        "http://a",
        "[::1",
        "::1",
        "::1]",
        "[::1]x",
        "[::1]:x",
        "[a]",
        "[]",
        "[::1%25eth0]",
        "[v1.a]",
        "<a>",
        "a\"b",
        "a|b",
        "a^b",
        "a`b",
        "{a}",
        "a\tb",
        "\u{e4}",
    ];

    #[test]
    fn letters_a_last_dot_zeros_and_spellings_of_an_address_make_no_other_host() {
        for (host, same) in [
            ("Orders", "orders"),
            ("orders.example.", "orders.example"),
            ("orders.:8080", "orders:8080"),
            ("orders:8080", "orders:8080"),
            ("[FD00::1]:80", "[fd00::1]:80"),
            ("[fd00::1]", "[fd00::1]"),
            ("orders:08080", "orders:8080"),
            ("orders:000", "orders:0"),
            ("orders.:", "orders"),
            ("[0:0:0:0:0:0:0:1]:080", "[::1]:80"),
            ("[::FFFF:10.0.0.1]", "[::ffff:10.0.0.1]"),
            (".", ""),
            ("", ""),
        ] {
            assert_eq!(comparable(host), same, "{host}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port_that_there_is() {
        for host in HOSTS {
            assert!(is_valid(host), "{host}");
            assert!(
                Authority::try_from(*host).is_ok(),
                "{host}: what passes can be written in every version"
            );
        }
        for host in NO_HOSTS {
            assert!(!is_valid(host), "{host}");
        }
    }
}
