//! Values of policies that no request, no identity and no token can have: a policy that denies one
//! would deny nothing. Paths have a module of their own, `policy_paths`.

use http::Method;
use http::header::HeaderValue;

use crate::config::{Attribute, ValuePattern};
use crate::host;
use crate::spiffe_id::SpiffeId;

/// What is wrong with a value of an attribute, and the fix. `text` is the pattern without `*`.
pub(super) fn odd(
    attribute: &Attribute,
    pattern: &ValuePattern,
    text: &str,
) -> Option<(&'static str, String)> {
    let is_exact = matches!(pattern, ValuePattern::Exact(_));
    match attribute {
        Attribute::Path if !matches!(pattern, ValuePattern::Suffix(_)) && !text.starts_with('/') => Some((
            "this is not a path",
            format!("a path begins with a slash: write {:?}", format!("/{text}")),
        )),
        Attribute::Path if text.contains(['?', '#']) => {
            Some(("this is more than a path", "paths are compared without the query".into()))
        }
        Attribute::Method if text != text.to_ascii_uppercase() => {
            let upper = text.to_ascii_uppercase();
            Some(("nobody sends this method", format!("methods are upper case: write {upper:?}")))
        }
        Attribute::Method if Method::from_bytes(text.as_bytes()).is_err() => {
            Some(("nobody sends this method", "a method is one word".into()))
        }
        Attribute::Namespace if !fits(pattern, text, is_namespace) => {
            Some(("this is not a namespace", "write its name alone, such as \"shop\"".into()))
        }
        Attribute::Principal if !fits(pattern, text, is_principal) => Some((
            "this is not a principal",
            "write it like \"cluster.local/ns/shop/sa/web\" or \"*/ns/shop/sa/web\"".into(),
        )),
        Attribute::RequestPrincipal if is_exact && !text.contains('/') => Some((
            "this is not an issuer and a subject",
            "write it like \"https://idp.example/alice\" or \"https://idp.example/*\"".into(),
        )),
        Attribute::Host if !fits(pattern, text, host::is_valid) => Some((
            "this is not a host",
            "write a name or an address in ASCII and perhaps a port: \"orders.example:8080\", \"[fd00::1]\""
                .into(),
        )),
        Attribute::Host if !fits(pattern, text, is_compared_host) => Some((
            "hosts are compared in another spelling",
            "write it without a last dot and without zeros in front of a port, and IPv6 as in \"[fd00::1]\""
                .into(),
        )),
        Attribute::Header(_) if !fits(pattern, text, is_header_value) => {
            Some(("no header has this value", "it has no space at its ends and no control characters".into()))
        }
        _ => None,
    }
}

/// Whether some whole value that `is_one` fits the pattern. What may stand for `*` is tried.
fn fits(pattern: &ValuePattern, text: &str, is_one: impl Fn(&str) -> bool) -> bool {
    let more = ["", "a", "0", "a/a", "/a", "a/", ":1]", "[", "[::"];
    match pattern {
        ValuePattern::Exact(_) => is_one(text),
        ValuePattern::Prefix(_) => more.iter().any(|rest| is_one(&format!("{text}{rest}"))),
        ValuePattern::Suffix(_) => more.iter().any(|rest| is_one(&format!("{rest}{text}"))),
        _ => true,
    }
}

fn is_namespace(text: &str) -> bool {
    SpiffeId::of_service_account("a", text, "a").is_ok()
}

/// The id of a trust domain itself is nobody's.
fn is_principal(text: &str) -> bool {
    text.contains('/') && format!("spiffe://{text}").parse::<SpiffeId>().is_ok()
}

fn is_compared_host(text: &str) -> bool {
    host::is_valid(text) && host::comparable(text) == text
}

fn is_header_value(text: &str) -> bool {
    text.trim_matches([' ', '\t']) == text && HeaderValue::from_bytes(text.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Attribute::{Header, Host, Method as Verb, Namespace, Principal, RequestPrincipal};

    fn pattern(words: &str) -> (ValuePattern, &str) {
        match (words.strip_prefix('*'), words.strip_suffix('*')) {
            (Some(rest), _) => (ValuePattern::Suffix(rest.into()), rest),
            (_, Some(rest)) => (ValuePattern::Prefix(rest.into()), rest),
            _ => (ValuePattern::Exact(words.into()), words),
        }
    }

    #[test]
    fn a_value_that_nothing_can_have_is_told_from_one_that_something_has() {
        let header = Header(http::header::ACCEPT);
        for (attribute, never, sometimes) in [
            (
                Host,
                &[
                    "http://a",
                    "a b",
                    "a:99999",
                    "a/b",
                    "u@a",
                    "a,b",
                    "fd00::1",
                    "[fd00::1",
                    "a.example.",
                    "a.:80",
                    "a:080",
                    "a:",
                    "[fd00:0::1]",
                    "[0:0:0:0:0:0:0:1]",
                    "*.example.",
                    "*:080",
                    "*0:0:1]",
                    "a:080*",
                    "[fd00:0:*",
                    "*:99999",
                    "* a",
                    "http://*",
                    "b\u{fc}cher.example",
                    "a:x",
                    "%61",
                ][..],
                &[
                    "a",
                    "a:80",
                    "a.example",
                    "[fd00::1]",
                    "[fd00::1]:80",
                    "10.0.0.1:80",
                    "a_b",
                    "*.example",
                    "*.example:80",
                    "*:80",
                    "a.*",
                    "a:*",
                    "a:8*",
                    "a:9999*",
                    "[fd00:*",
                    "*::1]",
                    "*]:80",
                    "*d00::1]:80",
                ][..],
            ),
            (
                Principal,
                &["web", "td", "TD/ns/a/sa/b", "td//a", "td/a/", "*/", "td/a b*", "*a b", "td/../a", "/ns/a"],
                &[
                    "td/ns/a/sa/b",
                    "td/x",
                    "td/ns/*",
                    "td/ns/a*",
                    "td*",
                    "*/sa/b",
                    "*b",
                    "*/ns/a/sa/b",
                    "*d/a",
                    "td/N",
                ],
            ),
            (RequestPrincipal, &["alice"], &["i/alice", "*alice", "i*"]),
            (Namespace, &["a/b", "a b", "", "..", "a:*"], &["a", "a-*", "*-a", "*.", "A_b"]),
            (Verb, &["get", "GE T", "G/*", "*:"], &["GET", "P*", "*-X", "M-SEARCH"]),
            (header, &[" a", "a ", "*a ", " a*", "a\nb"], &["a", "a b", "*  a", "a *", "\u{fc}"]),
        ] {
            for words in never {
                let (pattern, text) = pattern(words);
                assert!(odd(&attribute, &pattern, text).is_some(), "{attribute} {words:?}");
            }
            for words in sometimes {
                let (pattern, text) = pattern(words);
                assert_eq!(odd(&attribute, &pattern, text), None, "{attribute} {words:?}");
            }
        }
    }
}
