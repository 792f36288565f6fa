//! The HTTP echo: every request is answered with a body of fixed size and the name of the instance
//! that answered.
//!
//! `x-served-by` says who answered, and so how load was spread. `x-request-id` and [`REQUEST`] come
//! back unchanged, so that a caller notices an answer that was meant for another. The path
//! `/status/503` answers with that status, and `/bytes/100000` with a body of that size.
//!
//! `/healthz` says yes, but for a share of the times that can be asked for, and `/ready` does so
//! from `ready_after` on. How long it works on the others, which of them fail and which answers
//! break HTTP can be changed while it runs. With a limit of concurrency the rest wait in a queue
//! without an end, which is how real servers are overloaded. A caller that gives up takes its
//! request with it, unless `finish_abandoned` says that work which has been accepted is done, as
//! where each request has a thread of its own.
//!
//! It may close connections that stay idle, at unpredictable times: then a request may meet the
//! close on its way, as with every real server that has a limit (RFC 9112 section 9.5).

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy::config::units;
use proxy::grpc::timeout as grpc_timeout;
use proxy::http::deadline::X_REQUEST_TIMEOUT;
use proxy::http::headers::X_RETRY_ATTEMPT;
use proxy::world::RngTree;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::body::Pattern;
use super::bump;
use super::grpc;
use super::malformed::{Malformation, MalformedWriter, ReplacementHandle};
use super::metrics::AppCounters;
use crate::plan::{Behaviour, HttpEcho};
use crate::traffic::emit;

/// The load generator's own name for a request. Unlike `x-request-id`, no proxy makes or replaces
/// it.
pub const REQUEST: HeaderName = HeaderName::from_static("x-lab-request");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Which instance has answered.
pub const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// The app, shared by its connections.
pub struct Echo {
    instance: HeaderValue,
    spec: HttpEcho,
    behaviour: Cell<Behaviour>,
    /// Places for requests that are worked on, if they are few.
    places: Option<Arc<Semaphore>>,
    /// Starts work in the background.
    spawn: Box<dyn Fn(Work)>,
    started: Instant,
    close_idle: RefCell<StdRng>,
    fail: RefCell<StdRng>,
    malformed: RefCell<StdRng>,
    unhealthy: RefCell<StdRng>,
    streams: RefCell<StdRng>,
    counters: Rc<AppCounters>,
}

