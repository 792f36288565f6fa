//! Answers that break HTTP: what an app with a bug writes, and what a proxy has to be wary of.
//!
//! A [`Mouth`] stands between the app's HTTP server and the connection. It lets answers pass, until it is told to say
//! something else instead of the next one: the same answer with a [`Flaw`].

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::Response;
use hyper::body::Body;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Pattern;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is no HTTP.
    NotHttp,
    /// A line of its head is no header.
    NoHeader,
    /// It has two lengths, and they differ (RFC 9112 section 6.3: a proxy must not pass it on).
    TwoLengths,
    /// It has a length and comes in chunks (RFC 9112 section 6.3: an attempt to smuggle, or a mistake).
    LengthAndChunks,
    /// It opens a tunnel that nobody has asked for.
    Tunnel,
    /// Its head is larger than anybody takes.
    Huge,
    /// It ends within its head.
    HalfHead,
    /// It ends within its body; within its head if there is none.
    HalfBody,
    /// The connection closes, and that is all.
    Nothing,
    /// It is whole, and another one follows that nobody has asked for.
    Twice,
}

impl Flaw {
    const ALL: [Flaw; 10] = [
        Flaw::NotHttp,
        Flaw::NoHeader,
        Flaw::TwoLengths,
        Flaw::LengthAndChunks,
        Flaw::Tunnel,
        Flaw::Huge,
        Flaw::HalfHead,
        Flaw::HalfBody,
        Flaw::Nothing,
        Flaw::Twice,
    ];

    /// Any of them.
    pub fn any(rng: &mut StdRng) -> Self {
        Flaw::ALL[rng.random_range(0..Flaw::ALL.len())]
    }

    /// The one that the log calls so.
    pub fn named(word: &str) -> Option<Self> {
        Flaw::ALL.into_iter().find(|flaw| format!("{flaw:?}") == word)
    }

    /// Whether a caller can take the answer for what it is.
    pub fn is_answered(self) -> bool {
        self == Flaw::Twice
    }

    /// Whether the connection closes after it. The rest go on as if nothing had been, which is harder on the other side.
    pub fn closes(self) -> bool {
        matches!(self, Flaw::HalfHead | Flaw::HalfBody | Flaw::Nothing)
    }

    /// The bytes of `response` with this flaw.
    fn write(self, response: &Response<Pattern>) -> Vec<u8> {
        let status = response.status();
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        for (name, value) in response.headers() {
            head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        let body = response.body().bytes();
        let length = format!("content-length: {}\r\n", body.len());
        // What comes before the body and after it.
        let in_chunks = (format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()), "\r\n0\r\n\r\n");
        let usual = match response.body().size_hint().exact() {
            Some(_) => (format!("{length}\r\n"), ""),
            None => in_chunks.clone(),
        };
        let whole = |extra: &[u8], (before, after): &(String, &str)| {
            [&head, extra, before.as_bytes(), &body, after.as_bytes()].concat()
        };
        let with = |extra: &[u8]| whole(extra, &usual);
        match self {
            Flaw::NotHttp => b"ERROR: out of memory\n".to_vec(),
            Flaw::NoHeader => with(b"this line is no header\r\n"),
            Flaw::TwoLengths => {
                let other = format!("content-length: {}\r\n", body.len() + 1);
                whole(other.as_bytes(), &(format!("{length}\r\n"), ""))
            }
            Flaw::LengthAndChunks => whole(length.as_bytes(), &in_chunks),
            Flaw::Tunnel => {
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lab\r\n\r\n".to_vec()
            }
            Flaw::Huge => with(&b"x-padding: 0123456789abcdef0123456789abcdef\r\n".repeat(HUGE_LINES)),
            Flaw::HalfBody if !body.is_empty() => {
                [&head, usual.0.as_bytes(), &body[..body.len() / 2]].concat()
            }
            Flaw::HalfHead | Flaw::HalfBody => head[..head.len() / 2].to_vec(),
            Flaw::Nothing => Vec::new(),
            Flaw::Twice => {
                let other = b"HTTP/1.1 200 OK\r\nx-lab-request: nobody's\r\ncontent-length: 0\r\n\r\n";
                [with(b"").as_slice(), other].concat()
            }
        }
    }
}

/// Lines of 45 bytes that make a head larger than what proxies take: the sidecar's default is 64 KiB and 100 lines, Envoy's
/// 60 KiB and 100.
const HUGE_LINES: usize = 2000;

