//! Refuses HTTP/1 requests that two readers could read in two ways (RFC 9112 sections 2.2, 5.1, 6.3
//! and 11.2).
//!
//! hyper refuses most of them itself. Some it mends, and the evidence is gone before the service
//! sees the request: a `Content-Length` beside a `Transfer-Encoding` is dropped, equal lengths
//! become one, a bare LF ends a line, a fragment disappears. An app that does not mend in the same
//! way would see another message, so [`Strict`] reads along: it looks at each byte of a head once,
//! in hyper's own buffer, copies nothing and skips bodies by their length.
//!
//! hyper gets one request at a time. What a client sends behind a request that waits for its answer
//! is kept back, up to [`READ_AHEAD`] bytes: hyper stops reading as soon as it has something left
//! to read, and would never hear that the client has gone ([`super::closing`]).
//!
//! A refusal never changes, loses or completes what came before it:
//!
//! - A head that is refused is the end of the stream for hyper, at a message's end. All earlier
//!   requests have been answered by then, and [`super::serve`] writes the refusal
//!   ([`Strict::refusal`]).
//! - If the head was handed over already, reading fails where the error stands: the request's body
//!   breaks off, and whoever handles the request answers it, if it has not been answered yet
//!   ([`broke_off`] tells why).
//!
//! hyper reads what passes here. What it does not like it refuses too, so a mistake here can refuse
//! too much but not smuggle; but every head that hyper would refuse is refused here first, because
//! hyper's own refusals say neither who made them nor why.
//!
//! In the other direction it lets [`super::interim`] put its words between hyper's.
//!
//! What it leaves out: targets and hosts ([`super::target`]), responses
//! ([`super::forward::check`]), and whatever follows a request that asks for a tunnel or has an
//! unknown transfer coding. Such a connection never carries another request: see [`super::tunnel`].

mod reader;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::closing::ClientEnd;
use super::interim::Interim;
use crate::config::Http1;
use crate::config::defaults::READ_AHEAD;
use crate::error::Kind;
use crate::mutant::Mutant;
use crate::world::{AfterFin, Transport};

pub use reader::{ParseError, Reader, Rejection, is_target};

/// How much is read ahead at once, bytes.
const PIECE: usize = 4096;

/// A client's stream that is read along.
#[derive(Debug)]
pub struct Strict<I> {
    io: I,
    reader: Reader,
    interim: Interim,
    end: ClientEnd,
    /// What the client has sent behind a request that waits for its answer.
    ahead: BytesMut,
    error: Option<ParseError>,
    /// hyper knows the refused head as the end of the stream.
    ended: bool,
}

impl<I> Strict<I> {
    /// Around the stream of a client that is about to send its first request, and hears `interim`
    /// between hyper's words. `end` knows what is due to it. hyper must have the same `limits`.
    pub fn new(io: I, limits: Http1, interim: Interim, end: ClientEnd) -> Self {
        let (reader, ahead) = (Reader::new(limits), BytesMut::new());
        Strict { io, reader, interim, end, ahead, error: None, ended: false }
    }

    /// What is to be refused now that hyper has ended: all that came before it has been answered,
    /// and nothing of its answer was written.
    pub fn refusal(&self) -> Option<ParseError> {
        self.error.filter(|_| self.ended && !self.end.is_due())
    }

    /// Whether something was refused, which ends what may be read.
    pub fn has_refused(&self) -> bool {
        self.error.is_some()
    }

    /// Whether what was read ends with a request, or with one after which nothing is read.
    pub fn is_between_requests(&self) -> bool {
        self.reader.is_between_requests()
    }

    /// Whether the client is in the middle of a request, or of one that was refused, or has sent
    /// another.
    pub fn is_mid_request(&self) -> bool {
        self.error.is_some() || !self.reader.is_between_requests() || self.is_ahead()
    }

