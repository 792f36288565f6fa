//! What a stream around another stream has in common with every other such stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Reads from the stream inside, for one that looks at what passes: the bytes that are new in
/// `buf`, none at the end of the stream.
///
/// # Errors
/// Those of the stream.
pub fn poll_read_new<'b, I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    buf: &'b mut ReadBuf<'_>,
) -> Poll<io::Result<&'b mut [u8]>> {
    let before = buf.filled().len();
    ready!(Pin::new(io).poll_read(cx, buf))?;
    Poll::Ready(Ok(&mut buf.filled_mut()[before..]))
}

/// Hands reading on to the stream inside, in the field `io`.
#[macro_export]
macro_rules! read_through {
    () => {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.io).poll_read(cx, buf)
        }
    };
}

/// Hands what is written to a stream on to the one inside, in its field `io`: `write` (vectored
/// writes too; without them hyper would copy head and body into one buffer), `flush`, `shutdown`.
/// What is not named is for the implementation to write.
#[macro_export]
macro_rules! write_through {
    ($($part:ident),+) => {
        $($crate::write_through! { @$part })+
    };
    (@write) => {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.io).poll_write(cx, bytes)
        }

        fn poll_write_vectored(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            slices: &[std::io::IoSlice<'_>],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.io).poll_write_vectored(cx, slices)
        }

        $crate::write_through! { @vectored }
    };
    (@vectored) => {
        fn is_write_vectored(&self) -> bool {
            self.io.is_write_vectored()
        }
    };
    (@flush) => {
        fn poll_flush(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.io).poll_flush(cx)
        }
    };
    (@shutdown) => {
        fn poll_shutdown(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.io).poll_shutdown(cx)
        }
    };
}
