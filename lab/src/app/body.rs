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

/// A body of a known size, so that HTTP/1 sends it with a `Content-Length`.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    left: u64,
}

impl Pattern {
    /// A body of `size` bytes.
    pub fn new(size: u32) -> Self {
        Pattern { left: size.into() }
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
        SizeHint::with_exact(self.left)
    }
}
