//! What a connection has heard: its first bytes, and when the last ones came.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::deferred_write_error::is_deaf;
use crate::tls;
use crate::world::poll_read_new;

/// What is read first.
#[derive(Debug)]
pub(super) enum FirstRead {
    /// Bytes.
    Bytes,
    /// That the server has refused the handshake of TLS, in its words. The HTTP/2 library does not
    /// pass that on.
    Refused(String),
}

/// Tells what is read first, and notes when the last bytes have come.
pub(super) struct ReadTracker<I> {
    pub(super) io: I,
    pub(super) tell: Option<oneshot::Sender<FirstRead>>,
    pub(super) at: Rc<Cell<Instant>>,
}

impl<I: AsyncRead + Unpin> ReadTracker<I> {
    fn note(&mut self, read: &io::Result<bool>) {
        let first = match read {
            Ok(true) => {
                self.at.set(Instant::now());
                FirstRead::Bytes
            }
            Err(error) if tls::was_refused(error) => FirstRead::Refused(error.to_string()),
            _ => return,
        };
        if let Some(tell) = self.tell.take() {
            // Nobody listens any more if the dial took too long.
            let _ = tell.send(first);
        }
    }

    /// A server that refuses a handshake may close right behind its reason, and the library reads
    /// no more once a write has failed. So until something was read, reading finds out what became
    /// of the connection.
    fn judge<T>(&self, written: io::Result<T>, all: T) -> Poll<io::Result<T>> {
        Poll::Ready(match written {
            Err(error) if self.tell.is_some() && is_deaf(&error) => Ok(all),
            other => other,
        })
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for ReadTracker<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(poll_read_new(&mut self.io, cx, buf)).map(|bytes| !bytes.is_empty());
        self.note(&read);
        Poll::Ready(read.map(drop))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ReadTracker<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        self.judge(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        self.judge(written, slices.iter().map(|slice| slice.len()).sum())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        self.judge(flushed, ())
    }

    crate::write_through! { vectored, shutdown }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_heard_and_the_end_is_not_and_a_shutdown_is_passed_on() {
        let (io, mut peer) = duplex(64);
        let at = Rc::new(Cell::new(Instant::now()));
        let mut heard = ReadTracker { io, tell: None, at: at.clone() };
        advance(Duration::from_secs(1)).await;
        peer.write_all(b"x").await.unwrap();
        assert_eq!(heard.read(&mut [0]).await.unwrap(), 1);
        let last = Instant::now();
        assert_eq!(at.get(), last);
        heard.shutdown().await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(1), peer.read(&mut [0])).await;
        assert_eq!(end.expect("the end of the stream").unwrap(), 0);
        drop(peer);
        advance(Duration::from_secs(1)).await;
        assert_eq!(heard.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(at.get(), last);
    }
}
