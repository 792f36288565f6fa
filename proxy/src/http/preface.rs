//! The beginning of an HTTP/2 connection (RFC 9113 section 3.4): after the client's preface, and
//! from a server at once, comes a SETTINGS frame, and anything else ends the connection. The h2
//! crate takes any frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::world::poll_read_new;

/// Bytes of the client's preface; the library compares them.
const PREFACE: usize = 24;
/// Bytes of a frame's header (section 4.1).
const HEADER: usize = 9;

/// A peer's stream, of which the first frame must be SETTINGS.
#[derive(Debug)]
pub struct FirstFrame<I> {
    io: I,
    /// Bytes that come before it still.
    before: usize,
    header: [u8; HEADER],
    /// How much of it is known.
    known: usize,
}

impl<I> FirstFrame<I> {
    /// Around the stream of a client, which begins with the preface.
    pub fn of_a_client(io: I) -> Self {
        FirstFrame { io, before: PREFACE, header: [0; HEADER], known: 0 }
    }

    /// Around the stream of a server.
    pub fn of_a_server(io: I) -> Self {
        FirstFrame { before: 0, ..FirstFrame::of_a_client(io) }
    }

    /// Reads along; false if the first frame is another one.
    fn read(&mut self, bytes: &[u8]) -> bool {
        if self.known == HEADER {
            return true;
        }
        let skipped = self.before.min(bytes.len());
        self.before -= skipped;
        let rest = &bytes[skipped..];
        let new = rest.len().min(HEADER - self.known);
        self.header[self.known..self.known + new].copy_from_slice(&rest[..new]);
        self.known += new;
        self.known < HEADER || is_settings(self.header)
    }
}

/// A frame's header is its length, type, flags and stream. An acknowledgement acknowledges nothing
/// yet.
fn is_settings(header: [u8; HEADER]) -> bool {
    const SETTINGS: u8 = 4;
    const ACK: u8 = 1;
    let [.., kind, flags, a, b, c, d] = header;
    kind == SETTINGS && flags & ACK == 0 && u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1) == 0
}

impl<I: AsyncRead + Unpin> AsyncRead for FirstFrame<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let new = ready!(poll_read_new(&mut self.io, cx, buf))?;
        if self.read(new) {
            return Poll::Ready(Ok(()));
        }
        let wrong = "HTTP/2 begins with a SETTINGS frame (RFC 9113 section 3.4)";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, wrong)))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for FirstFrame<I> {
    crate::write_through! { write, flush, shutdown }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    #[test]
    fn the_first_frame_is_settings_however_it_arrives() {
        for (header, expected) in [
            ([0, 0, 0, 4, 0, 0, 0, 0, 0], true),
            // With three settings, flags that mean nothing, and the reserved bit.
            ([0, 0, 18, 4, 0xfe, 0x80, 0, 0, 0], true),
            // An acknowledgement; of a stream; HEADERS; PING; WINDOW_UPDATE.
            ([0, 0, 0, 4, 1, 0, 0, 0, 0], false),
            ([0, 0, 0, 4, 0, 0, 0, 0, 1], false),
            ([0, 0, 9, 1, 4, 0, 0, 0, 1], false),
            ([0, 0, 8, 6, 0, 0, 0, 0, 0], false),
            ([0, 0, 4, 8, 0, 0, 0, 0, 0], false),
        ] {
            let client = [CLIENT, &header, b"\0\0\0\x01\x02 and whatever follows"].concat();
            for size in [1, 2, 7, 24, 30, 33, client.len()] {
                let mut first = FirstFrame::of_a_client(());
                assert_eq!(client.chunks(size).all(|piece| first.read(piece)), expected, "{header:?} {size}");
                let mut first = FirstFrame::of_a_server(());
                assert_eq!(client[24..].chunks(size).all(|piece| first.read(piece)), expected, "{header:?}");
            }
        }
    }
}
