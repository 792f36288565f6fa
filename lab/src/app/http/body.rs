//! Bodies of any size from one static block: nothing is allocated or copied for them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Bytes in a frame, at most.
const BLOCK: usize = 16 * 1024;

static PATTERN: [u8; BLOCK] = pattern();

/// Lines of 63 characters that a person recognises in a packet dump.
const fn pattern() -> [u8; BLOCK] {
    let alphabet = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n";
    let mut block = [0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        block[i] = alphabet[i % alphabet.len()];
        i += 1;
    }
    block
}

/// A body of a known size, which HTTP/1 sends with a `Content-Length` unless it is to come in
/// chunks.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    left: u64,
    in_chunks: bool,
}

impl Pattern {
    /// A body of `size` bytes.
    pub fn new(size: u32) -> Self {
        Pattern { left: size.into(), in_chunks: false }
    }

    /// The same without saying its size beforehand.
    pub fn in_chunks(self) -> Self {
        Pattern { in_chunks: true, ..self }
    }

    /// All that is left of it.
    pub(super) fn bytes(self) -> Vec<u8> {
        PATTERN.iter().copied().cycle().take(self.left as usize).collect()
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = self.left.min(BLOCK as u64);
        self.left -= size;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PATTERN[..size as usize])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.in_chunks { SizeHint::default() } else { SizeHint::with_exact(self.left) }
    }
}
