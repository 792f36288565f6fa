//! The echo over HTTP/1.
//!
//! `x-served-by` says who answered, and so how load was spread. `x-request-id` and [`REQUEST`] come
//! back unchanged, so that a caller notices an answer that was meant for another. The path
//! `/status/503` answers with that status, and `/bytes/100000` with a body of that size. `/healthz`
//! says yes, but for a share of the times that can be asked for, and `/ready` does so from
//! `ready_after` on.
//!
//! It may close connections that stay idle, at unpredictable times: then a request may meet the
//! close on its way, as with every real server that has a limit (RFC 9112 section 9.5).

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use http::header::HeaderName;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::body::Pattern;
use super::echo::{Echo, REQUEST, SERVED_BY};
use super::malformed::{Malformation, MalformedWriter, ReplacementHandle};
use crate::traffic::emit;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves one HTTP/1 connection until it ends.
pub(super) async fn connection<I: AsyncRead + AsyncWrite + Unpin>(echo: Rc<Echo>, io: I) {
    let idle_timer = IdleTimer { echo: &echo, until: Cell::new(None), changed: Notify::new() };
    let replacement = ReplacementHandle::default();
    let service = service_fn(|request| async {
        idle_timer.begin();
        replacement.pass_next();
        let answer = answer(&echo, request, &replacement).await;
        idle_timer.end();
        answer
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        // An idle connection stays open, unless the scenario asks for it to be closed: the
        // pool that keeps it decides, and the lab adds no race of its own.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(MalformedWriter::new(io, replacement.clone())), service);
    let mut connection = pin!(connection);
    let end = tokio::select! {
        biased;
        end = &mut connection => end,
        () = idle_timer.is_over() => {
            echo.closes_idle();
            // As servers do: nothing is cut off, but what has not been read by now never will
            // be.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = end {
        tracing::debug!("connection ended: {e}");
    }
}

async fn answer(
    echo: &Echo,
    request: Request<Incoming>,
    replacement: &ReplacementHandle,
) -> hyper::Result<Response<Pattern>> {
    let (head, mut body) = request.into_parts();
    if let Some(is_well) = echo.is_well(head.uri.path()) {
        return Ok(health(is_well));
    }
    let id = head.headers.get(&REQUEST).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let nth = echo.hears(&head, id);
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    emit!(RequestComplete { id, nth, length });
    let behaviour = echo.behaviour();
    echo.works().await;
    let (fails, malformation) = echo.ails(behaviour);
    let asked = StatusCode::from_u16(behaviour.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let status = if fails { asked } else { status(head.uri.path()) };
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = match echo.spec().size {
        _ if bodiless => Pattern::new(0),
        usual if echo.spec().chunked => Pattern::new(size(head.uri.path(), usual)).in_chunks(),
        usual => Pattern::new(size(head.uri.path(), usual)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(SERVED_BY, echo.name());
    for name in [REQUEST_ID, REQUEST] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    if malformation.is_none_or(Malformation::is_answered) {
        emit!(Answers { id, nth, status: status.as_u16() });
    }
    if let Some(malformation) = malformation {
        emit!(BreaksHttp { id, nth, malformation });
        replacement.replace_next(malformation, &response);
    }
    Ok(response)
}

/// The answer to a question after its health, which is not counted as a request.
fn health(is_well: bool) -> Response<Pattern> {
    let mut response = Response::new(Pattern::new(0));
    *response.status_mut() = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response
}

/// When a connection has been idle for long enough.
struct IdleTimer<'a> {
    echo: &'a Echo,
    /// `None` while a request is answered, and where idle connections are kept.
    until: Cell<Option<Instant>>,
    changed: Notify,
}

impl IdleTimer<'_> {
    fn begin(&self) {
        self.until.set(None);
        self.changed.notify_one();
    }

    fn end(&self) {
        if let Some(rest) = self.echo.keeps_idle() {
            self.until.set(Some(Instant::now() + rest));
            self.changed.notify_one();
        }
    }

    /// Returns when it is over; never, while requests come.
    async fn is_over(&self) {
        loop {
            match self.until.get() {
                Some(until) => {
                    let changed = timeout_at(until, self.changed.notified()).await;
                    if changed.is_err() {
                        return;
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }
}

/// 200, or what a path such as `/status/503` asks for; 400 if it asks for something that is no
/// final status.
fn status(path: &str) -> StatusCode {
    let Some(asked) = path.strip_prefix("/status/") else { return StatusCode::OK };
    match asked.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) if !status.is_informational() => status,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Bytes of a body: `usual`, or what a path such as `/bytes/100000` asks for.
pub(crate) fn size(path: &str, usual: u32) -> u32 {
    path.strip_prefix("/bytes/").and_then(|asked| asked.parse().ok()).unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_chooses_the_size_of_the_answer() {
        for (path, expected) in [("/", 3), ("/bytes/100000", 100_000), ("/bytes/0", 0), ("/bytes/many", 3)] {
            assert_eq!(size(path, 3), expected, "{path}");
        }
    }

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
