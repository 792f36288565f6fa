//! What a connection has heard: its first bytes, and when the last ones came.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

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

impl<I: AsyncRead + Unpin> AsyncRead for ReadTracker<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = ready!(poll_read_new(&mut self.io, cx, buf)).map(|bytes| !bytes.is_empty());
        let first = match &read {
            Ok(true) => {
                self.at.set(Instant::now());
                Some(FirstRead::Bytes)
            }
            Ok(false) => None,
            Err(error) => tls::was_refused(error).then(|| FirstRead::Refused(error.to_string())),
        };
        if let Some(first) = first
            && let Some(tell) = self.tell.take()
        {
            // Nobody listens any more if the dial took too long.
            let _ = tell.send(first);
        }
        Poll::Ready(read.map(drop))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for ReadTracker<I> {
    crate::write_through! { write, flush, shutdown }
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
