//! Whether a request is one of those that a route is for.
//!
//! Everything is compared as it was sent, and nothing is decoded or put in order: a path with
//! `%41`, `//` or `..` in it is another one than the app may make of it. Routes say where a request
//! goes and not what it may do.

use crate::host::without_port;
use http::header::{HOST, HeaderMap};
use http::{Method, Request};

use crate::config::route::{HostPattern, Match, PathMatch, ValueMatch};

/// What a route sees of a request.
#[derive(Debug, Clone, Copy)]
pub struct MatchInput<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Its path, without the query.
    pub path: &'r str,
    /// Its query, without the question mark; empty if there is none.
    pub query: &'r str,
    /// The host that it is for, without a port; empty if it does not say so.
    pub host: &'r str,
    /// Its headers.
    pub headers: &'r HeaderMap,
}

impl<'r> MatchInput<'r> {
    /// Of a request in any form: the host may stand in its target, as in HTTP/2, or in a header.
    pub fn of<B>(request: &'r Request<B>) -> Self {
        let uri = request.uri();
        let headers = request.headers();
        let host = match uri.authority() {
            Some(authority) => authority.host(),
            None => without_port(headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()),
        };
        MatchInput {
            method: request.method(),
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            host,
            headers,
        }
    }
}

impl Match {
    /// Whether it is for this request.
    pub fn is_for(&self, head: MatchInput<'_>) -> bool {
        self.path.is_for(head.path) && self.is_for_rest(head)
    }

    /// Whether all holds but the path, of which that is known.
    pub(super) fn is_for_rest(&self, head: MatchInput<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(head.method))
            && (self.authorities.is_empty() || self.authorities.iter().any(|host| host.is_for(head.host)))
            && self.headers.iter().all(|(name, value)| {
                // One line that fits is enough.
                let mut lines = head.headers.get_all(name).iter();
                match value {
                    ValueMatch::Absent => lines.next().is_none(),
                    value => lines.any(|line| value.is_for(line.as_bytes())),
                }
            })
            && self.query.iter().all(|(name, value)| match (parameter(head.query, name), value) {
                (found, ValueMatch::Absent) => found.is_none(),
                (found, value) => found.is_some_and(|found| value.is_for(found.as_bytes())),
            })
    }
}

/// The first value of a parameter; empty if it has none.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name && !pair.is_empty()).then_some(value)
    })
}

impl PathMatch {
    /// Whether it is this path.
    pub(super) fn is_for(&self, path: &str) -> bool {
        match self {
            PathMatch::Any => true,
            PathMatch::Exact(exact) => path == exact,
            // Without a path (`*`, CONNECT) only the prefix of everything is there.
            PathMatch::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/')),
            PathMatch::Regex(pattern) => pattern.is_match(path.as_bytes()),
        }
    }
}

impl HostPattern {
    fn is_for(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => host.eq_ignore_ascii_case(name),
            HostPattern::Below(end) => {
                let (host, end) = (host.as_bytes(), end.as_bytes());
                host.len() > end.len() && host[host.len() - end.len()..].eq_ignore_ascii_case(end)
            }
        }
    }
}