/// What a request costs.
pub(super) type Work = Pin<Box<dyn Future<Output = ()>>>;

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
        let most = self.echo.spec.close_idle;
        if !most.is_zero() {
            let rest = self.echo.close_idle.borrow_mut().random_range(Duration::ZERO..=most);
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

impl Echo {
    /// An echo that says `instance` and starts now. When it closes idle connections and which
    /// requests fail follows from `rng`; `spawn` begins work that outlives its request.
    ///
    /// # Errors
    /// If the instance's name cannot stand in a header.
    pub fn new(
        instance: &str,
        spec: &HttpEcho,
        rng: &RngTree,
        spawn: impl Fn(Work) + 'static,
        counters: Rc<AppCounters>,
    ) -> io::Result<Self> {
        let instance = HeaderValue::from_str(instance).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the instance's name is not printable")
        })?;
        Ok(Echo {
            instance,
            behaviour: Cell::new(spec.behaviour),
            places: (spec.concurrency > 0).then(|| Arc::new(Semaphore::new(spec.concurrency as usize))),
            spawn: Box::new(spawn),
            started: Instant::now(),
            close_idle: RefCell::new(rng.child("close-idle", 0).rng()),
            fail: RefCell::new(rng.child("fail", 0).rng()),
            malformed: RefCell::new(rng.child("malformed", 0).rng()),
            unhealthy: RefCell::new(rng.child("unhealthy", 0).rng()),
            streams: RefCell::new(rng.child("streams", 0).rng()),
            spec: spec.clone(),
            counters,
        })
    }

    /// Changes how requests are answered from now on: the scenario's own behaviour, with what
    /// `query` says instead (`work=200ms&fail=0.3&status=500`).
    ///
    /// # Errors
    /// If a word of it means nothing.
    pub(super) fn behave(&self, query: &str) -> Result<(), String> {
        let mut behaviour = self.spec.behaviour;
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let wrong = || format!("{key} cannot be {value}");
            match key {
                "work" => behaviour.work = crate::readable::parse(value).ok_or_else(wrong)?,
                "fail" => behaviour.fail = value.parse().map_err(|_| wrong())?,
                "status" => behaviour.status = value.parse().map_err(|_| wrong())?,
                "malformed" => behaviour.malformed = value.parse().map_err(|_| wrong())?,
                "unhealthy" => behaviour.unhealthy = value.parse().map_err(|_| wrong())?,
                "refuse_streams" => behaviour.refuse_streams = value.parse().map_err(|_| wrong())?,
                "goaway" => behaviour.goaway = value.parse().map_err(|_| wrong())?,
                "reset_streams" => behaviour.reset_streams = value.parse().map_err(|_| wrong())?,
                _ => return Err(format!("there is no {key}")),
            }
        }
        self.behaviour.set(behaviour);
        Ok(())
    }

    /// Serves one connection until it ends.
    pub(super) async fn connection<I: AsyncRead + AsyncWrite + Unpin>(self: Rc<Self>, io: I) {
        match grpc::is_http2(io).await {
            Some((io, true)) => grpc::connection(self, io).await,
            Some((io, false)) => self.http1(io).await,
            None => {}
        }
    }

    async fn http1<I: AsyncRead + AsyncWrite + Unpin>(self: Rc<Self>, io: I) {
        let idle_timer = IdleTimer { echo: &self, until: Cell::new(None), changed: Notify::new() };
        let replacement = ReplacementHandle::default();
        let service = service_fn(|request| async {
            idle_timer.begin();
            replacement.pass_next();
            let answer = self.answer(request, &replacement).await;
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
                bump(&self.counters.closed_idle);
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
        &self,
        request: Request<Incoming>,
        replacement: &ReplacementHandle,
    ) -> hyper::Result<Response<Pattern>> {
        let (head, mut body) = request.into_parts();
        if let Some(response) = self.health(head.uri.path()) {
            return Ok(response);
        }
        let id = head.headers.get(&REQUEST).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let nth = self.hears(&head, id);
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        emit!(RequestComplete { id, nth, length });
        let behaviour = self.behaviour.get();
        self.works().await;
        let fails = self.draws(&self.fail, behaviour.fail);
        let malformation = self.malformation(behaviour.malformed);
        self.count_changed(behaviour, fails || malformation.is_some());
        let asked = StatusCode::from_u16(behaviour.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let status = if fails { asked } else { status(head.uri.path()) };
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = match self.spec.size {
            _ if bodiless => Pattern::new(0),
            usual if self.spec.chunked => Pattern::new(size(head.uri.path(), usual)).in_chunks(),
            usual => Pattern::new(size(head.uri.path(), usual)),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(SERVED_BY, self.instance.clone());
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

    /// Notes that a request has come, and says which attempt it is.
    pub(super) fn hears<'a>(&self, head: &'a Parts, id: &str) -> &'a str {
        bump(&self.counters.requests);
        let nth = nth(&head.headers);
        // How long its caller still waits, microseconds.
        let of_any = || units::duration(head.headers.get(X_REQUEST_TIMEOUT)?.to_str().ok()?).ok();
        let left = grpc_timeout(&head.headers).or_else(of_any).map(|left| left.as_micros() as u64);
        emit!(RequestArrived { id, nth, method: head.method.as_str(), left });
        nth
    }

    /// Does what a request costs.
    pub(super) async fn works(&self) {
        let working = work(self.places.clone(), self.behaviour.get().work);
        if self.spec.finish_abandoned {
            let (done, finished) = oneshot::channel();
            self.spawn(Box::pin(async move {
                working.await;
                // The caller may be gone.
                let _ = done.send(());
            }));
            // It ends without an answer only together with the app.
            let _ = finished.await;
        } else {
            working.await;
        }
    }

    /// Whether the next call fails.
    pub(super) fn fails(&self) -> bool {
        let behaviour = self.behaviour.get();
        let fails = self.draws(&self.fail, behaviour.fail);
        self.count_changed(behaviour, fails);
        fails
    }

    /// Whether the next stream is refused before anything of it was looked at.
    pub(super) fn refuses_stream(&self) -> bool {
        self.does_to_streams(self.behaviour.get().refuse_streams)
    }

    /// Whether a connection ends with the next call.
    pub(super) fn ends_connection(&self) -> bool {
        self.does_to_streams(self.behaviour.get().goaway)
    }

    /// With which code the next answer breaks off, if it does: one of those that clients could take
    /// for its end.
    pub(super) fn resets_stream(&self) -> Option<Reason> {
        let resets = self.does_to_streams(self.behaviour.get().reset_streams);
        let codes = [Reason::NO_ERROR, Reason::CANCEL];
        resets.then(|| codes[self.streams.borrow_mut().random_range(0..codes.len())])
    }

    /// Whether the next stream is among the `share` to which something is done.
    fn does_to_streams(&self, share: f64) -> bool {
        let does = self.draws(&self.streams, share);
        if does {
            bump(&self.counters.changed);
        }
        does
    }

    /// Streams that a client may open on one connection, if there is a limit.
    pub(super) fn max_concurrent_streams(&self) -> Option<u32> {
        Some(self.spec.max_concurrent_streams).filter(|most| *most > 0)
    }

    /// Starts work in the background.
    pub(super) fn spawn(&self, work: Work) {
        (self.spawn)(work);
    }

    /// The name of the instance.
    pub(super) fn name(&self) -> HeaderValue {
        self.instance.clone()
    }

    /// Bytes in an answer.
    pub(super) fn size(&self) -> u32 {
        self.spec.size
    }

    fn draws(&self, rng: &RefCell<StdRng>, share: f64) -> bool {
        share > 0.0 && rng.borrow_mut().random_bool(share.min(1.0))
    }

    /// Counts an answer if it is another one than usual.
    fn count_changed(&self, behaviour: Behaviour, is_bad: bool) {
        let usual = self.spec.behaviour;
        if behaviour.work != usual.work || is_bad && behaviour != usual {
            bump(&self.counters.changed);
        }
    }

    /// What is wrong with the next answer, if anything is.
    fn malformation(&self, share: f64) -> Option<Malformation> {
        let mut rng = self.malformed.borrow_mut();
        (share > 0.0 && rng.random_bool(share.min(1.0))).then(|| Malformation::any(&mut rng))
    }
}

impl Echo {
    /// The answer to a question after its health: at once, whatever else it does, and not counted
    /// as a request.
    fn health(&self, path: &str) -> Option<Response<Pattern>> {
        let well = match path {
            "/healthz" => !self.is_sick(),
            "/ready" => self.started.elapsed() >= self.spec.ready_after,
            _ => return None,
        };
        let mut response = Response::new(Pattern::new(0));
        *response.status_mut() = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Some(response)
    }

    /// Whether the next question after its health gets a no.
    fn is_sick(&self) -> bool {
        let share = self.behaviour.get().unhealthy;
        let is_sick = self.draws(&self.unhealthy, share);
        if is_sick && share != self.spec.behaviour.unhealthy {
            bump(&self.counters.changed);
        }
        is_sick
    }
}

/// Which attempt a request says that it is.
pub(super) fn nth(headers: &HeaderMap) -> &str {
    headers.get(&X_RETRY_ATTEMPT).and_then(|nth| nth.to_str().ok()).unwrap_or("0")
}

/// Waits for a place, if they are few, and works there.
async fn work(places: Option<Arc<Semaphore>>, time: Duration) {
    let _place = match places {
        Some(places) => Some(places.acquire_owned().await.expect("nobody closes it")),
        None => None,
    };
    if !time.is_zero() {
        tokio::time::sleep(time).await;
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
