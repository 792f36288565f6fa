//! How the connection of an HTTP/1 client ends: what its FIN means, and whether ours may be one.
//!
//! **The client's FIN.** On HTTP/1 it says that no more requests follow, and nothing about the
//! answers that are due (RFC 9112 section 9.6): a client that half-closes after its request gets
//! all of its answer. hyper's server has a setting for that, `half_close`, but then it does not
//! read at all while an answer is due, and a client that is gone for good is never found out. So
//! hyper reads as it always does, and [`Closing`] keeps the end of the stream from it as long as an
//! answer is due. What follows:
//!
//! - A reset reaches hyper as the error it is: it drops the request, and so the work at the
//!   endpoint is cancelled.
//! - A client that has lost patience closes, and sends a FIN too. On this host the kernel knows
//!   whether anybody still reads ([`Transport::behind_fin`]): if not, the request is dropped as
//!   after a reset. A client that half-closes may close later, of which TCP says nothing, or reset
//!   the connection, of which a stream that was read to its end says nothing; so the kernel is
//!   asked again from time to time.
//! - Of a client on another host nobody knows. Whether the work goes on is the app's to decide, as
//!   if it were asked directly: the FIN is passed on to it, behind the request, on its HTTP/1
//!   connection ([`ClientEnd::has_half_closed`]). If the app then ends the connection without an
//!   answer, the client gets none either ([`ClientEnd::give_up`]): it is not tried again and not
//!   held against the endpoint. On a shared HTTP/2 connection a stream has no FIN of its own behind
//!   the end of the request, so the app cannot be asked. Clients that have lost patience are many
//!   and those that half-close are few: there such a FIN cancels ([`ClientEnd::cancel_at_fin`]), or
//!   work that nobody waits for would go on.
//! - In the middle of a request a FIN cuts it off.
//!
//! **Our FIN.** An answer that breaks off ends with a reset: where only the end of the connection
//! tells the end of the answer (HTTP/1.0), a FIN would make a part look whole. It is the stream's
//! drop that decides, so it is the same whether the endpoint failed, a limit was passed, or a drain
//! is over. What there is of such an answer is written first: hyper gives a connection up as soon
//! as a body fails, with all that it has not written yet, which may be the whole of the answer's
//! head.
//!
//! **No end at all.** While a client asks nothing hyper keeps 16 KiB of buffers for it. So a
//! connection that has been [idle](ClientEnd::idle) for a while is [parked](ClientEnd::park): hyper
//! ends as it does in a drain, but the stream stays open, and another hyper serves it when the
//! client asks again.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::{Method, StatusCode};
use http_body::{Body, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Sleep, sleep};

use super::body::PolledFrame;
use super::strict::Strict;
use crate::config::defaults::{FIN_LOOK_FIRST, FIN_LOOK_LAST, PARK_AFTER};
use crate::mutant::Mutant;
use crate::world::{AfterFin, Transport, poll_read_new};

/// What the stream of a client and the handlers of its requests tell each other about its end.
/// Cheap to clone.
///
/// One task polls the stream and the handler of its request, so the atomics order nothing: they are
/// there because hyper asks for `Send`.
#[derive(Debug, Clone, Default)]
pub struct ClientEnd(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    half_closed: AtomicBool,
    gone: AtomicBool,
    given_up: AtomicBool,
    cancels: AtomicBool,
    /// The request has a body that nobody reads on.
    unread: AtomicBool,
    /// All of the request has come.
    whole: AtomicBool,
    /// A request has begun since somebody looked.
    used: AtomicBool,
    /// hyper waits for a request of which nothing has come yet.
    waits: AtomicBool,
    /// hyper waits for what follows the end that is kept from it.
    reader: Mutex<Option<Waker>>,
}

/// Nothing is due.
const IDLE: u8 = 0;
/// A request waits for its answer.
const DUE: u8 = 1;
/// An answer has begun.
const ANSWERING: u8 = 2;
/// It has come to its end, but not all of it has been written.
const ANSWERED: u8 = 3;
/// HTTP is over, and a tunnel goes on.
const TUNNEL: u8 = 4;
/// An answer breaks off, but not all that there is of it has been written.
const FAILING: u8 = 5;
/// It has broken off.
const FAILED: u8 = 6;
/// Nothing is due, and hyper is to give the stream up as it is.
const PARKED: u8 = 7;

impl ClientEnd {
    fn state(&self) -> u8 {
        self.0.state.load(Ordering::Relaxed)
    }

    fn set(&self, state: u8) {
        self.0.state.store(state, Ordering::Relaxed);
    }

    /// A request has come.
    pub fn begin(&self) {
        self.0.unread.store(false, Ordering::Relaxed);
        self.0.cancels.store(false, Ordering::Relaxed);
        self.0.used.store(true, Ordering::Relaxed);
        self.set(DUE);
    }

    /// Nobody reads on what has not been read yet of the request's body.
    pub fn leave_body(&self) {
        self.0.unread.store(true, Ordering::Relaxed);
    }

