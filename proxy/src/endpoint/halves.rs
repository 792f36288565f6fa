//! The two halves of a stream of HTTP/2. A peer counts a stream until both are done (RFC 9113
//! section 5.1.2), so its slot in the account of its connection is shared: the answer holds it, and
//! so does the upload, which often ends later.
//!
//! An answer that is given up before its end takes the upload along, or the peer would go on with a
//! request that nobody waits for. One that has ended leaves the upload time, since an app may
//! answer first and read on; but one that says nothing for as long as a half-closed connection may
//! is reset, or such streams would pile up for ever.
//!
//! What it leaves out: an upload that waits for the peer to read is not asked for more, and so
//! cannot be told; hyper has no other way to reset a stream once its answer has begun. It keeps its
//! slot until the peer reads or ends.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::error::{BoxError, Kind};
use crate::http::{PolledFrame, RequestBody, strict};
use crate::mutant::Mutant;

/// How far the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerState {
    /// Somebody waits for it or reads it.
    DnsQuery,
    /// It has been read to its end.
    Read,
    /// Nobody wants the rest.
    GivenUp,
}

/// What both halves hold, and know of each other.
#[derive(Debug)]
struct Shared<S> {
    answer: Cell<AnswerState>,
    /// The upload's, if it waits for its client.
    waiting: RefCell<Option<Waker>>,
    /// Why the upload broke off by itself, if it did. hyper resets the stream then, and does not
    /// tell.
    broken: Cell<Option<Kind>>,
    slot: RefCell<Option<S>>,
}

impl<S> Shared<S> {
    fn ended(&self, how: AnswerState) {
        self.answer.set(how);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

/// The answer's half of a stream that holds a slot `S`.
#[derive(Debug)]
pub(super) struct AnswerHalf<S>(Rc<Shared<S>>);

/// The upload's half, with its body.
#[derive(Debug)]
pub(super) struct UploadHalf<S> {
    body: RequestBody,
    shared: Rc<Shared<S>>,
    /// How long it may be silent after the answer.
    silence: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> AnswerHalf<S> {
    /// The half of a stream that has not begun.
    pub(super) fn new(slot: S) -> Self {
        let slot = RefCell::new(Some(slot));
        AnswerHalf(Rc::new(Shared {
            answer: Cell::new(AnswerState::DnsQuery),
            waiting: RefCell::default(),
            broken: Cell::default(),
            slot,
        }))
    }

    /// The other half, which may be silent for `silence` once the answer has been read.
    pub(super) fn upload(&self, body: RequestBody, silence: Duration) -> UploadHalf<S> {
        UploadHalf { body, shared: self.0.clone(), silence, timer: None }
    }

    /// Why the upload broke off, if that was not the server's doing: its client left, or sent what
    /// is malformed.
    pub(super) fn broken(&self) -> Option<Kind> {
        self.0.broken.get()
    }

    /// The answer has been read to its end.
    pub(super) fn finish(&self) {
        if Mutant::FreesAStreamWithItsAnswer.is_planted() {
            self.0.slot.take();
        }
        self.0.ended(AnswerState::Read);
    }
}

impl<S> Drop for AnswerHalf<S> {
    fn drop(&mut self) {
        if self.0.answer.get() == AnswerState::DnsQuery {
            self.0.ended(AnswerState::GivenUp);
        }
    }
}

impl<S> UploadHalf<S> {
    /// The body alone: the stream was never opened.
    pub(super) fn into_body(self) -> RequestBody {
        self.body
    }

    /// Waits for the moment at which an upload is given up; never, while its answer is wanted.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let answer = self.shared.answer.get();
        if answer == AnswerState::GivenUp {
            return Poll::Ready(());
        }
        let mut waiting = self.shared.waiting.borrow_mut();
        match &mut *waiting {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waiting = Some(cx.waker().clone()),
        }
        if answer == AnswerState::DnsQuery {
            return Poll::Pending;
        }
        let silence = self.silence;
        self.timer.get_or_insert_with(|| Box::pin(sleep(silence))).as_mut().poll(cx)
    }
}

impl<S: Unpin> Body for UploadHalf<S> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(error))) = &polled {
            this.shared.broken.set(Some(strict::broke_off(error.as_ref())));
        }
        if polled.is_ready() {
            this.timer = None;
            return polled;
        }
        // hyper resets the stream with the reason that it finds in the error.
        let reset = h2::Error::from(h2::Reason::CANCEL);
        this.poll_given_up(cx).map(|()| Some(Err(reset.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_let_go_of_gives_its_upload_up() {
        let answer = AnswerHalf::new(());
        let mut upload = answer.upload(RequestBody::Empty, Duration::from_secs(1));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(upload.poll_given_up(&mut cx).is_pending());
        drop(answer);
        assert!(upload.poll_given_up(&mut cx).is_ready());
    }

    #[test]
    fn an_upload_says_how_long_its_body_is_and_whether_it_has_ended() {
        let answer = AnswerHalf::new(());
        let upload = |body| {
            let upload = answer.upload(body, Duration::from_secs(1));
            (upload.is_end_stream(), upload.size_hint().exact())
        };
        assert_eq!(upload(RequestBody::Empty), (true, Some(0)));
        assert_eq!(upload(RequestBody::Whole(Bytes::from_static(b"abc"))), (false, Some(3)));
    }
}
