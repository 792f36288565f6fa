//! Answers that break HTTP: what an app with a bug writes, and what a proxy has to be wary of.
//!
//! A [`MalformedWriter`] stands between the app's HTTP server and the connection. It passes
//! responses on, until it is told to replace the next one by the same response with a
//! [`Malformation`].

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::Response;
use hyper::body::Body;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Pattern;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformation {
    /// It is no HTTP.
    NotHttp,
    /// A line of its head is no header.
    NoHeader,
    /// It has two lengths, and they differ (RFC 9112 section 6.3: a proxy must not pass it on).
    TwoLengths,
    /// It has a length and comes in chunks (RFC 9112 section 6.3: an attempt to smuggle, or a
    /// mistake).
    LengthAndChunks,
    /// It opens a tunnel without a request for one.
    Tunnel,
    /// Its head is larger than anybody takes.
    Huge,
    /// It ends within its head.
    HalfHead,
    /// It ends within its body; within its head if there is none.
    HalfBody,
    /// The connection closes, and that is all.
    Nothing,
    /// It is complete, and another response follows without a request.
    Twice,
}

impl Malformation {
    const ALL: [Malformation; 10] = [
        Malformation::NotHttp,
        Malformation::NoHeader,
        Malformation::TwoLengths,
        Malformation::LengthAndChunks,
        Malformation::Tunnel,
        Malformation::Huge,
        Malformation::HalfHead,
        Malformation::HalfBody,
        Malformation::Nothing,
        Malformation::Twice,
    ];

    /// Any of them.
    pub fn any(rng: &mut StdRng) -> Self {
        Malformation::ALL[rng.random_range(0..Malformation::ALL.len())]
    }

    /// The one that the log calls so.
    pub fn named(word: &str) -> Option<Self> {
        Malformation::ALL.into_iter().find(|malformation| format!("{malformation:?}") == word)
    }

    /// Whether a caller can take the answer for what it is.
    pub fn is_answered(self) -> bool {
        self == Malformation::Twice
    }

    /// Whether the connection closes after it. The rest go on as if nothing had been, which is
    /// harder on the other side.
    pub fn closes(self) -> bool {
        matches!(self, Malformation::HalfHead | Malformation::HalfBody | Malformation::Nothing)
    }

    /// The bytes of `response` with this malformation.
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
            Malformation::NotHttp => b"ERROR: out of memory\n".to_vec(),
            Malformation::NoHeader => with(b"this line is no header\r\n"),
            Malformation::TwoLengths => {
                let other = format!("content-length: {}\r\n", body.len() + 1);
                whole(other.as_bytes(), &(format!("{length}\r\n"), ""))
            }
            Malformation::LengthAndChunks => whole(length.as_bytes(), &in_chunks),
            Malformation::Tunnel => {
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lab\r\n\r\n".to_vec()
            }
            Malformation::Huge => {
                with(&b"x-padding: 0123456789abcdef0123456789abcdef\r\n".repeat(HUGE_LINES))
            }
            Malformation::HalfBody if !body.is_empty() => {
                [&head, usual.0.as_bytes(), &body[..body.len() / 2]].concat()
            }
            Malformation::HalfHead | Malformation::HalfBody => head[..head.len() / 2].to_vec(),
            Malformation::Nothing => Vec::new(),
            Malformation::Twice => {
                let other = b"HTTP/1.1 200 OK\r\nx-lab-request: nobody's\r\ncontent-length: 0\r\n\r\n";
                [with(b"").as_slice(), other].concat()
            }
        }
    }
}

/// Lines of 45 bytes that make a head larger than what proxies take: the sidecar's default is 64
/// KiB and 100 lines, Envoy's 60 KiB and 100.
const HUGE_LINES: usize = 2000;

/// What a connection carries in place of the next response. Shared by the server and the
/// [`MalformedWriter`].
#[derive(Clone, Default)]
pub(super) struct ReplacementHandle(Rc<RefCell<Replacement>>);

/// What is written in place of the server's bytes.
#[derive(Default)]
enum Replacement {
    /// The server's own bytes.
    #[default]
    None,
    /// These bytes, from a position on.
    Bytes { bytes: Vec<u8>, from: usize, closes: bool },
    /// Nothing, until the next response.
    Nothing,
    /// Nothing any more.
    Closed,
}

