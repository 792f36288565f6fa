//! The body of a response on its way to the client, with all that must live as long as it does. An
//! enum and not a box: a body is polled for every frame of every message.
//!
//! A body that is dropped before its end takes its connection (HTTP/1) or its stream (HTTP/2) with
//! it, which tells the endpoint that the client has gone.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{ActiveRequest, Attempt, Outcome, RequestPermit, h2, pool};
use crate::audit::AuditEntry;
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::timer::RequestTimer;
use crate::http::{PolledFrame, poll_cleaned, resets};
use crate::lines::Lines;
use crate::mutant::Mutant;
use crate::tcp::BytesCopied;
use crate::telemetry::Failures;
use crate::telemetry::access::AccessEntry;
use crate::world::Net;

/// What a response arrives on.
pub enum ConnectionLease<N: Net> {
    /// A connection of its own.
    Http1(pool::Exchange<N>),
    /// A stream of a shared connection.
    Http2(h2::Stream),
}

impl<N: Net> ConnectionLease<N> {
    fn is_tunnel(&self) -> bool {
        match self {
            ConnectionLease::Http1(exchange) => exchange.is_tunnel(),
            ConnectionLease::Http2(stream) => stream.is_tunnel(),
        }
    }
}

/// The body of a response on its way to the client.
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the usual one; a box would cost it an allocation"
)]
pub enum ResponseBody<N: Net> {
    /// An endpoint's.
    Endpoint(ForwardedBody<N>),
    /// The sidecar's own words.
    Own(Option<Bytes>),
    /// None, but hyper is to believe in one, or it would drop the `Content-Length` of a 304.
    NotModified,
}

/// What counts for as long as a response is under way.
pub struct RequestGuard {
    _permit: Rc<RequestPermit>,
    /// Keeps the endpoint's count of active requests up, and owes an outcome if trailers are to
    /// tell it.
    attempt: Option<Attempt>,
    /// The same of the local app, which nobody judges.
    _active: Option<ActiveRequest>,
    /// Its permit among those of its client there.
    _turn: Option<OwnedSemaphorePermit>,
    lines: Lines,
}

impl RequestGuard {
    /// Of a request at an endpoint that has just been answered.
    pub fn new(permit: Rc<RequestPermit>, mut attempt: Option<Attempt>) -> Self {
        if let Some(attempt) = &mut attempt {
            attempt.arrived();
        }
        RequestGuard { _permit: permit, attempt, _active: None, _turn: None, lines: Lines::default() }
    }

    /// Of a request at the local app.
    pub fn at_app(
        permit: Rc<RequestPermit>,
        active: ActiveRequest,
        turn: Option<OwnedSemaphorePermit>,
        audit: Option<AuditEntry>,
    ) -> Self {
        RequestGuard {
            _permit: permit,
            attempt: None,
            _active: Some(active),
            _turn: turn,
            lines: Lines { audit, access: None },
        }
    }
}

impl RequestGuard {
    /// Notes in its lines that a frame of the answer has passed.
    fn passed(&mut self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(audit) = &mut self.lines.audit {
            *audit.record().bytes_out.get_or_insert(0) += bytes;
        }
        if let Some(access) = &mut self.lines.access {
            access.sent(bytes);
            frame.trailers_ref().into_iter().for_each(|trailers| access.trailers(trailers));
        }
    }
}

/// A body that passes through.
pub struct ForwardedBody<N: Net> {
    body: Incoming,
    lease: Option<ConnectionLease<N>>,
    held: Option<RequestGuard>,
    /// Counts bodies that break off or come too late.
    failures: Failures,
    timer: RequestTimer,
    /// Goes off when a limit may have been passed. There is none before somebody has had to wait.
    sleep: Option<Pin<Box<Sleep>>>,
    /// A gRPC client hears of a failure in trailers.
    is_grpc: bool,
}

impl<N: Net> ResponseBody<N> {
    /// The body of a response that has just begun to arrive.
    pub fn endpoint(
        body: Incoming,
        lease: ConnectionLease<N>,
        held: RequestGuard,
        failures: Failures,
        mut timer: RequestTimer,
        is_grpc: bool,
    ) -> Self {
        timer.moved(Instant::now());
        let (lease, held) = (Some(lease), Some(held));
        let mut lease = lease;
        if Mutant::KeepsWhatIsHalfRead.is_planted()
            && let Some(ConnectionLease::Http1(exchange)) = &mut lease
        {
            exchange.finish();
        }
        let mut passing = ForwardedBody { body, lease, held, failures, timer, sleep: None, is_grpc };
        // A body of length zero is never polled.
        let is_tunnel = passing.lease.as_ref().is_some_and(ConnectionLease::is_tunnel);
        if passing.body.is_end_stream() && !is_tunnel {
            passing.finish();
        }
        ResponseBody::Endpoint(passing)
    }

    /// Takes an endpoint's body out, to keep what it holds; none out of a response that the sidecar
    /// made itself.
    pub fn take_passing(&mut self) -> Option<Self> {
        match self {
            ResponseBody::Endpoint(_) => Some(std::mem::replace(self, ResponseBody::Own(None))),
            ResponseBody::Own(_) | ResponseBody::NotModified => None,
        }
    }

