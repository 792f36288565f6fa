//! The body of a request as it passes through. An enum and not a box: a body is polled for every
//! frame of every message.
//!
//! Whoever made the request can watch from outside how far its body has come ([`Upload`]), after
//! the body itself has gone to a connection.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::replay::{ReplayBody, ReplayBuffer};
use super::{headers, resets};
use crate::error::BoxError;
use crate::mutant::Mutant;
use crate::telemetry::access::BodyBytes;

/// What [`Body::poll_frame`] says: a frame, an error, the end, or that none is there yet.
pub type PolledFrame<D = Bytes, E = BoxError> = Poll<Option<Result<Frame<D>, E>>>;

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// None, so the request can be made again.
    Empty,
    /// The client's.
    Client(Incoming, SendGuard),
    /// The client's, which waits for the next hop to want it.
    ExpectContinueBody(Box<ExpectContinueBody>),
    /// The client's, of which a copy is kept.
    Kept(ReplayBody),
    /// A copy that is complete; empty once it has been sent.
    Whole(Bytes),
}

/// What a copy of a body came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// All of it.
    Whole(Bytes),
    /// It was longer than a copy may be.
    TooLong,
}

/// A copy that is made while a body passes by. If the body ends before its end, nobody is told:
/// whoever waits learns it from the channel's.
#[derive(Debug)]
struct Copying {
    bytes: Vec<u8>,
    limit: usize,
    done: oneshot::Sender<Copied>,
}

/// A body that waits for `100 Continue`.
#[derive(Debug)]
pub struct ExpectContinueBody {
    body: Incoming,
    sending: SendGuard,
    wanted: Arc<AtomicBool>,
    limit: Pin<Box<Sleep>>,
}

/// How far a body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits for `100 Continue`.
    ExpectContinueBody,
    /// It is being sent.
    UnderWay,
    /// It was answered before it was wanted.
    Unwanted,
}

/// The progress of a body.
#[derive(Debug)]
pub(super) struct Progress {
    /// When bytes moved last.
    at: Cell<Instant>,
    stage: Cell<Stage>,
    /// It has been sent to its end, or was given up, whatever its stage then was.
    over: Cell<bool>,
    /// All of it has been read.
    whole: Cell<bool>,
    /// How many there were.
    bytes: Cell<u64>,
    /// What no trailer of it may be called.
    reserved: OnceCell<Arc<[HeaderName]>>,
    copy: RefCell<Option<Box<Copying>>>,
}

impl Progress {
    /// A body that begins to be sent.
    pub(super) fn begin(now: Instant) -> Self {
        Progress {
            at: Cell::new(now),
            stage: Cell::new(Stage::UnderWay),
            over: Cell::new(false),
            whole: Cell::new(false),
            bytes: Cell::new(0),
            reserved: OnceCell::new(),
            copy: RefCell::new(None),
        }
    }

