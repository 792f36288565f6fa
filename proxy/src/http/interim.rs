//! Interim responses (1xx) on their way to a client of HTTP/1.1 (RFC 9110 section 15.2).
//!
//! hyper's server sends one response to a request and nothing before it. But it writes through a
//! stream of ours, so bytes can be put between its own, if they stand where a message begins. That
//! moment is known: hyper flushes the stream only when all that it had to write has been written,
//! so after a flush, with an active request, nothing has been sent of its response and nothing is
//! left of the one before. What hyper writes next is `100 Continue` or the response, and either may
//! follow an interim response. That is all that is allowed here: an interim response goes out
//!
//! - at a flush, while its request is active; or
//! - if the response comes first, right before hyper's next byte, provided that hyper has written
//!   nothing since a flush that came after the request.
//!
//! In every other case it is dropped, as it is when the client does not read: no client may depend
//! on one. So the framing of what hyper writes is never touched, whatever is pipelined.
//!
//! What it leaves out: HTTP/2, where hyper's server has no stream to write between, and clients of
//! HTTP/1.0, which must not see a 1xx.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWrite;

use super::headers;
use crate::config::defaults::INTERIM_BYTES;

/// The interim responses of one connection of a client. Cheap to clone.
///
/// One task polls the stream and the handler of its request, so the atomics order nothing: they are
/// there because hyper asks for `Send`, and cost what a plain field costs.
#[derive(Debug, Clone, Default)]
pub struct Interim(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Which request is active, or was last.
    number: AtomicU64,
    active: AtomicBool,
    /// Since the request came, hyper has flushed, and has written nothing since it last did.
    flushed: AtomicBool,
    /// Whether there is anything in `queue`.
    queued: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Of the active request: waits for a flush.
    waiting: Vec<u8>,
    /// Goes before hyper's next byte.
    ahead: Vec<u8>,
    /// How much of that has gone.
    sent: usize,
}

/// A request is active until this is dropped.
#[derive(Debug)]
pub struct OpenRequest(Interim);

/// Says something to the client of one request, until it has its response.
#[derive(Debug, Clone)]
pub struct InterimSender {
    interim: Interim,
    number: u64,
}

impl Shared {
    fn is(&self, flag: &AtomicBool) -> bool {
        flag.load(Ordering::Relaxed)
    }