    /// Lets a line of the access log live as long as the body, whose bytes it counts.
    pub fn log_to(&mut self, mut access: AccessEntry) {
        match self {
            ResponseBody::Endpoint(ForwardedBody { held: Some(held), .. }) => {
                held.lines.access = Some(access)
            }
            ResponseBody::Endpoint(_) | ResponseBody::NotModified | ResponseBody::Own(None) => access.ended(),
            ResponseBody::Own(Some(bytes)) => {
                access.sent(bytes.len() as u64);
                access.ended();
            }
        }
    }

    /// Counts in its lines what has passed through the tunnel that it opened.
    pub fn tunnelled(&mut self, moved: BytesCopied) {
        if let ResponseBody::Endpoint(ForwardedBody { held: Some(held), .. }) = self {
            held.lines.carried(moved.forth, moved.back);
        }
    }

    /// The tunnel that it opened has been closed by both sides, or is cut.
    pub fn end_tunnel(&mut self, ended: Result<(), Kind>) {
        let ResponseBody::Endpoint(passing) = self else { return };
        match ended {
            Ok(()) => passing.finish(),
            Err(kind) => passing.failed(kind),
        }
    }

    /// A body that the sidecar makes itself.
    pub fn own(bytes: Bytes) -> Self {
        ResponseBody::Own((!bytes.is_empty()).then_some(bytes))
    }
}

impl<N: Net> ForwardedBody<N> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame<Bytes, Error> {
        let mut polled = poll_cleaned(&mut self.body, cx);
        if polled.is_pending()
            && let Some(ConnectionLease::Http1(exchange)) = &mut self.lease
        {
            // Nothing there, but now the connection knows that more is wanted.
            exchange.drive(cx);
            polled = poll_cleaned(&mut self.body, cx);
        }
        if let (Some(held), Poll::Ready(Some(Ok(frame)))) = (&mut self.held, &polled) {
            held.passed(frame);
        }
        match &polled {
            Poll::Ready(Some(Err(_))) => {
                self.failures.count(Kind::Incomplete);
                self.failed(Kind::Incomplete);
                self.tell(Outcome::Failure(None));
                self.held = None;
            }
            Poll::Ready(Some(Ok(frame))) if let Some(trailers) = frame.trailers_ref() => {
                if self.is_owed() {
                    self.tell(Outcome::of_trailers(trailers));
                }
                if self.body.is_end_stream() {
                    self.finish();
                }
            }
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.finish(),
            Poll::Ready(Some(Ok(_))) => self.timer.moved(Instant::now()),
            Poll::Pending => {}
        }
        polled.map_err(|cause| {
            let reset = resets::of_peer(&cause);
            Error { reset, cause: Some(resets::unmarked(cause)), ..Error::new(Kind::Incomplete) }
        })
    }

    /// Notes in its lines why it failed.
    fn failed(&mut self, kind: Kind) {
        if let Some(held) = &mut self.held {
            held.lines.failed(kind);
        }
    }

    fn is_owed(&self) -> bool {
        self.held.as_ref().and_then(|held| held.attempt.as_ref()).is_some_and(Attempt::is_owed)
    }

    fn tell(&mut self, outcome: Outcome) {
        if let Some(attempt) = self.held.as_mut().and_then(|held| held.attempt.as_mut()) {
            attempt.tell(outcome, Instant::now());
        }
    }

    /// The body has been read to its end.
    fn finish(&mut self) {
        if self.is_owed() {
            // The trailers that should have told did not come.
            self.tell(Outcome::Failure(None));
        }
        if let Some(held) = &mut self.held {
            held.lines.ended();
        }
        match self.lease.take() {
            Some(ConnectionLease::Http1(mut exchange)) => exchange.finish(),
            Some(ConnectionLease::Http2(stream)) => stream.finish(),
            None => {}
        }
        self.held = None;
    }

    /// Waits for the limit that is passed next.
    fn poll_too_late(&mut self, cx: &mut Context<'_>) -> Poll<Kind> {
        loop {
            let at = match self.timer.due(Instant::now()) {
                Ok(Some(at)) => at,
                Ok(None) => return Poll::Pending,
                Err(kind) => return Poll::Ready(kind),
            };
            // A sleep for an earlier moment does: it is set anew when it goes off.
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            sleep.as_mut().reset(at);
        }
    }
}

impl<N: Net> Body for ResponseBody<N> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<Bytes, Error> {
        let this = self.get_mut();
        match this {
            ResponseBody::Endpoint(passing) => {
                let error = match passing.poll_frame(cx) {
                    Poll::Ready(Some(Err(error))) => error,
                    Poll::Pending => {
                        let kind = ready!(passing.poll_too_late(cx));
                        passing.failures.count(kind);
                        passing.failed(kind);
                        Error::new(kind)
                    }
                    passed => return passed,
                };
                // A reset goes on as it is.
                let status = passing.is_grpc && error.reset.is_none();
                // The endpoint is told by the end of its connection or stream.
                *this = ResponseBody::Own(None);
                Poll::Ready(Some(if status {
                    let mut trailers = HeaderMap::new();
                    grpc::put_status(&mut trailers, error.grpc(), &error.to_string());
                    Ok(Frame::trailers(trailers))
                } else {
                    Err(error)
                }))
            }
            ResponseBody::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            ResponseBody::NotModified => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Endpoint(passing) => passing.body.is_end_stream(),
            ResponseBody::Own(bytes) => bytes.is_none(),
            ResponseBody::NotModified => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Endpoint(passing) => passing.body.size_hint(),
            ResponseBody::NotModified => SizeHint::default(),
            ResponseBody::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}