    /// A frame of the body has passed, or its end. `is_end`: nothing follows it.
    fn passed<E>(&self, now: Instant, frame: Option<&Result<Frame<Bytes>, E>>, is_end: bool) {
        self.moved(now);
        let is_last = |frame: &Result<Frame<Bytes>, E>| frame.as_ref().is_ok_and(Frame::is_trailers);
        if is_end || frame.is_none_or(is_last) {
            self.whole.set(true);
        }
        if let Some(Ok(frame)) = frame {
            self.bytes.set(self.bytes.get() + frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        let Some(mut copy) = self.copy.take() else { return };
        let data = match frame {
            Some(Err(_)) => return,
            Some(Ok(frame)) => frame.data_ref().map_or(&[][..], |data| data),
            None => &[],
        };
        // Whoever waited may have gone.
        if copy.bytes.len() + data.len() > copy.limit {
            let _ = copy.done.send(Copied::TooLong);
            return;
        }
        copy.bytes.extend_from_slice(data);
        if is_end || frame.is_none() {
            let _ = copy.done.send(Copied::Whole(copy.bytes.into()));
        } else {
            self.copy.replace(Some(copy));
        }
    }

    /// Bytes have moved.
    pub(super) fn moved(&self, now: Instant) {
        self.at.set(now);
    }

    /// The body has been sent to its end, or was given up.
    pub(super) fn end(&self, now: Instant) {
        self.at.set(now);
        self.over.set(true);
        self.copy.take();
    }
}

impl BodyBytes for Progress {
    fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

/// Notes the end of a body when dropped.
#[derive(Debug)]
pub struct SendGuard(Rc<Progress>);

impl SendGuard {
    /// A body that begins to be sent.
    pub(super) fn begin(now: Instant) -> Self {
        SendGuard(Rc::new(Progress::begin(now)))
    }

    /// The next frame of `body`, whose sending this is: trailers without what may not stand there.
    pub(super) fn poll<B: Body<Data = Bytes> + Unpin>(
        &self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> PolledFrame<Bytes, B::Error> {
        let mut polled = poll_cleaned(body, cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            for name in self.0.reserved.get().into_iter().flat_map(|names| &**names) {
                headers::remove_spellings(trailers, name);
            }
        }
        polled
    }

    /// A frame of the body has passed, or its end. `is_end`: nothing follows it.
    pub(super) fn passed<E>(&self, now: Instant, frame: Option<&Result<Frame<Bytes>, E>>, is_end: bool) {
        self.0.passed(now, frame, is_end);
    }

    /// The body has been sent to its end, or was given up.
    pub(super) fn end(&self, now: Instant) {
        self.0.end(now);
    }

    /// It is sent again.
    pub(super) fn resume(&self, now: Instant) {
        self.0.moved(now);
        self.0.over.set(false);
    }

    /// Watches it from outside.
    pub(super) fn upload(&self) -> Upload {
        Upload::of(&self.0)
    }
}

impl Drop for SendGuard {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

/// Watches the sending of a request body; of none, if there is none. Outlives the body.
#[derive(Debug, Clone, Default)]
pub struct Upload(Option<Rc<Progress>>);

impl Upload {
    /// Watches this one.
    pub(super) fn of(progress: &Rc<Progress>) -> Self {
        Upload(Some(progress.clone()))
    }

    /// Whether the body has not been sent to its end, nor been given up.
    pub fn is_unfinished(&self) -> bool {
        self.0.as_ref().is_some_and(|progress| !progress.over.get())
    }

    /// Whether the body was given up: not all of it has been read, and nobody reads on.
    pub fn is_given_up(&self) -> bool {
        self.0.as_ref().is_some_and(|progress| progress.over.get() && !progress.whole.get())
    }

    /// The response has come: if the body still waited to be wanted, it is not sent any more.
    /// Whether it is so, also if the connection has dropped the body already.
    pub fn is_refused(&self) -> bool {
        let Some(progress) = self.0.as_ref().filter(|progress| progress.stage.get() != Stage::UnderWay)
        else {
            return false;
        };
        progress.stage.set(Stage::Unwanted);
        true
    }

    /// What counts its bytes; none, if there is no body.
    pub fn counter(&self) -> Option<Rc<dyn BodyBytes>> {
        self.0.clone().map(|progress| progress as _)
    }

    /// When its bytes moved last.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.0.as_ref().map(|progress| progress.at.get())
    }
}

impl RequestBody {
    /// The body of a client's request.
    pub fn new(body: Incoming) -> Self {
        if body.is_end_stream() {
            return RequestBody::Empty;
        }
        RequestBody::Client(body, SendGuard::begin(Instant::now()))
    }

    /// Watches it from outside.
    pub fn upload(&self) -> Upload {
        match self {
            RequestBody::Empty | RequestBody::Whole(_) => Upload::default(),
            RequestBody::Client(_, sending) => sending.upload(),
            RequestBody::ExpectContinueBody(withheld) => withheld.sending.upload(),
            RequestBody::Kept(playing) => playing.upload(),
        }
    }

    /// Keeps a copy of it from now on, up to `limit` bytes. None if there is nothing to keep, if it
    /// is longer than that, or if it waits to be wanted: it is not known then whether it ever
    /// comes.
    pub fn record(&mut self, limit: usize) -> Option<ReplayBuffer> {
        let limit = if Mutant::KeepsAnyBody.is_planted() { usize::MAX } else { limit };
        match std::mem::replace(self, RequestBody::Empty) {
            RequestBody::Client(body, sending) if body.size_hint().lower() <= limit as u64 && limit > 0 => {
                let (replay, playing) = ReplayBuffer::begin(body, sending, limit);
                *self = RequestBody::Kept(playing);
                Some(replay)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// Copies a client's body while it passes by, up to `limit` bytes. `None` if there is none.
    pub fn copy(&self, limit: usize) -> Option<oneshot::Receiver<Copied>> {
        let progress = self.upload().0?;
        let (done, copied) = oneshot::channel();
        progress.copy.replace(Some(Box::new(Copying { bytes: Vec::new(), limit, done })));
        Some(copied)
    }

    /// Lets no trailer of it through that has one of these names.
    pub fn reserve(&self, names: &Arc<[HeaderName]>) {
        if let Some(progress) = self.upload().0.filter(|_| !names.is_empty()) {
            let _ = progress.reserved.set(names.clone());
        }
    }

    /// Keeps it back, if there is one, until `wanted` is true or `limit` is over.
    pub(super) fn withhold(&mut self, wanted: Arc<AtomicBool>, limit: Sleep) {
        let (body, sending) = match std::mem::replace(self, RequestBody::Empty) {
            RequestBody::Client(body, sending) => (body, sending),
            other => {
                *self = other;
                return;
            }
        };
        sending.0.stage.set(Stage::ExpectContinueBody);
        *self = RequestBody::ExpectContinueBody(Box::new(ExpectContinueBody {
            body,
            sending,
            wanted,
            limit: Box::pin(limit),
        }));
    }

    /// What is to be set once the next hop wants it, if it is kept back until then.
    pub(super) fn wanted(&self) -> Option<Arc<AtomicBool>> {
        match self {
            RequestBody::ExpectContinueBody(withheld) => Some(withheld.wanted.clone()),
            RequestBody::Empty | RequestBody::Client(..) | RequestBody::Kept(_) | RequestBody::Whole(_) => {
                None
            }
        }
    }

    /// Keeps it back no longer, if it was.
    pub(super) fn release(&mut self) {
        match std::mem::replace(self, RequestBody::Empty) {
            RequestBody::ExpectContinueBody(withheld) => {
                withheld.sending.0.stage.set(Stage::UnderWay);
                *self = RequestBody::Client(withheld.body, withheld.sending);
            }
            other => *self = other,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = self.get_mut();
        if let RequestBody::ExpectContinueBody(withheld) = this {
            if !withheld.is_wanted(cx) {
                return Poll::Pending;
            }
            this.release();
        }
        match this {
            RequestBody::Client(body, sending) => {
                let polled = sending.poll(body, cx);
                if let Poll::Ready(frame) = &polled {
                    sending.passed(Instant::now(), frame.as_ref(), body.is_end_stream());
                }
                polled.map_err(resets::unmarked)
            }
            RequestBody::Kept(playing) => Pin::new(playing).poll_frame(cx),
            RequestBody::Whole(bytes) if !bytes.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
            RequestBody::Empty | RequestBody::ExpectContinueBody(_) | RequestBody::Whole(_) => {
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(bytes) => bytes.is_empty(),
            RequestBody::Client(body, _) => body.is_end_stream(),
            RequestBody::ExpectContinueBody(withheld) => withheld.body.is_end_stream(),
            RequestBody::Kept(playing) => playing.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Client(body, _) => body.size_hint(),
            RequestBody::ExpectContinueBody(withheld) => withheld.body.size_hint(),
            RequestBody::Kept(playing) => playing.size_hint(),
        }
    }
}

/// The next frame of `body`, trailers without what may not stand there.
pub fn poll_cleaned<B: Body<Data = Bytes> + Unpin>(
    body: &mut B,
    cx: &mut Context<'_>,
) -> PolledFrame<Bytes, B::Error> {
    let mut polled = Pin::new(body).poll_frame(cx);
    if let Poll::Ready(Some(Ok(frame))) = &mut polled
        && let Some(trailers) = frame.trailers_mut()
    {
        headers::clean_trailers(trailers);
    }
    polled
}

impl ExpectContinueBody {
    fn is_wanted(&mut self, cx: &mut Context<'_>) -> bool {
        self.sending.0.stage.get() != Stage::Unwanted
            && (self.wanted.load(Ordering::Relaxed) || self.limit.as_mut().poll(cx).is_ready())
    }
}