    /// Whether the client has sent something that was kept back.
    pub fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// The stream itself, for when hyper has ended.
    pub fn get_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// A read of hyper's after a refusal.
    fn refused(&mut self, error: ParseError) -> Poll<io::Result<()>> {
        if error.in_body {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error.what)));
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }

    /// Whether what comes now is for later: hyper reads again once the active request has been
    /// answered.
    fn is_early(&self) -> bool {
        self.end.is_due() && self.is_between_requests() && !Mutant::RefusesBeforeItsTurn.is_planted()
    }

    /// Keeps what the client sends. Ready when its stream ends.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        I: AsyncRead + Unpin,
    {
        let mut piece = [MaybeUninit::uninit(); PIECE];
        // At the limit nothing wakes hyper but the end of the answer.
        while self.ahead.len() < READ_AHEAD {
            let mut piece = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(piece.filled());
        }
        Poll::Pending
    }

    /// How many of `bytes`, which come next, are for hyper: all that is good, to the end of a
    /// message at most.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let good = self.reader.read(bytes).unwrap_or_else(|Rejection { good, error }| {
            self.error = Some(error);
            good
        });
        self.end.has_come(self.reader.is_between_requests());
        good
    }

    /// Writes what goes before hyper's next word, and then that.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>>
    where
        I: AsyncWrite + Unpin,
    {
        ready!(self.interim.poll_ahead(&mut self.io, cx))?;
        let written = ready!(write(Pin::new(&mut self.io), cx));
        self.interim.wrote();
        Poll::Ready(written)
    }
}

impl<I: Transport> Transport for Strict<I> {
    fn abort(&mut self) {
        self.io.abort();
    }

    fn behind_fin(&self) -> AfterFin {
        self.io.behind_fin()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waits = self.error.is_none() && self.ahead.is_empty();
        if waits { self.io.poll_readable(cx) } else { Poll::Ready(()) }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Strict<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.error {
            return self.refused(error);
        }
        let this = &mut *self;
        if this.is_early() {
            return this.poll_ahead(cx);
        }
        let good = if this.ahead.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let good = this.judge(&buf.filled()[before..]);
            this.ahead.extend_from_slice(&buf.filled()[before + good..]);
            buf.set_filled(before + good);
            good
        } else {
            let mut ahead = std::mem::take(&mut this.ahead);
            let good = this.judge(&ahead[..ahead.len().min(buf.remaining())]);
            buf.put_slice(&ahead[..good]);
            ahead.advance(good);
            if !ahead.is_empty() {
                this.ahead = ahead;
            }
            good
        };
        match this.error {
            Some(error) if good == 0 => this.refused(error),
            _ => Poll::Ready(Ok(())),
        }
    }
}

// Vectored writes are forwarded: without them hyper would copy head and body into one buffer.
impl<I: AsyncWrite + Unpin> AsyncWrite for Strict<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_next(cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_next(cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.interim.poll_flush(&mut this.io, cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            // The refusal is to be written.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Whether the value of an `Upgrade` header is only an offer: to go on in a newer HTTP or in TLS,
/// which a server may ignore (RFC 9110 section 7.8) and many clients make to everybody. Anything
/// else is meant.
pub fn is_offer(value: &[u8]) -> bool {
    value.len() <= reader::WORD && !value.contains(&b',') && is_for_http(value)
}

/// Whether the value of an `Upgrade` header names one protocol, and one in which no requests would
/// pass that nobody has looked at: not another HTTP, and not TLS.
pub fn is_for_a_tunnel(value: &[u8]) -> bool {
    !value.contains(&b',') && !is_for_http(value)
}

fn is_for_http(value: &[u8]) -> bool {
    let begins = |with: &[u8]| value.get(..with.len()).is_some_and(|v| v.eq_ignore_ascii_case(with));
    begins(b"h2c") || begins(b"http") || begins(b"tls")
}

/// What it was that ended the body of a request before its time: it is [`Kind::Malformed`], or its
/// client went away ([`Kind::Client`]).
pub fn broke_off(error: &(dyn std::error::Error + 'static)) -> Kind {
    let mut errors = std::iter::successors(Some(error), |error| error.source());
    let is_malformed = errors.any(|error| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput))
    });
    if is_malformed { Kind::Malformed } else { Kind::Client }
}
