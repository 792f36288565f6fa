//! Whether a request may be tried again.
//!
//! Safe by default: a request is repeated if not a byte of it was sent, or if its method is idempotent (RFC 9110
//! section 9.2.2 lets a proxy repeat only those) and it has no body, which is then known to be complete. Everything else
//! gets the error: a payment that may have happened must not happen twice.

use http::{Method, Request, Uri, Version};

use crate::config::Retry;
use crate::error::Error;
use crate::http::RequestBody;

/// The tries of one request.
#[derive(Debug)]
pub struct Attempts {
    left: u32,
    /// What the request was, if it may be made again although it was sent.
    copy: Option<Box<Head>>,
}

#[derive(Debug)]
struct Head {
    method: Method,
    uri: Uri,
    headers: http::HeaderMap,
    version: Version,
    /// hyper keeps the case of header names here.
    extensions: http::Extensions,
}

impl Attempts {
    /// The tries that `retry` allows for `request`.
    pub fn new(retry: &Retry, request: &Request<RequestBody>) -> Self {
        let repeatable = retry.attempts > 0
            && request.method().is_idempotent()
            && matches!(request.body(), RequestBody::Empty);
        let copy = repeatable.then(|| {
            Box::new(Head {
                method: request.method().clone(),
                uri: request.uri().clone(),
                headers: request.headers().clone(),
                version: request.version(),
                extensions: request.extensions().clone(),
            })
        });
        Attempts { left: retry.attempts, copy }
    }

    /// After a failed try: the request to try again, if it may be. `unsent` is the request itself, if it never left.
    pub fn next(
        &mut self,
        error: &Error,
        unsent: Option<Request<RequestBody>>,
    ) -> Option<Request<RequestBody>> {
        self.left = self.left.checked_sub(1)?;
        match unsent {
            Some(request) => Some(request),
            None if error.kind == crate::error::Kind::Client => None,
            // The last try takes the copy itself.
            None if self.left == 0 => Some(self.copy.take()?.into_request()),
            None => Some(self.copy.as_deref()?.clone_request()),
        }
    }
}

impl Head {
    fn into_request(self: Box<Self>) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Empty);
        *request.version_mut() = self.version;
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        request
    }

    fn clone_request(&self) -> Request<RequestBody> {
        let copy = Head {
            method: self.method.clone(),
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            version: self.version,
            extensions: self.extensions.clone(),
        };
        Box::new(copy).into_request()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn request(method: Method) -> Request<RequestBody> {
        Request::builder().method(method).uri("/x").header("a", "b").body(RequestBody::Empty).unwrap()
    }

    fn tries(method: Method, kind: Kind, sent: bool, attempts: u32) -> usize {
        let mut request = Some(request(method));
        let mut all = Attempts::new(&Retry { attempts }, request.as_ref().unwrap());
        let mut tries = 0;
        while let Some(now) = request.take() {
            assert_eq!((now.uri().path(), &now.headers()["a"]), ("/x", &"b".parse().unwrap()));
            tries += 1;
            request = all.next(&Error::new(kind), (!sent).then_some(now));
        }
        tries
    }

    #[test]
    fn only_what_is_safe_is_tried_again_and_only_so_often() {
        for (method, kind, sent, attempts, expected) in [
            (Method::GET, Kind::Terminated, true, 2, 3),
            (Method::PUT, Kind::Terminated, true, 1, 2),
            (Method::POST, Kind::Terminated, true, 2, 1),
            (Method::POST, Kind::Connect, false, 2, 3),
            (Method::GET, Kind::Connect, false, 0, 1),
            (Method::GET, Kind::Client, true, 2, 1),
        ] {
            assert_eq!(tries(method.clone(), kind, sent, attempts), expected, "{method} {kind:?}");
        }
    }
}