impl ValueMatch {
    /// Whether a value is like this. Whether there is one at all is for the caller to see.
    fn is_for(&self, value: &[u8]) -> bool {
        match self {
            ValueMatch::Exact(exact) => value == exact.as_bytes(),
            ValueMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            ValueMatch::Regex(pattern) => pattern.is_match(value),
            ValueMatch::Present => true,
            ValueMatch::Absent => false,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::route::Pattern;
    use proptest::prelude::*;

    fn get(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request =
            headers.iter().fold(Request::builder().uri(uri), |r, (name, value)| r.header(*name, *value));
        request.body(()).unwrap()
    }

    fn regex(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    #[test]
    fn a_path_is_matched_whole_or_by_segments_or_by_an_expression_from_end_to_end() {
        let prefix = |text: &str| PathMatch::Prefix(text.into());
        for (which, path, expected) in [
            (PathMatch::Any, "/x", true),
            (PathMatch::Exact("/a".into()), "/a", true),
            (PathMatch::Exact("/a".into()), "/a/", false),
            (PathMatch::Exact("/a".into()), "/A", false),
            (prefix("/a"), "/a", true),
            (prefix("/a"), "/a/", true),
            (prefix("/a"), "/a/b", true),
            (prefix("/a"), "/ab", false),
            (prefix("/a"), "/", false),
            (prefix(""), "/", true),
            (prefix(""), "//x", true),
            (prefix(""), "*", true),
            (PathMatch::Regex(regex("/u/[0-9]+")), "/u/17", true),
            (PathMatch::Regex(regex("/u/[0-9]+")), "/u/17/x", false),
            (PathMatch::Regex(regex("/a|/b")), "/b", true),
            (PathMatch::Regex(regex("/a|/b")), "/bx", false),
            (PathMatch::Regex(regex(r"/\d+")), "/٣", false),
        ] {
            assert_eq!(which.is_for(path), expected, "{which:?} {path}");
        }
    }

    #[test]
    fn an_expression_that_cannot_be_compiled_says_why() {
        for (text, wrong) in [
            ("(", "unclosed group"),
            ("a)(b", "unopened group"),
            (r"\p{Greek}", "Unicode"),
            ("(a{500}){500}", "too large"),
        ] {
            assert!(Pattern::new(text).unwrap_err().contains(wrong), "{text}: {:?}", Pattern::new(text));
        }
    }

    #[test]
    fn a_host_is_matched_without_its_port_and_in_any_case() {
        let exact = HostPattern::Exact("orders.example".into());
        let below = HostPattern::Below(".example".into());
        for (request, is_exact, is_below) in [
            (get("/", &[("host", "orders.example")]), true, true),
            (get("/", &[("host", "Orders.EXAMPLE:8080")]), true, true),
            (get("http://orders.example:80/", &[("host", "other")]), true, true),
            (get("http://user@orders.example/", &[]), true, true),
            (get("/", &[("host", "a.orders.example")]), false, true),
            (get("/", &[("host", ".example")]), false, false),
            (get("/", &[("host", "example")]), false, false),
            (get("/", &[("host", "notexample")]), false, false),
            (get("/", &[]), false, false),
            (get("/", &[("host", "[::1]:80")]), false, false),
        ] {
            let host = MatchInput::of(&request).host;
            assert_eq!((exact.is_for(host), below.is_for(host)), (is_exact, is_below), "{request:?}");
        }
        assert!(["[::1]", "[::1]:80"].map(without_port).iter().all(|host| *host == "[::1]"));
    }

    #[test]
    fn a_header_matches_by_any_of_its_lines_and_its_absence_by_none() {
        let value = |text: &str| ValueMatch::Exact(text.into());
        for (which, headers, expected) in [
            (value("1"), &[("x-a", "1")][..], true),
            (value("1"), &[("x-a", "2"), ("X-A", "1")], true),
            (value("1"), &[("x-a", "11")], false),
            (value("1"), &[], false),
            (ValueMatch::Prefix("1".into()), &[("x-a", "11")], true),
            (ValueMatch::Regex(regex("[0-9]")), &[("x-a", "11")], false),
            (ValueMatch::Regex(regex("(?i)yes")), &[("x-a", "YES")], true),
            (ValueMatch::Present, &[("x-a", "")], true),
            (ValueMatch::Present, &[("x-b", "")], false),
            (ValueMatch::Absent, &[("x-a", "")], false),
            (ValueMatch::Absent, &[], true),
        ] {
            let matches = Match { headers: vec![("x-a".parse().unwrap(), which)], ..Match::default() };
            assert_eq!(
                matches.is_for(MatchInput::of(&get("/", headers))),
                expected,
                "{matches:?} {headers:?}"
            );
        }
    }

    #[test]
    fn a_parameter_matches_by_its_first_value_and_is_not_decoded() {
        let value = |text: &str| ValueMatch::Exact(text.into());
        for (which, uri, expected) in [
            (value("1"), "/?v=1", true),
            (value("1"), "/?a&v=1&v=2", true),
            (value("2"), "/?v=1&v=2", false),
            (value("1"), "/?vv=1", false),
            (value("a b"), "/?v=a%20b", false),
            (value("a%20b"), "/?v=a%20b", true),
            (ValueMatch::Present, "/?v", true),
            (ValueMatch::Present, "/", false),
            (ValueMatch::Absent, "/?w=v", true),
            (ValueMatch::Absent, "/?v=", false),
        ] {
            let matches = Match { query: vec![("v".into(), which)], ..Match::default() };
            assert_eq!(matches.is_for(MatchInput::of(&get(uri, &[]))), expected, "{matches:?} {uri}");
        }
    }

    #[test]
    fn all_that_a_route_says_must_hold() {
        let matches = Match {
            path: PathMatch::Prefix("/a".into()),
            methods: vec![Method::GET, Method::HEAD],
            headers: vec![
                ("x-a".parse().unwrap(), ValueMatch::Present),
                ("x-b".parse().unwrap(), ValueMatch::Absent),
            ],
            ..Match::default()
        };
        assert!(matches.is_for(MatchInput::of(&get("/a/b", &[("x-a", "1")]))));
        assert!(!matches.is_for(MatchInput::of(&get("/b", &[("x-a", "1")]))));
        assert!(!matches.is_for(MatchInput::of(&get("/a/b", &[("x-a", "1"), ("x-b", "1")]))));
        let mut post = get("/a/b", &[("x-a", "1")]);
        *post.method_mut() = Method::POST;
        assert!(!matches.is_for(MatchInput::of(&post)));
    }

    /// Few words, so that they often meet.
    pub(crate) fn a_match() -> impl Strategy<Value = Match> {
        let path = prop_oneof![
            Just(PathMatch::Any),
            "(/[ab]){1,3}/?".prop_map(PathMatch::Exact),
            "(/[ab]){0,3}".prop_map(PathMatch::Prefix),
            "(/[ab.]){1,2}".prop_map(|text| PathMatch::Regex(regex(&text))),
        ];
        let value = prop_oneof![
            Just(ValueMatch::Present),
            Just(ValueMatch::Absent),
            "[12]".prop_map(ValueMatch::Exact),
            "[12]".prop_map(ValueMatch::Prefix),
        ];
        let host = prop_oneof![
            "[ab]\\.c".prop_map(HostPattern::Exact),
            prop_oneof![Just(".c"), Just(".a.c")].prop_map(|end| HostPattern::Below(end.into())),
        ];
        let method = prop_oneof![Just(Method::GET), Just(Method::POST)];
        let header = ("x-[ab]".prop_map(|name| name.parse().unwrap()), value.clone());
        let few = |most| 0..most;
        (
            path,
            prop::collection::vec(method, few(2)),
            prop::collection::vec(host, few(2)),
            prop::collection::vec(header, few(2)),
            prop::collection::vec(("[vw]", value), few(2)),
        )
            .prop_map(|(path, methods, authorities, headers, query)| Match {
                path,
                methods,
                authorities,
                headers,
                query,
            })
    }

    /// A request of the same words.
    pub(crate) fn a_request() -> impl Strategy<Value = Request<()>> {
        let method = prop_oneof![Just("GET"), Just("POST")];
        let header = ("x-[ab]", "[12]{0,2}");
        (
            method,
            "(/[ab]){1,4}/?",
            "(\\?([vw]=[12])?)?",
            "[ab](\\.[ab])?\\.c",
            prop::collection::vec(header, 0..3),
        )
            .prop_map(|(method, path, query, host, headers)| {
                let request = Request::builder().method(method).uri(path + &query).header("host", host);
                headers.into_iter().fold(request, |r, (name, value)| r.header(name, value)).body(()).unwrap()
            })
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_covered_is(one in a_match(), other in a_match(), request in a_request()) {
            let head = MatchInput::of(&request);
            if one.covers(&other) && other.is_for(head) {
                prop_assert!(one.is_for(head), "{one:?} covers {other:?}, but not for {request:?}");
            }
        }
    }
}