    /// Whether all of the request has come.
    pub fn has_come(&self, is_whole: bool) {
        self.0.whole.store(is_whole, Ordering::Relaxed);
    }

    /// Whether nobody reads the rest of the request's body, so that hyper closes the connection
    /// behind the answer. It passes over a body of known length, `is_sized`, of which all has come
    /// already.
    pub fn is_last_answer(&self, is_sized: bool) -> bool {
        self.0.unread.load(Ordering::Relaxed) && !(is_sized && self.0.whole.load(Ordering::Relaxed))
    }

    /// Waits until the client has not asked anything for [`PARK_AFTER`], or at most twice that: a
    /// timer that is set anew for each request would cost every request something.
    pub async fn idle(&self) {
        loop {
            self.0.used.store(false, Ordering::Relaxed);
            let mut period = pin!(sleep(PARK_AFTER));
            // Whoever waits is polled whenever hyper is, and always by one task. So the timer is
            // asked once to wake it, which a task without a budget asks in vain, and then only
            // looked at, which costs next to nothing.
            let mut is_set = false;
            let is_over = |cx: &mut Context<'_>| match self.is_idle() {
                true if is_set && !period.is_elapsed() => Poll::Pending,
                true => {
                    is_set = has_budget_remaining();
                    period.as_mut().poll(cx)
                }
                false => Poll::Pending,
            };
            poll_fn(is_over).await;
            if !self.0.used.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Whether hyper waits for a request, and nothing has come of it.
    fn is_idle(&self) -> bool {
        self.state() == IDLE && self.0.waits.load(Ordering::Relaxed)
    }

    /// hyper is about to be told to give the idle stream up, which does not end it.
    pub fn park(&self) {
        self.set(PARKED);
    }

    /// Whether the stream was given up to be parked. It was not if a request came first.
    pub fn is_parked(&self) -> bool {
        self.state() == PARKED
    }

    /// hyper has the stream again.
    pub fn unpark(&self) {
        self.set(IDLE);
    }

    /// The endpoint of this request cannot be told of a FIN of the client: that cancels the
    /// request, unless the client is known to read on.
    pub fn cancel_at_fin(&self) {
        self.0.cancels.store(true, Ordering::Relaxed);
        if self.has_half_closed() {
            self.wake();
        }
    }

    /// Its answer is `body`.
    pub fn answer<B: Body>(&self, body: B, asked: Shape, status: StatusCode) -> ClosingBody<B> {
        let whole = asked.has_no_body(status) || body.is_end_stream();
        self.set(ANSWERING);
        ClosingBody { body, end: self.clone(), whole, failure: None }
    }

    /// A tunnel begins. Until it has [ended](Self::ended), its end is a reset.
    pub fn tunnel(&self) {
        self.set(TUNNEL);
    }

    /// What was due has come to its end.
    pub fn ended(&self) {
        self.set(IDLE);
    }

    /// Whether the client sends nothing more, and waits for its answer, as far as one can tell.
    pub fn has_half_closed(&self) -> bool {
        self.0.half_closed.load(Ordering::Relaxed)
    }

    /// Whether the client has reset its connection, so that no answer reaches it.
    pub fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Relaxed)
    }

    /// The request gets no answer: the connection ends as if its client had gone, which drops
    /// whoever waits for this.
    pub async fn give_up(&self) -> std::convert::Infallible {
        self.0.given_up.store(true, Ordering::Relaxed);
        self.wake();
        std::future::pending().await
    }

    fn wake(&self) {
        let waker = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The client's stream has ended between two requests: whether the server must not know yet.
    fn keeps_end(&self, fin: AfterFin, cx: &Context<'_>) -> bool {
        let shown = match fin {
            AfterFin::Close => true,
            AfterFin::HalfClose => false,
            AfterFin::Unknown => self.0.cancels.load(Ordering::Relaxed),
        };
        if shown || Mutant::CancelsAtHalfClose.is_planted() {
            return false;
        }
        self.0.half_closed.store(true, Ordering::Relaxed);
        *self.0.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        true
    }

    /// Whether something is due that the client may still wait for.
    fn is_awaited(&self) -> bool {
        self.is_due() && !self.0.given_up.load(Ordering::Relaxed)
    }

    /// Whether the client has not been sent all that is due.
    pub(super) fn is_due(&self) -> bool {
        matches!(self.state(), DUE | ANSWERING | ANSWERED | FAILING | FAILED)
    }

    /// The server has written all it had. Whether that is the end of an answer.
    fn flushed(&self) -> bool {
        match self.state() {
            ANSWERED => self.set(IDLE),
            FAILING => self.set(FAILED),
            _ => return false,
        }
        if self.has_half_closed() {
            self.wake();
        }
        true
    }

    /// Whether the end of the stream now would look like that of something whole, which it is not.
    fn is_cut(&self) -> bool {
        matches!(self.state(), ANSWERING | ANSWERED | TUNNEL | FAILING | FAILED)
            && !Mutant::EndsWhatWasReset.is_planted()
    }
}

