//! A request body that is kept while it is sent, so that it can be sent again.
//!
//! The first attempt streams: each frame goes on at once, and a copy of its bytes stays. A later
//! attempt plays back what was kept and goes on with the rest, wherever the one before had come to.
//! Trailers are kept too. What Linkerd's `ReplayBody` does (`linkerd/http/retry/src/replay.rs`),
//! and like there a body that is longer than the limit is forgotten: the attempt that is under way
//! goes on, and there is no other.
//!
//! Bytes are copied and not shared, because a frame may be a small part of a large read buffer and
//! would keep all of it. Only one attempt reads the client's body at a time. When the next one
//! begins, the one before it gets an error if it still asks, so that its endpoint never takes half
//! a body for a whole one; once the whole body is kept, several may play it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::{PolledFrame, RequestBody, SendGuard, Upload};
use super::resets;
use crate::error::BoxError;

/// A body that is kept, for as long as this is held: it is what makes the body of each attempt.
#[derive(Debug)]
pub struct ReplayBuffer<B = Incoming>(Rc<RefCell<Record<B>>>);

/// The body of one attempt.
#[derive(Debug)]
pub struct ReplayBody<B = Incoming> {
    record: Rc<RefCell<Record<B>>>,
    turn: u32,
    /// Pieces that have been played.
    played: usize,
    /// Whether it has come to what the attempts before it had not read.
    has_read: bool,
    /// Whether all of it has been given out.
    done: bool,
}

#[derive(Debug)]
struct Record<B> {
    body: B,
    sending: SendGuard,
    /// What the attempts before this one had read, and what this one has.
    kept: Vec<Bytes>,
    latest: BytesMut,
    len: usize,
    limit: usize,
    trailers: Option<HeaderMap>,
    /// The client's body has been read to its end.
    ended: bool,
    /// It was too long or broke off, and cannot be played again.
    lost: bool,
    /// Which attempt may read on.
    turn: u32,
    waiting: Option<Waker>,
}

impl<B> ReplayBuffer<B> {
    /// Begins to keep `body`, up to `limit` bytes of it, and makes the body of the first attempt.
    pub(super) fn begin(body: B, sending: SendGuard, limit: usize) -> (Self, ReplayBody<B>) {
        let record = Rc::new(RefCell::new(Record {
            body,
            sending,
            kept: Vec::new(),
            latest: BytesMut::new(),
            len: 0,
            limit,
            trailers: None,
            ended: false,
            lost: false,
            turn: 0,
            waiting: None,
        }));
        (
            ReplayBuffer(record.clone()),
            ReplayBody { record, turn: 0, played: 0, has_read: false, done: false },
        )
    }

    /// Whether it can be played again.
    pub fn is_good(&self) -> bool {
        !self.0.borrow().lost
    }

    /// Whether all of it has been kept, so that two attempts can play it at the same time.
    pub fn is_complete(&self) -> bool {
        let record = self.0.borrow();
        record.ended && !record.lost
    }

    fn again(&self) -> Option<ReplayBody<B>> {
        let mut record = self.0.borrow_mut();
        if record.lost {
            return None;
        }
        record.turn += 1;
        if !record.latest.is_empty() {
            let latest = record.latest.split().freeze();
            record.kept.push(latest);
        }
        if !record.ended {
            record.sending.resume(Instant::now());
        }
        if let Some(waiting) = record.waiting.take() {
            waiting.wake();
        }
        Some(ReplayBody {
            record: self.0.clone(),
            turn: record.turn,
            played: 0,
            has_read: false,
            done: false,
        })
    }
}

impl ReplayBuffer {
    /// The body of another attempt, if it can be played again. It takes over from the one before.
    pub fn play(&self) -> Option<RequestBody> {
        self.again().map(RequestBody::Kept)
    }
}

/// No attempt follows: what is still to come is not kept, or a long stream would hold its beginning
/// to its end.
impl<B> Drop for ReplayBuffer<B> {
    fn drop(&mut self) {
        let mut record = self.0.borrow_mut();
        record.lost = true;
        record.latest = BytesMut::new();
    }
}

impl<B> ReplayBody<B> {
    /// Watches the sending of it from outside.
    pub(super) fn upload(&self) -> Upload {
        self.record.borrow().sending.upload()
    }
}

