//! Refuses HTTP/1 requests that two readers could read in two ways (RFC 9112 sections 2.2, 5.1, 6.3 and 11.2).
//!
//! hyper refuses most of them itself. Some it mends, and the evidence is gone before the service sees the request: a
//! `Content-Length` beside a `Transfer-Encoding` is dropped, equal lengths become one, a bare LF ends a line, a fragment
//! disappears. An app that does not mend in the same way would see another message, so [`Strict`] reads along: it looks
//! at each byte of a head once, in hyper's own buffer, copies nothing and skips bodies by their length. What it refuses
//! it replaces by bytes that hyper refuses with 400, unless the head was handed over already; then the body breaks off.
//! It never lets anything pass that hyper would not, so a mistake here can refuse too much but not smuggle.
//!
//! In the other direction it lets [`super::interim`] put its words between hyper's.
//!
//! What it leaves out: targets and hosts ([`super::target`]), responses ([`super::forward::check`]), and whatever follows a request that asks for a tunnel or
//! has an unknown transfer coding. Such a connection never carries another request: see [`super::tunnel`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::interim::Interim;
use crate::world::Abort;

/// What hyper gets in place of a refused message: no method, header, chunk size or trailer has a NUL, and wherever the
/// message was, its head ends here.
const POISON: &[u8] = b"\0\r\n\r\n";

/// A client's stream that is read along.
#[derive(Debug)]
pub struct Strict<I> {
    io: I,
    reader: Reader,
    interim: Interim,
}

impl<I> Strict<I> {
    /// Around the stream of a client that is about to send its first request, and hears `interim` between hyper's words.
    pub fn new(io: I, interim: Interim) -> Self {
        Strict { io, reader: Reader::default(), interim }
    }

    /// Whether what was read ends with a request, or with one after which nothing is read.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.reader.at, At::Start | At::Unread)
    }

    /// Writes what goes before hyper's next word, and then that.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>>
    where
        I: AsyncWrite + Unpin,
    {
        ready!(self.interim.poll_ahead(&mut self.io, cx))?;
        let written = ready!(write(Pin::new(&mut self.io), cx));
        self.interim.wrote();
        Poll::Ready(written)
    }
}

impl<I: Abort> Abort for Strict<I> {
    fn abort(&mut self) {
        self.io.abort();
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Strict<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let At::Refused { told } = self.reader.at {
            let poison = &POISON[told..];
            let poison = &poison[..poison.len().min(buf.remaining())];
            buf.put_slice(poison);
            self.reader.at = At::Refused { told: told + poison.len() };
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if !matches!(polled, Poll::Ready(Ok(()))) || buf.filled().len() == before {
            return polled;
        }
        if let Err(good) = self.reader.read(&buf.filled()[before..]) {
            buf.set_filled(before + good);
            let told = POISON.len().min(buf.remaining());
            buf.put_slice(&POISON[..told]);
            self.reader.at = At::Refused { told };
        }
        polled
    }
}

// Vectored writes are forwarded: without them hyper would copy head and body into one buffer.
impl<I: AsyncWrite + Unpin> AsyncWrite for Strict<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_next(cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_next(cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.interim.poll_flush(&mut this.io, cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Where in a message the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a request line. Empty lines are skipped, as RFC 9112 section 2.2 asks of a server.
    Start,
    StartLf,
    Method,
    RequestLine,
    Name,
    Value,
    /// After the CR of a line of the head.
    Lf,
    /// After the CR of the empty line that ends the head.
    HeadLf,
    /// In a body with this much to go.
    Body(u64),
    ChunkSize {
        digits: u8,
    },
    ChunkExtension,
    ChunkSizeLf,
    ChunkData(u64),
    ChunkCr,
    ChunkLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    /// Nothing that follows is a request.
    Unread,
    Refused {
        told: usize,
    },
}

/// Header fields that decide where a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    Coding,
    Upgrade,
    Other,
}

/// The longest name or value that matters is `transfer-encoding`.
const WORD: usize = 18;

#[derive(Debug)]
struct Reader {
    at: At,
    field: Field,
    /// The start of the method, name or value at hand; names and values in lower case.
    word: [u8; WORD],
    /// Its length; more than [`WORD`] if it did not fit.
    len: usize,
    /// Blanks at its end so far.
    blanks: usize,
    length: Option<u64>,
    /// Whether there is a transfer coding, and if so, whether it is `chunked`.
    coding: Option<bool>,
    upgrade: bool,
    chunk: u64,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            at: At::Start,
            field: Field::Other,
            word: [0; WORD],
            len: 0,
            blanks: 0,
            length: None,
            coding: None,
            upgrade: false,
            chunk: 0,
        }
    }
}