/// What the method of a request says about its answer.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    is_head: bool,
}

impl Shape {
    /// That of the answer to a request with this method.
    pub fn of(method: &Method) -> Self {
        Shape { is_head: method == Method::HEAD }
    }

    fn has_no_body(self, status: StatusCode) -> bool {
        self.is_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

/// The body of an answer, which tells whether it was passed on to its end.
pub struct ClosingBody<B: Body> {
    body: B,
    end: ClientEnd,
    whole: bool,
    /// Waits for what came before it to be written.
    failure: Option<B::Error>,
}

impl<B: Body<Error: Unpin> + Unpin> Body for ClosingBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<B::Data, B::Error> {
        let this = &mut *self;
        if let Some(failure) = this.failure.take_if(|_| this.end.state() != FAILING) {
            return Poll::Ready(Some(Err(failure)));
        }
        if this.failure.is_some() {
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.whole |= match &frame {
            None => true,
            // hyper stops at the announced length, before an HTTP/2 stream may have said that it
            // ends there.
            Some(Ok(frame)) => {
                let over = || this.body.is_end_stream() || this.body.size_hint().exact() == Some(0);
                frame.is_trailers() || over()
            }
            Some(Err(_)) => false,
        };
        let Some(Err(failure)) = frame else { return Poll::Ready(frame) };
        this.failure = Some(failure);
        this.end.set(FAILING);
        // hyper may have nothing to write, and flushes when it is polled anyhow.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.failure.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body> Drop for ClosingBody<B> {
    fn drop(&mut self) {
        if self.whole {
            self.end.set(ANSWERED);
        }
    }
}

/// A client's stream as hyper's server sees it.
#[derive(Debug)]
pub struct Closing<I: Transport> {
    io: Strict<I>,
    end: ClientEnd,
    look: Option<Look>,
}

/// What is known of a client that has sent its FIN, and when it is looked at again.
#[derive(Debug)]
struct Look {
    fin: AfterFin,
    every: Duration,
    at: Pin<Box<Sleep>>,
}

impl Look {
    fn new(fin: AfterFin) -> Self {
        Look { fin, every: FIN_LOOK_FIRST, at: Box::pin(sleep(FIN_LOOK_FIRST)) }
    }

    /// Looks again if it is time.
    fn poll(&mut self, look: impl Fn() -> AfterFin, cx: &mut Context<'_>) -> AfterFin {
        while self.fin != AfterFin::Close && self.at.as_mut().poll(cx).is_ready() {
            self.fin = look();
            self.every = FIN_LOOK_LAST.min(self.every * 2);
            self.at.set(sleep(self.every));
        }
        self.fin
    }
}

impl<I: Transport> Closing<I> {
    /// Around the stream of a client whose requests are told to `end`.
    pub fn new(io: Strict<I>, end: ClientEnd) -> Self {
        Closing { io, end, look: None }
    }

    /// Waits for something to read. The end of the stream is something too.
    pub async fn readable(&mut self) {
        poll_fn(|cx| self.io.poll_readable(cx)).await;
    }

    /// The stream itself, for when hyper has ended.
    pub fn strict(&mut self) -> &mut Strict<I> {
        &mut self.io
    }

    /// The client's stream has ended between two requests: whether hyper must not know yet.
    fn keeps_end(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.end.is_awaited() {
            return false;
        }
        let io = &self.io;
        let look = self.look.get_or_insert_with(|| Look::new(io.behind_fin()));
        self.end.keeps_end(look.poll(|| io.behind_fin(), cx), cx)
    }
}

impl<I: Transport> Drop for Closing<I> {
    fn drop(&mut self) {
        if self.end.is_cut() {
            self.io.abort();
        }
    }
}

impl<I: Transport + AsyncRead + Unpin> AsyncRead for Closing<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = poll_read_new(&mut self.io, cx, buf);
        let waits = read.is_pending() && !self.io.is_mid_request();
        self.end.0.waits.store(waits, Ordering::Relaxed);
        let read = ready!(read);
        if read.is_err() && !self.io.has_refused() {
            self.end.0.gone.store(true, Ordering::Relaxed);
        }
        let ended = read?.is_empty() && buf.remaining() > 0;
        if ended && self.io.is_between_requests() && self.keeps_end(cx) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

// Vectored writes are forwarded: without them hyper would copy head and body into one buffer.
impl<I: Transport + AsyncWrite + Unpin> AsyncWrite for Closing<I> {
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if self.end.flushed() && (self.io.is_ahead() || self.end.is_due()) {
            // hyper waits for what was kept back, or for the end of an answer that breaks off.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.end.state() {
            PARKED => Poll::Ready(Ok(())),
            _ => Pin::new(&mut self.io).poll_shutdown(cx),
        }
    }

    crate::write_through! { write }
}
