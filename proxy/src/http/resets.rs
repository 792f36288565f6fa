//! How HTTP/2 streams are reset (RFC 9113 section 7), so that a code passes from one connection to
//! the other.
//!
//! hyper takes a reset with NO_ERROR or CANCEL for the end of a message, because a server may reset
//! a stream with NO_ERROR once its answer is complete (section 8.1). It cannot know whether it was:
//! h2 forgets the end of a message when a reset follows. So half an answer would arrive as a whole
//! one. [`Resets`] reads along on the connection and sets the highest bit of the code, which no
//! code uses, if no END_STREAM came before; then hyper reports an error, and [`of_peer`] tells the
//! code as it was. A client has no such right, and what it resets it does not want any more: so its
//! code is always marked. (An END_STREAM would prove nothing: it may stand on trailers that are
//! refused.)
//!
//! The other way, a response that carries a [`Reset`] stands for no response: its stream is reset
//! instead.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::BoxError;
use crate::mutant::Mutant;
use crate::world::poll_read_new;

/// Bytes of the client's preface.
const PREFACE: usize = 24;
/// Bytes of a frame's header (section 4.1).
const HEADER: usize = 9;
/// Streams that ended last, as far as they are remembered. A reset that belongs to an end follows
/// it soon.
const ENDED: usize = 256;
/// Says in a code that its message had not ended.
const CUT: u32 = 1 << 31;

/// Instead of this response, its stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset(pub Reason);

/// The error of a stream that its peer has reset. hyper finds the code among its sources, and
/// passes it on.
#[derive(Debug)]
struct ByPeer(h2::Error);

impl fmt::Display for ByPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream was reset")
    }
}

impl StdError for ByPeer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// What h2 says underneath, if it says anything.
pub fn h2_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a h2::Error> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// An error and its sources.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// The code with which the peer has reset a stream, if that is what an error is about.
pub fn of_peer(error: &(dyn StdError + 'static)) -> Option<Reason> {
    let by_peer = chain(error).find_map(|error| match error.downcast_ref::<ByPeer>() {
        Some(ByPeer(error)) => Some(error),
        None => error.downcast_ref::<h2::Error>().filter(|error| error.is_remote() && error.is_reset()),
    });
    by_peer?.reason().map(|reason| Reason::from(u32::from(reason) & !CUT))
}

/// An error of a stream, with the code as the peer sent it.
pub fn unmarked(error: impl Into<BoxError>) -> BoxError {
    let error = error.into();
    match of_peer(&*error) {
        Some(reason) => Box::new(ByPeer(reason.into())),
        None => error,
    }
}

/// A peer's stream of frames, in which a reset that cuts a message short is told from one that
/// follows its end.
#[derive(Debug)]
pub struct Resets<I> {
    io: I,
    frames: Frames,
}

impl<I> Resets<I> {
    /// Around the stream of a client, which begins with the preface.
    pub fn of_a_client(io: I) -> Self {
        Resets { io, frames: Frames { skip: PREFACE, is_client: true, ..Frames::default() } }
    }

    /// Around the stream of a server.
    pub fn of_a_server(io: I) -> Self {
        Resets { io, frames: Frames::default() }
    }
}

#[derive(Debug, Default)]
struct Frames {
    /// Ends of a client count for nothing.
    is_client: bool,
    /// Bytes until the next header.
    skip: usize,
    header: [u8; HEADER],
    /// How much of the header is known.
    known: usize,
    /// Whether the next byte begins the code of a reset that cuts a message short.
    cuts: bool,
    /// Streams that ended last, and where the next is noted.
    ended: Vec<u32>,
    next: usize,
}

impl Frames {
    /// Reads along.
    fn read(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.cuts {
                self.cuts = false;
                bytes[0] |= (CUT >> 24) as u8;
            }
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &mut bytes[skipped..];
            let new = bytes.len().min(HEADER - self.known);
            self.header[self.known..self.known + new].copy_from_slice(&bytes[..new]);
            self.known += new;
            bytes = &mut bytes[new..];
            if self.known == HEADER {
                self.known = 0;
                self.begin();
            }
        }
    }

    /// A frame begins.
    fn begin(&mut self) {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        const END_STREAM: u8 = 1;
        let [l, e, n, kind, flags, a, b, c, d] = self.header;
        self.skip = u32::from_be_bytes([0, l, e, n]) as usize;
        let stream = u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1);
        match kind {
            DATA | HEADERS if flags & END_STREAM != 0 && !self.is_client => self.end(stream),
            RST_STREAM if self.skip == 4 && !Mutant::TakesAResetForAnEnd.is_planted() => {
                self.cuts = !self.ended.contains(&stream);
            }
            _ => {}
        }
    }

    fn end(&mut self, stream: u32) {
        if self.ended.len() < ENDED {
            self.ended.push(stream);
        } else {
            self.ended[self.next] = stream;
            self.next = (self.next + 1) % ENDED;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Resets<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.frames.read(ready!(poll_read_new(&mut this.io, cx, buf))?);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Resets<I> {
    crate::write_through! { write, flush, shutdown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn a_reset_is_marked_if_its_message_had_not_ended_however_it_arrives() {
        let reset = |stream, code: u32| frame(3, 0, stream, &code.to_be_bytes());
        let before = [
            frame(4, 0, 0, &[]),
            frame(1, 4, 1, b"head"),
            frame(1, 4, 3, b"head"),
            frame(1, 5, 5, b"head"),
            // Payload that looks like a reset.
            frame(0, 0, 1, &reset(1, 8)),
            frame(0, 1, 3, b"whole"),
        ]
        .concat();
        let given = [before.clone(), reset(1, 0), reset(3, 0), reset(5, 8), reset(7, 8)].concat();
        let expected = [before, reset(1, CUT), reset(3, 0), reset(5, 8), reset(7, CUT | 8)].concat();
        for piece in [1, 2, 7, given.len()] {
            let (mut frames, mut bytes) = (Frames::default(), given.clone());
            bytes.chunks_mut(piece).for_each(|bytes| frames.read(bytes));
            assert_eq!(bytes, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_a_client_resets_is_cut_whatever_came_before() {
        let mut frames = Frames { is_client: true, ..Frames::default() };
        let reset = |code: u32| frame(3, 0, 1, &code.to_be_bytes());
        let mut bytes = [frame(1, 5, 1, b"head"), reset(0)].concat();
        frames.read(&mut bytes);
        assert!(bytes.ends_with(&reset(CUT)), "{bytes:?}");
    }

    #[test]
    fn the_streams_that_ended_last_are_remembered() {
        let mut frames = Frames::default();
        (0..ENDED as u32 * 2 + 1).for_each(|stream| frames.end(stream));
        assert_eq!(frames.ended.len(), ENDED);
        assert!(
            frames.ended.contains(&(ENDED as u32 * 2)) && !frames.ended.contains(&ENDED.try_into().unwrap())
        );
    }
}
