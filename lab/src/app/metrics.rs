//! What a built-in app counts, in Prometheus' text format.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Write;
use std::rc::Rc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

/// Requests that were answered otherwise than usual, because the timeline asked for it.
pub const CHANGED: &str = "app_changed_requests_total";

/// An app's counters. An app runs on one thread, so plain cells do.
#[derive(Debug, Default)]
pub struct AppCounters {
    /// Requests that arrived: of the HTTP echo the requests, of the line server the lines.
    pub requests: Cell<u64>,
    /// Connections accepted.
    pub connections: Cell<u64>,
    /// Connections open now.
    pub open: Cell<u64>,
    /// Requests that were answered otherwise than usual, because the timeline asked for it.
    pub changed: Cell<u64>,
    /// Connections that the app closed because they were idle.
    pub closed_idle: Cell<u64>,
}

impl AppCounters {
    /// Counts a connection, as open for as long as the result lives.
    pub fn connection(self: &Rc<Self>) -> Open {
        bump(&self.connections);
        bump(&self.open);
        Open(self.clone())
    }

    /// The text of a scrape.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, kind, help, value) in [
            ("app_requests_total", "counter", "Requests that arrived.", &self.requests),
            ("app_connections_total", "counter", "Connections accepted.", &self.connections),
            ("app_connections_open", "gauge", "Connections open now.", &self.open),
            (CHANGED, "counter", "Requests that a fault made slow or fail.", &self.changed),
            ("app_idle_closes_total", "counter", "Idle connections that the app closed.", &self.closed_idle),
        ] {
            let value = value.get();
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
                .expect("a string takes all");
        }
        text
    }
}

/// An open connection, counted.
#[derive(Debug)]
pub struct Open(Rc<AppCounters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Serves one connection of a built-in app's own page, on loopback: `GET /metrics`, and `GET
/// /behave?...`, by which the lab changes how an app answers. A query says what is to be different
/// from the scenario's own words, and none puts these back. (GET, because the lab's own client
/// knows nothing else.)
///
/// `control` makes such a change; it returns `None` if the app knows none.
pub(super) async fn connection<I: AsyncRead + AsyncWrite + Unpin>(
    io: I,
    counters: Rc<AppCounters>,
    control: impl Fn(&str) -> Option<Result<(), String>>,
) {
    let service = service_fn(|request| {
        let response = answer(&request, &counters, &control);
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

fn answer<B>(
    request: &Request<B>,
    counters: &AppCounters,
    control: impl Fn(&str) -> Option<Result<(), String>>,
) -> Response<String> {
    let refuse = |status: StatusCode, why: String| {
        let mut response = Response::new(why);
        *response.status_mut() = status;
        response
    };
    let changed = match request.uri().path() {
        "/metrics" => {
            let mut response = Response::new(counters.text());
            let format = HeaderValue::from_static("text/plain; version=0.0.4");
            response.headers_mut().insert(CONTENT_TYPE, format);
            return response;
        }
        "/behave" => control(request.uri().query().unwrap_or_default()),
        _ => None,
    };
    match changed {
        Some(Ok(())) => Response::new(String::new()),
        Some(Err(why)) => refuse(StatusCode::BAD_REQUEST, why),
        None => refuse(StatusCode::NOT_FOUND, String::new()),
    }
}

/// Adds one to a counter of this thread.
pub(super) fn bump(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// By how much a counter of a process that may end and begin again has grown since it was first
/// looked at.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Of lives that are over.
    earlier: f64,
    first: f64,
    last: f64,
}

impl Growth {
    /// It shows `value` for the first time.
    pub fn from(value: f64) -> Self {
        Growth { earlier: 0.0, first: value, last: value }
    }

    /// It shows `value` now. One that is lower than the last is that of a new life, which began at
    /// 0.
    pub fn show(&mut self, value: f64) {
        if value < self.last {
            self.earlier = self.so_far();
            self.first = 0.0;
        }
        self.last = value;
    }

    /// As far as it was seen.
    pub fn so_far(&self) -> f64 {
        self.earlier + self.last - self.first
    }
}