impl<B> Record<B> {
    fn end(&mut self) {
        self.ended = true;
        self.sending.end(Instant::now());
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref().filter(|_| !self.lost) else { return };
        self.len += data.len();
        if self.len <= self.limit {
            self.latest.extend_from_slice(data);
        } else {
            self.lost = true;
            self.kept = Vec::new();
            self.latest = BytesMut::new();
        }
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        let record = &mut *this.record.borrow_mut();
        // What it has read itself is among what is kept by now, and must not come twice.
        if record.turn != this.turn && (this.has_read || !record.ended) {
            return Poll::Ready(Some(Err("given up for another attempt".into())));
        }
        if let Some(piece) = record.kept.get(this.played) {
            this.played += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if record.ended {
            this.done = true;
            return Poll::Ready(record.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        this.has_read = true;
        let Record { body, sending, .. } = &mut *record;
        let polled = sending.poll(body, cx);
        if let Poll::Ready(frame) = &polled {
            record.sending.passed(Instant::now(), frame.as_ref(), record.body.is_end_stream());
        }
        match &polled {
            Poll::Pending => record.waiting = Some(cx.waker().clone()),
            Poll::Ready(Some(Ok(frame))) => {
                record.keep(frame);
                if frame.is_trailers() || record.body.is_end_stream() {
                    record.end();
                    this.done = true;
                }
            }
            Poll::Ready(Some(Err(_))) => record.lost = true,
            Poll::Ready(None) => {
                record.end();
                this.done = true;
            }
        }
        polled.map_err(resets::unmarked)
    }

    fn is_end_stream(&self) -> bool {
        let record = self.record.borrow();
        self.done || record.ended && self.played == record.kept.len() && record.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let record = self.record.borrow();
        if self.done {
            return SizeHint::with_exact(0);
        }
        let kept = record.kept.iter().skip(self.played).map(|piece| piece.len() as u64).sum();
        if record.ended {
            return SizeHint::with_exact(kept);
        }
        let rest = record.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept);
        }
        hint.set_lower(rest.lower() + kept);
        hint
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        let record = self.record.borrow();
        if record.turn == self.turn {
            record.sending.end(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    /// A body of these frames; an empty one stands for a moment in which nothing is there.
    #[derive(Debug)]
    struct Client(VecDeque<Frame<Bytes>>);

    impl Body for Client {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> PolledFrame {
            match self.0.pop_front() {
                Some(frame) if frame.data_ref().is_some_and(Bytes::is_empty) => Poll::Pending,
                next => Poll::Ready(next.map(Ok)),
            }
        }
    }

    fn replay(
        frames: &[&'static str],
        trailers: bool,
        limit: usize,
    ) -> (ReplayBuffer<Client>, ReplayBody<Client>) {
        let mut frames: VecDeque<_> =
            frames.iter().map(|text| Frame::data(Bytes::from_static(text.as_bytes()))).collect();
        if trailers {
            let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))]);
            frames.push_back(Frame::trailers(trailers));
        }
        ReplayBuffer::begin(Client(frames), SendGuard::begin(Instant::now()), limit)
    }

    /// What comes out of at most `most` polls: the bytes, and whether the end was reached.
    async fn read(body: &mut ReplayBody<Client>, most: usize) -> Result<(String, bool), String> {
        let mut text = String::new();
        for _ in 0..most {
            let frame = poll_fn(|cx| {
                Poll::Ready(match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => Some(frame),
                    Poll::Pending => None,
                })
            })
            .await;
            match frame {
                None => {}
                Some(None) => return Ok((text, true)),
                Some(Some(Err(error))) => return Err(error.to_string()),
                Some(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => text += std::str::from_utf8(&data).unwrap(),
                    Err(frame) => text += if frame.is_trailers() { "/trailers" } else { "?" },
                },
            }
        }
        Ok((text, false))
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_attempt_begins_at_the_beginning_and_goes_on_where_the_first_stopped() {
        let (replay, mut first) = replay(&["ab", "cd", "ef"], true, 100);
        assert_eq!(read(&mut first, 2).await, Ok(("abcd".into(), false)));
        assert!(replay.is_good() && !replay.is_complete());
        let mut second = replay.again().unwrap();
        assert_eq!(read(&mut first, 1).await, Err("given up for another attempt".into()));
        assert!(second.upload().is_unfinished());
        assert_eq!(read(&mut second, 9).await, Ok(("abcdef/trailers".into(), true)));
        assert_eq!(read(&mut first, 1).await, Err("given up for another attempt".into()), "still");
        drop(first);
        assert!(replay.is_complete() && !second.upload().is_unfinished());
        let (mut third, mut fourth) = (replay.again().unwrap(), replay.again().unwrap());
        assert_eq!(third.size_hint().exact(), Some(6));
        for body in [&mut third, &mut fourth] {
            assert_eq!(
                read(body, 9).await,
                Ok(("abcdef/trailers".into(), true)),
                "complete, it plays to both"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_past_the_limit_goes_on_but_not_again() {
        let (replay, mut first) = replay(&["abcd", "e", "f"], false, 4);
        assert_eq!(read(&mut first, 1).await, Ok(("abcd".into(), false)));
        assert!(replay.is_good());
        assert_eq!(read(&mut first, 9).await, Ok(("ef".into(), true)));
        assert!(!replay.is_good() && !replay.is_complete() && replay.again().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_once_nobody_can_ask_for_it() {
        let (replay, mut first) = replay(&["ab", "cd", "ef"], false, 100);
        assert_eq!(read(&mut first, 1).await, Ok(("ab".into(), false)));
        let mut second = replay.again().unwrap();
        drop((replay, first));
        assert_eq!(read(&mut second, 9).await, Ok(("abcdef".into(), true)), "what was kept is still played");
        assert!(second.record.borrow().latest.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_given_up_counts_as_sent_until_it_is_taken_up_again() {
        let (replay, first) = replay(&["ab"], false, 4);
        let upload = first.upload();
        assert!(upload.is_unfinished());
        drop(first);
        assert!(!upload.is_unfinished());
        let second = replay.again().unwrap();
        assert!(upload.is_unfinished() && !second.is_end_stream());
    }

    proptest! {
        #[test]
        fn every_attempt_sends_the_same_bytes_wherever_those_before_it_broke_off(
            (frames, polls, trailers) in (
                proptest::collection::vec(proptest::sample::select(vec!["", "a", "bc", "def"]), 0..8),
                proptest::collection::vec(0_usize..6, 0..4),
                any::<bool>(),
            )
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let whole = frames.concat() + if trailers { "/trailers" } else { "" };
                let (replay, mut body) = replay(&frames, trailers, 100);
                for polls in polls {
                    let (text, _) = read(&mut body, polls).await.unwrap();
                    assert!(whole.starts_with(&text), "{text:?} of {whole:?}");
                    body = replay.again().unwrap();
                }
                assert_eq!(read(&mut body, 99).await, Ok((whole, true)));
            });
        }
    }
}