impl Reader {
    /// Reads on. On failure tells how many of the bytes belong to earlier messages.
    fn read(&mut self, bytes: &[u8]) -> Result<(), usize> {
        // Where the message at hand begins; 0 if it did so in an earlier read.
        let mut begin = 0;
        let mut i = 0;
        while let Some(&byte) = bytes.get(i) {
            let rest = bytes.len() - i;
            match self.at {
                At::Unread => return Ok(()),
                At::Body(left) | At::ChunkData(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
                    i += here;
                    let left = left - here as u64;
                    self.at = match self.at {
                        At::Body(_) if left == 0 => At::Start,
                        At::Body(_) => At::Body(left),
                        _ if left == 0 => At::ChunkCr,
                        _ => At::ChunkData(left),
                    };
                    continue;
                }
                // Most of a head: nothing to note until something ends.
                At::RequestLine => {
                    let plain = |b: &u8| !matches!(b, b'\r' | b'\n' | b'#');
                    i += bytes[i..].iter().take_while(|b| plain(b)).count();
                    match bytes.get(i) {
                        None => return Ok(()),
                        Some(b'\r') => self.at = At::Lf,
                        Some(_) => return Err(begin),
                    }
                    i += 1;
                    continue;
                }
                At::Value if self.field == Field::Other => {
                    i += bytes[i..].iter().take_while(|b| !matches!(b, b'\r' | b'\n')).count();
                    match bytes.get(i) {
                        None => return Ok(()),
                        Some(b'\r') => self.at = At::Lf,
                        Some(_) => return Err(begin),
                    }
                    i += 1;
                    continue;
                }
                At::Start if !matches!(byte, b'\r' | b'\n') => {
                    begin = i;
                    *self = Reader { at: At::Method, ..Reader::default() };
                }
                _ => {}
            }
            if !self.step(byte) {
                return Err(begin);
            }
            i += 1;
        }
        Ok(())
    }

    /// Takes one byte; false if it must not stand here.
    fn step(&mut self, byte: u8) -> bool {
        self.at = match (self.at, byte) {
            (At::Start, b'\r') => At::StartLf,
            (At::StartLf, b'\n') => At::Start,
            (At::Method, b' ') => {
                // A method has the case that it has.
                self.upgrade = self.word() == b"CONNECT";
                At::RequestLine
            }
            (At::Method, b'\r' | b'\n') => return false,
            (At::Method, _) => {
                self.push(byte);
                At::Method
            }
            (At::Lf, b'\n') => {
                self.len = 0;
                At::Name
            }
            (At::Name, b'\r') if self.len == 0 => At::HeadLf,
            (At::Name, b':') => {
                self.field = match self.word() {
                    b"content-length" => Field::Length,
                    b"transfer-encoding" => Field::Coding,
                    b"upgrade" => Field::Upgrade,
                    _ => Field::Other,
                };
                (self.len, self.blanks) = (0, 0);
                At::Value
            }
            (At::Name, b'\r' | b'\n') => return false,
            (At::Name, _) => {
                self.push(byte.to_ascii_lowercase());
                At::Name
            }
            (At::Value, b'\n') => return false,
            (At::Value, b'\r') => {
                if !self.value() {
                    return false;
                }
                At::Lf
            }
            (At::Value, b' ' | b'\t') => {
                // Blanks around a value are not part of it.
                self.blanks += usize::from(self.len > 0 && self.blanks <= WORD);
                At::Value
            }
            (At::Value, _) => {
                for _ in 0..std::mem::take(&mut self.blanks) {
                    self.push(b' ');
                }
                self.push(byte.to_ascii_lowercase());
                At::Value
            }
            (At::HeadLf, b'\n') => match (self.upgrade, self.coding, self.length) {
                (true, ..) | (_, Some(false), _) => At::Unread,
                (_, Some(true), _) => At::ChunkSize { digits: 0 },
                (.., None | Some(0)) => At::Start,
                (.., Some(length)) => At::Body(length),
            },
            (At::ChunkSize { digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == 0 {
                    self.chunk = 0;
                }
                // 16 digits are all that 64 bits hold.
                if digits == 16 {
                    return false;
                }
                let digit = (byte as char).to_digit(16).expect("a hexadecimal digit");
                self.chunk = self.chunk << 4 | u64::from(digit);
                At::ChunkSize { digits: digits + 1 }
            }
            (At::ChunkSize { digits: 1.. }, b'\r') => At::ChunkSizeLf,
            (At::ChunkSize { digits: 1.. }, b';' | b' ' | b'\t') => At::ChunkExtension,
            (At::ChunkExtension, b'\r') => At::ChunkSizeLf,
            (At::ChunkExtension, b'\t' | b' '..=b'~' | 0x80..) => At::ChunkExtension,
            (At::ChunkSizeLf, b'\n') if self.chunk == 0 => At::TrailerStart,
            (At::ChunkSizeLf, b'\n') => At::ChunkData(self.chunk),
            (At::ChunkCr, b'\r') => At::ChunkLf,
            (At::ChunkLf, b'\n') => At::ChunkSize { digits: 0 },
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::TrailerStart | At::Trailer, b'\n') => return false,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerStart | At::Trailer, _) => At::Trailer,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => At::Start,
            _ => return false,
        };
        true
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.word.get_mut(self.len) {
            *place = byte;
        }
        self.len = (self.len + 1).min(WORD + 1);
    }

    /// The word at hand; nothing if it was too long.
    fn word(&self) -> &[u8] {
        self.word.get(..self.len).unwrap_or_default()
    }

    /// The value of a field that matters has ended; false if the message is ambiguous.
    fn value(&mut self) -> bool {
        match self.field {
            Field::Length => {
                let word = self.word();
                let digits = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
                let length = word.iter().fold(0, |n: u64, b| n * 10 + u64::from(b.wrapping_sub(b'0')) % 10);
                if !digits || self.length.is_some() || self.coding.is_some() {
                    return false;
                }
                self.length = Some(length);
            }
            Field::Coding => {
                if self.length.is_some() || self.coding.is_some() {
                    return false;
                }
                self.coding = Some(self.word() == b"chunked");
            }
            Field::Upgrade => self.upgrade |= !is_offer(self.word()),
            Field::Other => {}
        }
        true
    }
}