/// What is said on a connection in place of the next answer. Shared by whoever makes answers and the [`Mouth`].
#[derive(Clone, Default)]
pub(super) struct Instead(Rc<RefCell<Says>>);

#[derive(Default)]
enum Says {
    /// What it is given.
    #[default]
    Answers,
    /// These bytes, from a position on.
    Bytes { bytes: Vec<u8>, from: usize, closes: bool },
    /// Nothing, until the next answer.
    Nothing,
    /// Nothing any more.
    Closed,
}

impl Instead {
    /// The next answer is `response`, with a flaw.
    pub fn say(&self, flaw: Flaw, response: &Response<Pattern>) {
        let bytes = flaw.write(response);
        *self.0.borrow_mut() = Says::Bytes { bytes, from: 0, closes: flaw.closes() };
    }

    /// A request has come: what is said next answers it.
    pub fn listen(&self) {
        *self.0.borrow_mut() = Says::Answers;
    }
}

/// A connection on which something else may be said than what is written to it.
pub(super) struct Mouth<I> {
    io: I,
    instead: Instead,
}

impl<I> Mouth<I> {
    pub fn new(io: I, instead: Instead) -> Self {
        Mouth { io, instead }
    }
}

impl<I: AsyncWrite + Unpin> Mouth<I> {
    /// Says what is to be said instead. True: what is given now may pass.
    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut says = self.instead.0.borrow_mut();
        loop {
            match &mut *says {
                Says::Answers => return Poll::Ready(Ok(true)),
                Says::Nothing => return Poll::Ready(Ok(false)),
                Says::Closed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Says::Bytes { bytes, from, .. } if *from < bytes.len() => {
                    *from += ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[*from..]))?;
                }
                Says::Bytes { closes, .. } => *says = if *closes { Says::Closed } else { Says::Nothing },
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Mouth<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Mouth<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_say(cx))? {
            true => Pin::new(&mut self.io).poll_write(cx, buf),
            false => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_say(cx))? {
            true => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
            false => Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum())),
        }
    }

    proxy::write_through! { vectored, flush, shutdown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(flaw: Flaw, body: Pattern) -> String {
        let mut response = Response::new(body);
        response.headers_mut().insert("x-served-by", "orders-1".parse().unwrap());
        String::from_utf8(flaw.write(&response)).unwrap()
    }

    #[test]
    fn an_answer_is_flawed_in_one_way_and_right_otherwise() {
        let head = "HTTP/1.1 200 OK\r\nx-served-by: orders-1\r\n";
        let body = "01234567";
        let length = "content-length: 8\r\n\r\n";
        let expected = |flaw| match flaw {
            Flaw::NotHttp => "ERROR: out of memory\n".to_owned(),
            Flaw::NoHeader => format!("{head}this line is no header\r\n{length}{body}"),
            Flaw::TwoLengths => format!("{head}content-length: 9\r\n{length}{body}"),
            Flaw::LengthAndChunks => {
                format!(
                    "{head}content-length: 8\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{body}\r\n0\r\n\r\n"
                )
            }
            Flaw::Tunnel => {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lab\r\n\r\n".to_owned()
            }
            Flaw::Huge => {
                let lines = "x-padding: 0123456789abcdef0123456789abcdef\r\n".repeat(2000);
                format!("{head}{lines}{length}{body}")
            }
            Flaw::HalfHead => "HTTP/1.1 200 OK\r\nx-s".to_owned(),
            Flaw::HalfBody => format!("{head}{length}0123"),
            Flaw::Nothing => String::new(),
            Flaw::Twice => {
                let other = "HTTP/1.1 200 OK\r\nx-lab-request: nobody's\r\ncontent-length: 0\r\n\r\n";
                format!("{head}{length}{body}{other}")
            }
        };
        for flaw in Flaw::ALL {
            assert_eq!(written(flaw, Pattern::new(8)), expected(flaw), "{flaw:?}");
        }
        let nothing = written(Flaw::HalfBody, Pattern::new(0));
        assert_eq!(nothing, written(Flaw::HalfHead, Pattern::new(0)), "half of nothing is no flaw");
        let half_of_chunk = written(Flaw::HalfBody, Pattern::new(8).in_chunks());
        assert_eq!(half_of_chunk, format!("{head}transfer-encoding: chunked\r\n\r\n8\r\n0123"));
    }
}
