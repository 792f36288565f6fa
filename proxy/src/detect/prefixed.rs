//! A stream with bytes put back in front, so that whoever comes after detection never knows of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::world::{AfterFin, Transport};

/// A stream that first yields the bytes that were already read from it.
#[derive(Debug)]
pub struct Prefixed<I> {
    prefix: Bytes,
    io: I,
}

impl<I> Prefixed<I> {
    /// Puts `prefix` in front of `io`.
    pub fn new(prefix: Bytes, io: I) -> Self {
        Prefixed { prefix, io }
    }

    /// One of which nothing was read yet.
    pub fn unread(io: I) -> Self {
        Prefixed::new(Bytes::new(), io)
    }

    /// The stream itself, once nothing is in front of it any more.
    pub fn bare(&self) -> Option<&I> {
        self.prefix.is_empty().then_some(&self.io)
    }

    /// The stream behind what is in front of it: not to read from.
    pub fn get_ref(&self) -> &I {
        &self.io
    }

    /// Puts what is in front of the stream in front of what `change` makes of it.
    ///
    /// # Errors
    /// What `change` says.
    pub fn map<J, E>(self, change: impl FnOnce(I) -> Result<J, E>) -> Result<Prefixed<J>, E> {
        Ok(Prefixed { prefix: self.prefix, io: change(self.io)? })
    }

    /// Takes the stream itself out.
    ///
    /// # Errors
    /// Gives everything back if something is still in front of it.
    pub fn into_bare(self) -> Result<I, Self> {
        if self.prefix.is_empty() { Ok(self.io) } else { Err(self) }
    }
}

impl<I: Transport> Transport for Prefixed<I> {
    fn abort(&mut self) {
        self.io.abort();
    }

    fn behind_fin(&self) -> AfterFin {
        self.io.behind_fin()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.prefix.is_empty() { self.io.poll_readable(cx) } else { Poll::Ready(()) }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

// Vectored writes are forwarded: without them hyper would copy head and body into one buffer.
impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    crate::write_through! { write, flush, shutdown }
}
