//! What a request asks for instead: another path, another host.
//!
//! A prefix is replaced as the Gateway API does it (`ReplacePrefixMatch`): whole segments, without
//! a slash too many or too few. The query stays as it is. Only targets that are paths are changed:
//! `*` and CONNECT have none.

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{Request, Uri};

use crate::config::route::{PathRewrite, Rewrite};

/// The new target is longer than a target may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its path is too long once rewritten")]
pub struct TooLong;

impl PathRewrite {
    /// What `path` becomes.
    pub fn of(&self, path: &str) -> String {
        match self {
            PathRewrite::Whole(path) => path.clone(),
            PathRewrite::Prefix { matched, to } => {
                let rest = path.get(*matched..).unwrap_or_default();
                match (to.as_str(), rest) {
                    ("", "") => "/".to_owned(),
                    (to, rest) => format!("{to}{rest}"),
                }
            }
        }
    }

    /// What a target of this path and query becomes.
    ///
    /// # Errors
    /// If it is too long then.
    pub fn target(&self, path: &str, query: Option<&str>) -> Result<PathAndQuery, TooLong> {
        let mut target = self.of(path);
        if let Some(query) = query {
            target.push('?');
            target += query;
        }
        PathAndQuery::try_from(target).map_err(|_| TooLong)
    }
}

impl Rewrite {
    /// Rewrites a request in the form of HTTP/1: a path, a `Host`.
    ///
    /// # Errors
    /// If its path is too long then.
    pub fn apply<B>(&self, request: &mut Request<B>) -> Result<(), TooLong> {
        let uri = request.uri();
        if let Some(path) = self.path.as_ref().filter(|_| uri.path().starts_with('/')) {
            *request.uri_mut() = Uri::from(path.target(uri.path(), uri.query())?);
        }
        if let Some(authority) = &self.authority {
            request.headers_mut().insert(HOST, authority.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderValue;
    use proptest::prelude::*;

    /// As the configuration makes it.
    fn prefix(matched: &str, to: &str) -> PathRewrite {
        PathRewrite::Prefix {
            matched: matched.trim_end_matches('/').len(),
            to: to.trim_end_matches('/').to_owned(),
        }
    }

    #[test]
    fn a_prefix_is_replaced_without_a_slash_too_many_or_too_few() {
        // The table in the documentation of the Gateway API's HTTPPathModifier.
        for (path, matched, to, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/", "/xyz", "/xyz/foo"),
        ] {
            assert_eq!(prefix(matched, to).of(path), expected, "{path} {matched} {to}");
        }
    }

    #[test]
    fn a_rewrite_keeps_the_query_and_leaves_what_is_no_path() {
        let rewrite = Rewrite {
            path: Some(prefix("/v1", "/")),
            authority: Some(HeaderValue::from_static("orders:81")),
        };
        for (uri, expected) in [("/v1/a?b=/v1", "/a?b=/v1"), ("/v1?", "/?"), ("*", "*")] {
            let mut request = Request::builder().uri(uri).header(HOST, "a").body(()).unwrap();
            rewrite.apply(&mut request).unwrap();
            assert_eq!(request.uri().to_string(), expected);
            assert_eq!(request.headers()[HOST], "orders:81");
        }
        let whole = Rewrite { path: Some(PathRewrite::Whole("/x".into())), authority: None };
        let mut request = Request::builder().uri("/a/b?c").body(()).unwrap();
        whole.apply(&mut request).unwrap();
        assert_eq!(request.uri(), "/x?c");
    }

    #[test]
    fn a_path_that_grows_too_long_is_an_error() {
        let longer = prefix("/a", &"/b".repeat(40));
        let path = "/a".to_owned() + &"/c".repeat(32_740);
        assert!(PathAndQuery::try_from(path.as_str()).is_ok());
        assert_eq!(longer.target(&path, None), Err(TooLong));
    }

    proptest! {
        #[test]
        fn what_comes_out_is_always_a_path_with_the_same_query(
            matched in "(/[a-z%]{1,3}){0,3}/?",
            rest in "(/[ -~&&[^?# ]]{0,5}){0,3}",
            to in "(/[a-z]{0,3}){1,3}",
            query in prop::option::of("[a-z=&/?]{0,8}"),
        ) {
            let path = matched.trim_end_matches('/').to_owned() + &rest;
            prop_assume!(path.starts_with('/') && PathAndQuery::try_from(path.as_str()).is_ok());
            for rewrite in [prefix(&matched, &to), PathRewrite::Whole(to.clone())] {
                let target = rewrite.target(&path, query.as_deref()).unwrap();
                prop_assert!(target.path().starts_with('/'), "{target}");
                prop_assert_eq!(target.query(), query.as_deref());
                if let PathRewrite::Prefix { .. } = rewrite {
                    prop_assert!(target.path().ends_with(rest.as_str()), "{target}");
                }
            }
        }
    }
}
