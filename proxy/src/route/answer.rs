//! Answers that a route gives itself: where else to ask, and nothing more than a status.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use http::uri::Scheme;
use http::{Request, Response};

use super::rewrite::TooLong;
use crate::config::route::{Redirect, Respond};
use crate::grpc;
use crate::host::without_port;

impl Redirect {
    /// The answer that sends a client elsewhere. `dst` is the host of a request that names none.
    ///
    /// The scheme is `http` unless it is changed: what TLS the app speaks itself is passed through
    /// unread. The port stays with the host, unless the scheme is changed, whose own port then
    /// counts.
    ///
    /// # Errors
    /// If the new place is longer than it may be.
    pub fn answer<B>(&self, request: &Request<B>, dst: SocketAddr) -> Result<Response<Bytes>, TooLong> {
        let uri = request.uri();
        let dst = dst.to_string();
        let asked = uri.authority().map(|authority| authority.as_str());
        let asked =
            asked.or_else(|| request.headers().get(HOST)?.to_str().ok()).filter(|host| !host.is_empty());
        let asked = asked.unwrap_or(&dst).rsplit('@').next().unwrap_or_default();
        let scheme = self.scheme.as_ref().unwrap_or(&Scheme::HTTP);
        let authority = match &self.authority {
            Some(authority) => authority.as_str(),
            None if *scheme != Scheme::HTTP => without_port(asked),
            None => asked,
        };
        let path = match &self.path {
            Some(path) => path.target(uri.path(), uri.query())?.to_string(),
            None => uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        };
        let location = HeaderValue::try_from(format!("{scheme}://{authority}{path}")).map_err(|_| TooLong)?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = self.status;
        response.headers_mut().insert(LOCATION, location);
        Ok(response)
    }
}

impl Respond {
    /// The answer. A gRPC client gets it as a gRPC status, since it knows no other errors.
    pub fn answer(&self, is_grpc: bool) -> Response<Bytes> {
        if is_grpc && !self.status.is_success() {
            return grpc::response(grpc::code_of(self.status), &self.body);
        }
        let mut response = Response::new(Bytes::from(self.body.clone()));
        *response.status_mut() = self.status;
        if !self.body.is_empty() {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route::PathRewrite;
    use http::StatusCode;

    #[test]
    fn a_redirect_changes_what_it_names_and_keeps_the_rest() {
        let https = Some(Scheme::HTTPS);
        let other = "new.example:81".parse().ok();
        let prefix = Some(PathRewrite::Prefix { matched: 2, to: "/b".into() });
        for (scheme, authority, path, uri, host, expected) in [
            (&https, &None, &None, "/a?b", "orders", "https://orders/a?b"),
            (&https, &None, &None, "/a", "orders:8080", "https://orders/a"),
            (&None, &other, &None, "/a", "orders:8080", "http://new.example:81/a"),
            (&https, &other, &None, "/", "", "https://new.example:81/"),
            (&None, &None, &prefix, "/a/x?y", "orders:8080", "http://orders:8080/b/x?y"),
            (&None, &None, &prefix, "http://u@h:1/a", "orders", "http://h:1/b"),
            (&None, &None, &prefix, "/a", "", "http://10.96.0.1:80/b"),
        ] {
            let redirect = Redirect {
                scheme: scheme.clone(),
                authority: authority.clone(),
                path: path.clone(),
                status: StatusCode::FOUND,
            };
            let request = Request::builder().uri(uri).header(HOST, host).body(()).unwrap();
            let answer = redirect.answer(&request, "10.96.0.1:80".parse().unwrap()).unwrap();
            assert_eq!(
                (answer.status().as_u16(), answer.headers()[LOCATION].to_str().unwrap()),
                (302, expected)
            );
        }
    }

    #[test]
    fn a_grpc_client_is_answered_with_a_grpc_status() {
        let respond = Respond { status: StatusCode::FORBIDDEN, body: "not here".into() };
        let answer = respond.answer(true);
        assert_eq!((answer.status().as_u16(), &answer.headers()[grpc::STATUS]), (200, &HeaderValue::from(7)));
        assert_eq!(answer.headers()[grpc::MESSAGE], "not here");
        let answer = respond.answer(false);
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (403, &b"not here"[..]));
    }
}