impl ReplacementHandle {
    /// Replaces the next response by `response`, malformed.
    pub fn replace_next(&self, malformation: Malformation, response: &Response<Pattern>) {
        let bytes = malformation.write(response);
        *self.0.borrow_mut() = Replacement::Bytes { bytes, from: 0, closes: malformation.closes() };
    }

    /// A request has come: passes the next response on.
    pub fn pass_next(&self) {
        *self.0.borrow_mut() = Replacement::None;
    }
}

/// A connection on which something else may be sent than what is written to it.
pub(super) struct MalformedWriter<I> {
    io: I,
    replacement: ReplacementHandle,
}

impl<I> MalformedWriter<I> {
    pub fn new(io: I, replacement: ReplacementHandle) -> Self {
        MalformedWriter { io, replacement }
    }
}

impl<I: AsyncWrite + Unpin> MalformedWriter<I> {
    /// Writes the replacement, if there is one. True: what is written now may pass.
    fn poll_replace(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut now = self.replacement.0.borrow_mut();
        loop {
            match &mut *now {
                Replacement::None => return Poll::Ready(Ok(true)),
                Replacement::Nothing => return Poll::Ready(Ok(false)),
                Replacement::Closed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Replacement::Bytes { bytes, from, .. } if *from < bytes.len() => {
                    *from += ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[*from..]))?;
                }
                Replacement::Bytes { closes, .. } => {
                    *now = if *closes { Replacement::Closed } else { Replacement::Nothing }
                }
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for MalformedWriter<I> {
    proxy::read_through! {}
}

impl<I: AsyncWrite + Unpin> AsyncWrite for MalformedWriter<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_replace(cx))? {
            true => Pin::new(&mut self.io).poll_write(cx, buf),
            false => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_replace(cx))? {
            true => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
            false => Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum())),
        }
    }

    proxy::write_through! { vectored, flush, shutdown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(malformation: Malformation, body: Pattern) -> String {
        let mut response = Response::new(body);
        response.headers_mut().insert("x-served-by", "orders-1".parse().unwrap());
        String::from_utf8(malformation.write(&response)).unwrap()
    }

    #[test]
    fn an_answer_is_flawed_in_one_way_and_right_otherwise() {
        let head = "HTTP/1.1 200 OK\r\nx-served-by: orders-1\r\n";
        let body = "01234567";
        let length = "content-length: 8\r\n\r\n";
        let expected = |malformation| match malformation {
            Malformation::NotHttp => "ERROR: out of memory\n".to_owned(),
            Malformation::NoHeader => format!("{head}this line is no header\r\n{length}{body}"),
            Malformation::TwoLengths => format!("{head}content-length: 9\r\n{length}{body}"),
            Malformation::LengthAndChunks => {
                format!(
                    "{head}content-length: 8\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{body}\r\n0\r\n\r\n"
                )
            }
            Malformation::Tunnel => {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lab\r\n\r\n".to_owned()
            }
            Malformation::Huge => {
                let lines = "x-padding: 0123456789abcdef0123456789abcdef\r\n".repeat(2000);
                format!("{head}{lines}{length}{body}")
            }
            Malformation::HalfHead => "HTTP/1.1 200 OK\r\nx-s".to_owned(),
            Malformation::HalfBody => format!("{head}{length}0123"),
            Malformation::Nothing => String::new(),
            Malformation::Twice => {
                let other = "HTTP/1.1 200 OK\r\nx-lab-request: nobody's\r\ncontent-length: 0\r\n\r\n";
                format!("{head}{length}{body}{other}")
            }
        };
        for malformation in Malformation::ALL {
            assert_eq!(written(malformation, Pattern::new(8)), expected(malformation), "{malformation:?}");
        }
        let nothing = written(Malformation::HalfBody, Pattern::new(0));
        assert_eq!(
            nothing,
            written(Malformation::HalfHead, Pattern::new(0)),
            "half of nothing is not another malformation"
        );
        let half_of_chunk = written(Malformation::HalfBody, Pattern::new(8).in_chunks());
        assert_eq!(half_of_chunk, format!("{head}transfer-encoding: chunked\r\n\r\n8\r\n0123"));
    }
}
