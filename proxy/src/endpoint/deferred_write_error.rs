//! A stream that hears a peer out. A server may refuse an upload with an answer and a close; the
//! next write then fails while the answer still waits to be read, and hyper would give up at the
//! failed write. Here a peer that takes no more bytes is no error: they are dropped, and reading
//! tells what the peer had to say, or how the connection ended.
//!
//! In the other direction a server can tell how an exchange ended ([`ServerEnd`]): one that is
//! given up ends with a reset. A FIN would mean that an answer is still wanted
//! ([`closing`](crate::http::closing)), as it does when the client has closed its half.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::mutant::Mutant;
use crate::world::Transport;

/// What an exchange tells the stream under it. Cheap to clone. The atomics order nothing: hyper
/// asks for `Send`.
#[derive(Debug, Clone, Default)]
pub struct ServerEnd(Arc<AtomicU8>);

/// No exchange is under way.
const IDLE: u8 = 0;
/// One is, and nothing of it has been written.
const BEGUN: u8 = 1;
/// One is.
const BUSY: u8 = 2;
/// The client has closed its half: the server is to be told when all has been written.
const HALF_CLOSING: u8 = 3;
/// It has been told.
const HALF_CLOSED: u8 = 4;
/// HTTP is over, and a tunnel goes on.
const TUNNEL: u8 = 5;

impl ServerEnd {
    fn state(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }

    /// An exchange begins. Unless it [ends](Self::ended), the stream is reset when it is dropped.
    pub fn begin(&self) {
        self.set(BEGUN);
    }

    /// The exchange has come to its end.
    pub fn ended(&self) {
        self.set(IDLE);
    }

    /// Nothing follows the request, of which hyper has the last byte: a FIN does, at the next
    /// flush. False: it does already, or nothing has been written yet.
    pub fn half_close(&self) -> bool {
        let now = self.state() == BUSY;
        if now {
            self.set(HALF_CLOSING);
        }
        now
    }

    /// The exchange becomes a tunnel, which hears of every failure itself.
    pub fn tunnel(&self) {
        self.set(TUNNEL);
    }

    /// Whether the server has been told that nothing follows.
    pub fn is_half_closed(&self) -> bool {
        self.state() == HALF_CLOSED
    }
}

/// A stream whose write failures are left to the reader to find out.
#[derive(Debug)]
pub struct DeferredWriteError<I: Transport> {
    io: I,
    deaf: bool,
    end: ServerEnd,
}

impl<I: Transport> DeferredWriteError<I> {
    /// Around a stream, whose exchanges are told to `end`.
    pub fn new(io: I, end: ServerEnd) -> Self {
        DeferredWriteError { io, deaf: false, end }
    }

    /// `all` bytes count as written once the peer takes no more.
    fn judge(&mut self, written: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(e)) if is_deaf(&e) && self.end.state() != TUNNEL => {
                self.deaf = true;
                Poll::Ready(Ok(all))
            }
            Poll::Ready(Ok(_)) if self.end.state() == BEGUN => {
                self.end.set(BUSY);
                written
            }
            other => other,
        }
    }
}

/// Whether a write failed because the peer takes no more.
pub(super) fn is_deaf(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

impl<I: Transport> Drop for DeferredWriteError<I> {
    fn drop(&mut self) {
        if self.end.state() != IDLE && !Mutant::GivesUpWithAFin.is_planted() {
            self.io.abort();
        }
    }
}

impl<I: Transport + AsyncRead + Unpin> AsyncRead for DeferredWriteError<I> {
    crate::read_through! {}
}

impl<I: Transport + AsyncWrite + Unpin> AsyncWrite for DeferredWriteError<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.judge(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|b| b.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.judge(written, all)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if self.end.state() == HALF_CLOSING {
            // A peer that has gone has no use for it, and reading tells.
            let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
            self.end.set(HALF_CLOSED);
        }
        Poll::Ready(Ok(()))
    }

    crate::write_through! { vectored, shutdown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_deaf_once_its_connection_is_gone_and_not_for_any_other_reason() {
        use io::ErrorKind::*;
        let deaf = |kind: &io::ErrorKind| is_deaf(&(*kind).into());
        assert!([BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected].iter().all(deaf));
        assert!(![TimedOut, UnexpectedEof, InvalidInput, Other].iter().any(deaf));
    }

    /// A stream to a peer that has reset it; notes whether it was reset from here.
    struct Reset(Arc<AtomicU8>);

    impl Transport for Reset {
        fn abort(&mut self) {
            self.0.store(1, Ordering::Relaxed);
        }

        fn behind_fin(&self) -> crate::world::AfterFin {
            crate::world::AfterFin::Unknown
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Whether the stream is reset if it is let go of after `act`.
    fn aborts(act: impl FnOnce(&ServerEnd)) -> bool {
        let (aborted, end) = (Arc::default(), ServerEnd::default());
        let words = DeferredWriteError::new(Reset(Arc::clone(&aborted)), end.clone());
        act(&end);
        drop(words);
        aborted.load(Ordering::Relaxed) == 1
    }

    #[test]
    fn a_stream_is_reset_in_the_middle_of_an_exchange_and_not_between_two() {
        assert!(!aborts(|_| {}));
        assert!(aborts(ServerEnd::begin));
        assert!(!aborts(|end| {
            end.begin();
            end.ended();
        }));
    }

    #[test]
    fn an_exchange_goes_on_reading_from_a_peer_that_takes_no_more_and_a_tunnel_hears_of_it() {
        let end = ServerEnd::default();
        let mut words = DeferredWriteError::new(Reset(Arc::default()), end.clone());
        let mut write =
            || Pin::new(&mut words).poll_write(&mut Context::from_waker(std::task::Waker::noop()), b"abc");
        end.tunnel();
        assert!(matches!(write(), Poll::Ready(Err(_))));
        end.begin();
        assert!(matches!(write(), Poll::Ready(Ok(3))));
    }
}