    fn set(&self, flag: &AtomicBool, to: bool) {
        flag.store(to, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interim {
    /// A request has come. There is one at a time.
    pub fn begin(&self) -> OpenRequest {
        let shared = &self.0;
        shared.number.fetch_add(1, Ordering::Relaxed);
        shared.set(&shared.active, true);
        // Something of the response before may still be in hyper's hands.
        shared.set(&shared.flushed, false);
        OpenRequest(self.clone())
    }

    /// Writes what goes before hyper's next byte. Call it before that is written.
    ///
    /// # Errors
    /// The stream's own.
    pub fn poll_ahead<I: AsyncWrite + Unpin>(
        &self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &self.0;
        if !shared.is(&shared.queued) {
            return Poll::Ready(Ok(()));
        }
        let mut queue = shared.queue();
        while queue.sent < queue.ahead.len() {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, &queue.ahead[queue.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.sent += written;
        }
        queue.ahead = Vec::new();
        queue.sent = 0;
        shared.set(&shared.queued, !queue.waiting.is_empty());
        Poll::Ready(Ok(()))
    }

    /// hyper has written something.
    pub fn wrote(&self) {
        self.0.set(&self.0.flushed, false);
    }

    /// hyper flushes, so it has written all it had: what waits goes out.
    ///
    /// # Errors
    /// The stream's own.
    pub fn poll_flush<I: AsyncWrite + Unpin>(
        &self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_ahead(io, cx))?;
        let shared = &self.0;
        if shared.is(&shared.active) {
            shared.set(&shared.flushed, true);
            if shared.is(&shared.queued) {
                let queue = &mut *shared.queue();
                std::mem::swap(&mut queue.ahead, &mut queue.waiting);
            }
        }
        self.poll_ahead(io, cx)
    }
}

impl OpenRequest {
    /// Lets somebody speak to the client of this request.
    pub fn interim_sender(&self) -> InterimSender {
        InterimSender { interim: self.0.clone(), number: self.0.0.number.load(Ordering::Relaxed) }
    }
}

impl Drop for OpenRequest {
    /// The response is there, and is written next.
    fn drop(&mut self) {
        let shared = &self.0.0;
        shared.set(&shared.active, false);
        if shared.is(&shared.queued) {
            let Queue { waiting, ahead, .. } = &mut *shared.queue();
            if shared.is(&shared.flushed) {
                ahead.append(waiting);
            } else {
                waiting.clear();
            }
            shared.set(&shared.queued, !ahead.is_empty());
        }
        shared.set(&shared.flushed, false);
    }
}

impl InterimSender {
    /// Sends an interim response, as far as it can be sent in time.
    pub fn say(&self, status: StatusCode, headers: &HeaderMap) {
        let shared = &self.interim.0;
        if !shared.is(&shared.active) || shared.number.load(Ordering::Relaxed) != self.number {
            return;
        }
        let mut headers = headers.clone();
        headers::remove_hop_by_hop(&mut headers);
        // A 1xx has no body; whoever believed in one would take the response for it.
        headers.remove(CONTENT_LENGTH);
        let mut queue = shared.queue();
        let before = queue.waiting.len();
        let out = &mut queue.waiting;
        let reason = status.canonical_reason().unwrap_or_default();
        out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
        for (name, value) in &headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(b"\r\n");
        if out.len() > INTERIM_BYTES {
            out.truncate(before);
        }
        let queued = !out.is_empty() || queue.sent < queue.ahead.len();
        shared.set(&shared.queued, queued);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use std::task::Waker;

    /// A socket that takes so many bytes and then no more.
    #[derive(Default)]
    struct Socket {
        taken: Vec<u8>,
        room: usize,
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.room);
            if n == 0 && !buf.is_empty() {
                return Poll::Pending;
            }
            self.room -= n;
            self.taken.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What hyper's server does, as far as it matters: it has a buffer, and one request at a time.
    #[derive(Default)]
    struct Server {
        interim: Interim,
        socket: Socket,
        buffer: VecDeque<u8>,
        request: u32,
        turn: Option<(OpenRequest, InterimSender)>,
        /// Chunks of the body at hand that are not in the buffer yet.
        body: u32,
    }

    #[derive(Debug, Clone)]
    enum Event {
        Request,
        Say,
        Continue,
        Respond { body: u32 },
        Chunk,
        Flush { room: usize },
    }

    impl Server {
        fn happen(&mut self, event: Event) {
            match event {
                Event::Request if self.turn.is_none() && self.body == 0 => {
                    self.request += 1;
                    let turn = self.interim.begin();
                    let interim_sender = turn.interim_sender();
                    self.turn = Some((turn, interim_sender));
                }
                Event::Say => {
                    if let Some((_, interim_sender)) = &self.turn {
                        let mut headers = HeaderMap::new();
                        headers.insert("n", self.request.into());
                        interim_sender.say(StatusCode::EARLY_HINTS, &headers);
                    }
                }
                Event::Continue if self.turn.is_some() => {
                    self.buffer.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                Event::Respond { body } if self.turn.is_some() => {
                    self.turn = None;
                    self.buffer.extend(format!("HTTP/1.1 200 OK\r\nn: {}\r\n\r\n", self.request).bytes());
                    self.body = body;
                }
                Event::Chunk if self.body > 0 => {
                    self.body -= 1;
                    self.buffer.extend(b"body");
                }
                Event::Flush { room } => {
                    self.socket.room = room;
                    let _ = self.flush();
                }
                _ => {}
            }
        }

        /// As hyper: writes what it has through the wrapped stream, and flushes it when nothing is
        /// left.
        fn flush(&mut self) -> Poll<io::Result<()>> {
            let mut cx = Context::from_waker(Waker::noop());
            while !self.buffer.is_empty() {
                ready!(self.interim.poll_ahead(&mut self.socket, &mut cx))?;
                let piece = self.buffer.make_contiguous();
                let written = ready!(Pin::new(&mut self.socket).poll_write(&mut cx, piece))?;
                self.interim.wrote();
                self.buffer.drain(..written);
            }
            self.interim.poll_flush(&mut self.socket, &mut cx)
        }
    }

    /// Reads what a client would read, to the end or to where it breaks off; how many interim
    /// responses there were.
    fn read(mut text: &str) -> Result<u32, String> {
        let (mut answered, mut interim) = (0, 0);
        while !text.is_empty() {
            if let Some(rest) = text.strip_prefix("body") {
                // Part of the last response, so one must have begun, and nothing of the next.
                if answered == 0 {
                    return Err(format!("a body of nothing: {text:?}"));
                }
                text = rest;
                continue;
            }
            let Some((head, rest)) = text.split_once("\r\n\r\n") else {
                let begins = "body".starts_with(text) || "HTTP/1.1 ".starts_with(&text[..text.len().min(9)]);
                return if begins { Ok(interim) } else { Err(format!("not a head: {text:?}")) };
            };
            text = rest;
            let n = head.rsplit_once("n: ").map(|(_, n)| n.parse::<u32>().unwrap());
            match &head[..head.len().min(12)] {
                "HTTP/1.1 100" => {}
                "HTTP/1.1 103" if n == Some(answered + 1) => interim += 1,
                "HTTP/1.1 200" if n == Some(answered + 1) => answered += 1,
                _ => return Err(format!("after {answered} responses: {head:?}")),
            }
            // A body may not follow an interim response.
            if !head.starts_with("HTTP/1.1 200") && text.starts_with("body") {
                return Err(format!("a body after {head:?}"));
            }
        }
        Ok(interim)
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            2 => Just(Event::Request),
            2 => Just(Event::Say),
            1 => Just(Event::Continue),
            2 => (0..3_u32).prop_map(|body| Event::Respond { body }),
            2 => Just(Event::Chunk),
            2 => prop_oneof![Just(0), 1..20_usize, Just(1000)].prop_map(|room| Event::Flush { room }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_an_interim_response_stands_before_its_own_response_and_cuts_none(
            events in proptest::collection::vec(event(), 0..60),
        ) {
            let mut server = Server::default();
            for event in events {
                server.happen(event);
            }
            let text = String::from_utf8(server.socket.taken).unwrap();
            prop_assert!(read(&text).is_ok(), "{:?} in {text:?}", read(&text));
        }
    }

    #[test]
    fn one_that_comes_in_time_is_sent_and_one_that_comes_too_late_is_not() {
        let all = Event::Flush { room: 1000 };
        let interim = |events: &[Event]| {
            let mut server = Server::default();
            events.iter().cloned().for_each(|event| server.happen(event));
            read(std::str::from_utf8(&server.socket.taken).unwrap()).unwrap()
        };
        use Event::{Flush, Request, Respond, Say};
        // It came alone; with the response; after a `100 Continue`; twice.
        let response = Respond { body: 0 };
        assert_eq!(interim(&[Request, all.clone(), Say, all.clone()]), 1);
        assert_eq!(interim(&[Request, all.clone(), Say, response.clone(), all.clone()]), 1);
        assert_eq!(interim(&[Request, all.clone(), Event::Continue, all.clone(), Say, all.clone()]), 1);
        assert_eq!(interim(&[Request, all.clone(), Say, Say, response.clone(), all.clone()]), 2);
        // The client still reads the response before.
        let slow = Flush { room: 10 };
        assert_eq!(interim(&[Request, all.clone(), response.clone(), slow, Request, Say, response, all]), 0);
    }

    #[test]
    fn nothing_is_said_that_frames_a_body_or_belongs_to_the_connection_and_not_without_end() {
        let mut server = Server::default();
        server.happen(Event::Request);
        server.happen(Event::Flush { room: 0 });
        let (_, interim_sender) = server.turn.as_ref().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("link", "</a>"), ("content-length", "9"), ("connection", "x"), ("x", "1")] {
            headers.insert(name, value.parse().unwrap());
        }
        interim_sender.say(StatusCode::EARLY_HINTS, &headers);
        let long = "a".repeat(INTERIM_BYTES).parse().unwrap();
        interim_sender.say(StatusCode::EARLY_HINTS, &HeaderMap::from_iter([(http::header::LINK, long)]));
        server.happen(Event::Flush { room: 2 * INTERIM_BYTES });
        assert_eq!(server.socket.taken, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        let late = server.turn.as_ref().unwrap().1.clone();
        server.happen(Event::Respond { body: 0 });
        server.happen(Event::Request);
        server.happen(Event::Flush { room: 1000 });
        let before = server.socket.taken.len();
        late.say(StatusCode::EARLY_HINTS, &HeaderMap::new());
        server.happen(Event::Flush { room: 1000 });
        assert_eq!(server.socket.taken.len(), before, "its request has been answered");
    }
}