/// Whether the value of an `Upgrade` header is only an offer: to go on in a newer HTTP or in TLS, which a server may
/// ignore (RFC 9110 section 7.8) and many clients make to everybody. Anything else is meant.
pub fn is_offer(value: &[u8]) -> bool {
    let begins = |with: &[u8]| value.get(..with.len()).is_some_and(|v| v.eq_ignore_ascii_case(with));
    value.len() <= WORD && !value.contains(&b',') && (begins(b"h2c") || begins(b"http/") || begins(b"tls/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The whole of `bytes` in pieces of `size`; whether all of it passed.
    fn passes(bytes: &[u8], size: usize) -> bool {
        let mut reader = Reader::default();
        bytes.chunks(size).all(|piece| reader.read(piece).is_ok())
    }

    const FINE: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  4 \r\n\r\n\n\n\n\nGET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=y\r\n\n\n\n\n\n\n\n\n\n\n\r\n0\r\na: b\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1                        \r\n\r\n\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n\n\n\n",
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\n\n\n",
    ];

    const AMBIGUOUS: &[&str] = &[
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n\n\n\n",
        "GET / HTTP/1.1\r\nUpgrade: \th2c                        \r\n\r\n\n\n\n",
        "connect / HTTP/1.1\r\nHost: a\r\n\r\n\n\n\n",
        "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 9999999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naa\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\na\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b\n\r\n",
    ];

    #[test]
    fn it_makes_no_difference_how_the_bytes_arrive() {
        for size in 1..40 {
            for bytes in FINE {
                assert!(passes(bytes.as_bytes(), size), "{size} {bytes:?}");
            }
            for bytes in AMBIGUOUS {
                assert!(!passes(bytes.as_bytes(), size), "{size} {bytes:?}");
            }
        }
    }

    #[test]
    fn messages_before_a_refused_one_are_kept() {
        let good = FINE[0].len();
        let bytes = format!("{}{}", FINE[0], AMBIGUOUS[3]);
        assert_eq!(Reader::default().read(bytes.as_bytes()), Err(good));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_get_one_judgement(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), any::<u8>()], 0..64),
            size in 1..9_usize,
            fine in 0..FINE.len(),
        ) {
            let bytes = [FINE[fine].as_bytes(), &bytes].concat();
            prop_assert_eq!(passes(&bytes, size), passes(&bytes, bytes.len()));
        }
    }
}
