//! The stream of a connection that may be under TLS.
//!
//! Everything above the network carries this one type, so that a connection with TLS and one
//! without take the same path. A plain stream costs a comparison; one under TLS is boxed, since its
//! state takes more than a kilobyte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::peer::Peer;
use super::session::Session;
use crate::detect::Prefixed;
use crate::world::{AfterFin, Net, Transport};

/// The stream of a connection over the network `N`.
pub type Io<N> = Stream<<N as Net>::Io>;

/// A stream, under TLS or not.
#[derive(Debug)]
pub enum Stream<I> {
    /// As the network gives it.
    Plain(I),
    /// Under TLS.
    Tls(Box<Secured<I>>),
}

/// A stream under TLS, and who is on its other end.
#[derive(Debug)]
pub struct Secured<I> {
    /// What was read to recognise the handshake was put back in front of the network's stream.
    io: Session<Prefixed<I>>,
    peer: Option<Arc<Peer>>,
}

impl<I> Stream<I> {
    /// One whose handshake is done; `peer` is who proved to be somebody.
    pub(super) fn secured(io: Session<Prefixed<I>>, peer: Option<Arc<Peer>>) -> Self {
        Stream::Tls(Box::new(Secured { io, peer }))
    }

    /// Who has proved to be on the other end; `None` if nobody has.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(secured) => secured.peer.as_ref(),
        }
    }

    /// Takes the network's stream out.
    ///
    /// # Errors
    /// Gives everything back if it is under TLS.
    pub fn into_plain(self) -> Result<I, Self> {
        match self {
            Stream::Plain(io) => Ok(io),
            Stream::Tls(_) => Err(self),
        }
    }
}

/// The kernel's socket under a stream through which bytes pass as they are. Under TLS there is
/// none: they have to be encrypted.
pub fn kernel_socket<N: Net>(io: &Io<N>) -> Option<&TcpStream> {
    match io {
        Stream::Plain(io) => N::kernel_socket(io),
        Stream::Tls(_) => None,
    }
}

impl<I: Transport> Transport for Stream<I> {
    fn abort(&mut self) {
        match self {
            Stream::Plain(io) => io.abort(),
            Stream::Tls(secured) => secured.io.get_mut().abort(),
        }
    }

    fn behind_fin(&self) -> AfterFin {
        match self {
            Stream::Plain(io) => io.behind_fin(),
            Stream::Tls(secured) => secured.io.get_ref().behind_fin(),
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Stream::Plain(io) => io.poll_readable(cx),
            Stream::Tls(secured) if secured.io.has_plaintext() => Poll::Ready(()),
            // A read had to wait, so what has come is at most a part of a record.
            Stream::Tls(secured) => secured.io.get_mut().poll_readable(cx),
        }
    }
}

/// Hands a call on to whichever stream there is.
macro_rules! either {
    ($stream:expr, $call:ident($($argument:expr),*)) => {
        match $stream.get_mut() {
            Stream::Plain(io) => Pin::new(io).$call($($argument),*),
            Stream::Tls(secured) => Pin::new(&mut secured.io).$call($($argument),*),
        }
    };
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_read(cx, buf))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(io) => io.is_write_vectored(),
            Stream::Tls(secured) => secured.io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown(cx))
    }
}
