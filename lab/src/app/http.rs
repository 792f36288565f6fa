//! The HTTP echo: every request is answered with a body of fixed size and the name of the instance that answered.
//!
//! `x-served-by` says who answered, and so how load was spread. `x-request-id` and [`REQUEST`] come back unchanged, so
//! that a caller notices an answer that was meant for another. The path `/status/503` answers with that status.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Pattern;
use super::bump;
use super::metrics::Counters;

/// The load generator's own name for a request. Unlike `x-request-id`, no proxy makes or replaces it.
pub const REQUEST: HeaderName = HeaderName::from_static("x-lab-request");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// The app, shared by its connections.
pub struct Echo {
    instance: HeaderValue,
    work: Duration,
    size: u32,
    counters: Rc<Counters>,
}

impl Echo {
    /// An echo that says `instance`, works for `work` on each request (0: answers at once) and sends `size` bytes.
    ///
    /// # Errors
    /// If the instance's name cannot stand in a header.
    pub fn new(instance: &str, work: Duration, size: u32, counters: Rc<Counters>) -> io::Result<Self> {
        let instance = HeaderValue::from_str(instance).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the instance's name is not printable")
        })?;
        Ok(Echo { instance, work, size, counters })
    }

    /// Serves one connection until it ends.
    pub(super) async fn connection<I: AsyncRead + AsyncWrite + Unpin>(self: Rc<Self>, io: I) {
        let service = service_fn(|request| self.answer(request));
        let end = http1::Builder::new()
            .timer(TokioTimer::new())
            .auto_date_header(false)
            // An idle connection stays open: whoever keeps it in a pool decides, and no race of ours is measured.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(io), service)
            .await;
        if let Err(e) = end {
            tracing::debug!("connection ended: {e}");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> hyper::Result<Response<Pattern>> {
        bump(&self.counters.requests);
        let (head, mut body) = request.into_parts();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        if !self.work.is_zero() {
            tokio::time::sleep(self.work).await;
        }
        let status = status(head.uri.path());
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut response = Response::new(Pattern::new(if bodiless { 0 } else { self.size }));
        *response.status_mut() = status;
        response.headers_mut().insert(SERVED_BY, self.instance.clone());
        for name in [REQUEST_ID, REQUEST] {
            if let Some(value) = head.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        Ok(response)
    }
}

/// 200, or what a path such as `/status/503` asks for; 400 if it asks for something that is no final status.
fn status(path: &str) -> StatusCode {
    let Some(asked) = path.strip_prefix("/status/") else { return StatusCode::OK };
    match asked.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) if !status.is_informational() => status,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Serves `answer` on one connection of a side port (metrics).
pub(super) async fn side_port<I: AsyncRead + AsyncWrite + Unpin>(
    io: I,
    answer: impl Fn(&Request<Incoming>) -> Response<String>,
) {
    let service = service_fn(|request| {
        let response = answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let end = http1::Builder::new()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(e) = end {
        tracing::debug!("connection ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_chooses_the_status() {
        for (path, expected) in [
            ("/", 200),
            ("/checkout", 200),
            ("/status/503", 503),
            ("/status/204", 204),
            ("/status/", 400),
            ("/status/101", 400),
            ("/status/99", 400),
            ("/status/four", 400),
        ] {
            assert_eq!(status(path).as_u16(), expected, "{path}");
        }
    }
}
