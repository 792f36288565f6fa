//! Which protocol a connection speaks, from its first bytes.
//!
//! Explicit configuration always wins; this is for ports that nobody declared. [`sniff`] is pure
//! and decides as early as the bytes allow: one byte is enough for most opaque protocols, and a
//! request that arrives a byte at a time is still recognised, because [`detect`] keeps reading
//! until it knows, the client stops, or the timeout passes. The bias is towards availability: in
//! doubt a connection is opaque, which always works, only without per-request features.
//!
//! Of TLS the ClientHello is read too ([`tls`]), for the server's name. Where the server may speak
//! first, [`race`] listens to it as well.
//!
//! What it leaves out: HTTP/2 is recognised, and whoever asked decides what becomes of it.

mod prefixed;
pub mod race;
pub mod tls;

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::config::defaults::{DETECT_BYTES, DETECT_MOST};
use crate::mutant::Mutant;
use crate::telemetry::DetectionResult;
pub use prefixed::Prefixed;
use tls::{ClientHello, Hello};

/// The client connection preface of RFC 9113 section 3.4, up to where it differs from every HTTP/1
/// request.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is waited for. The longest registered one is `UPDATEREDIRECTREF` with 17
/// letters.
const METHOD_LIMIT: usize = 24;

/// The first byte of a TLS record of type handshake.
const HANDSHAKE: u8 = 0x16;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sniffed {
    /// An HTTP/1.x request line.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS ClientHello.
    Tls,
    /// None of these.
    Opaque,
}

/// What ended a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Detection {
    /// The bytes told.
    Sniffed(Sniffed),
    /// The client was silent for too long; it may be waiting for the server to speak.
    Timeout,
    /// The client closed before it said anything.
    Closed,
    /// The server spoke while the client was silent.
    ServerFirst,
    /// The server is known to speak first, so nobody waited for the client.
    KnownServerFirst,
}

impl Detection {
    /// As it is counted.
    pub fn result(self) -> DetectionResult {
        match self {
            Detection::Sniffed(Sniffed::Http1) => DetectionResult::Http1,
            Detection::Sniffed(Sniffed::Http2) => DetectionResult::Http2,
            Detection::Sniffed(Sniffed::Tls) => DetectionResult::Tls,
            Detection::Sniffed(Sniffed::Opaque) => DetectionResult::Opaque,
            Detection::Timeout => DetectionResult::Timeout,
            Detection::Closed => DetectionResult::Closed,
            Detection::ServerFirst => DetectionResult::ServerFirst,
            Detection::KnownServerFirst => DetectionResult::KnownServerFirst,
        }
    }
}

/// What a detection found.
#[derive(Debug)]
pub struct Detected<I> {
    /// What ended it.
    pub outcome: Detection,
    /// The ClientHello, if the client speaks TLS and it could be read.
    pub hello: Option<ClientHello>,
    /// The client's stream, with what was read put back in front.
    pub client: Prefixed<I>,
}

/// Decides from the bytes so far, or `None` if more could change the answer.
pub fn sniff(bytes: &[u8]) -> Option<Sniffed> {
    let first = *bytes.first()?;
    // The major version byte follows.
    if first == HANDSHAKE {
        return match bytes.get(1) {
            None => None,
            Some(3) => Some(Sniffed::Tls),
            Some(_) => Some(Sniffed::Opaque),
        };
    }
    let known = bytes.len().min(H2_PREFACE.len());
    if bytes[..known] == H2_PREFACE[..known] {
        return (known == H2_PREFACE.len()).then_some(Sniffed::Http2);
    }
    let method = bytes.iter().take_while(|b| is_token(**b)).count();
    match bytes.get(method) {
        None if method <= METHOD_LIMIT && !Mutant::SniffsOnePortion.is_planted() => None,
        Some(b' ') if (1..=METHOD_LIMIT).contains(&method) => sniff_target(&bytes[method + 1..]),
        _ => Some(Sniffed::Opaque),
    }
}

/// After the method: a target without spaces or controls, a space, `HTTP/1.`, a digit.
fn sniff_target(rest: &[u8]) -> Option<Sniffed> {
    let target = rest.iter().take_while(|b| **b > b' ' && **b != 0x7f).count();
    if target == 0 && !rest.is_empty() {
        return Some(Sniffed::Opaque);
    }
    let Some((b' ', version)) = rest[target..].split_first().map(|(b, rest)| (*b, rest)) else {
        return if rest.len() > target || rest.len() >= DETECT_MOST { Some(Sniffed::Opaque) } else { None };
    };
    const VERSION: &[u8] = b"HTTP/1.";
    let known = version.len().min(VERSION.len());
    if version[..known] != VERSION[..known] {
        return Some(Sniffed::Opaque);
    }
    version
        .get(VERSION.len())
        .map(|minor| if minor.is_ascii_digit() { Sniffed::Http1 } else { Sniffed::Opaque })
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads from `io` until the protocol is known, the client closes, or `limit` has passed. Returns
/// the stream with what was read put back in front.
///
/// # Errors
/// If reading fails.
pub async fn detect<I: AsyncRead + Unpin>(io: I, limit: Duration) -> io::Result<Detected<I>> {
    Reader::new(io).detect(limit).await
}

/// A client's stream and what it has said so far.
#[derive(Debug)]
pub struct Reader<I> {
    io: I,
    read: BytesMut,
    closed: bool,
    hello: Option<ClientHello>,
    only_tls: bool,
}

impl<I: AsyncRead + Unpin> Reader<I> {
    /// Of a client that may speak anything.
    pub fn new(io: I) -> Self {
        Reader { io, read: BytesMut::new(), closed: false, hello: None, only_tls: false }
    }

    /// Of a client that speaks TLS, or else what was declared: HTTP is as opaque as the rest, and
    /// nothing waits for the end of a word that it may begin with.
    pub fn of_tls(io: I) -> Self {
        Reader { only_tls: true, ..Reader::new(io) }
    }

    /// Finds out what it is within `limit`. See [`detect`].
    ///
    /// # Errors
    /// As [`detect`].
    pub async fn detect(mut self, limit: Duration) -> io::Result<Detected<I>> {
        let outcome = self.decide_until(Instant::now() + limit).await?;
        Ok(self.end_or_time_out(outcome))
    }

    /// Whether the client has said nothing yet.
    fn is_silent(&self) -> bool {
        self.read.is_empty() && !self.closed
    }

    /// Reads once. Nothing is lost if the future is dropped.
    async fn fill(&mut self) -> io::Result<()> {
        self.read.reserve(DETECT_BYTES);
        self.closed = self.io.read_buf(&mut self.read).await? == 0;
        Ok(())
    }

    /// Reads until something is known; `None` if it is not by `deadline`. May be called again.
    async fn decide_until(&mut self, deadline: Instant) -> io::Result<Option<Detection>> {
        let decide = async {
            loop {
                if let Some(outcome) = self.judge() {
                    return Ok(Some(outcome));
                }
                self.fill().await?;
            }
        };
        timeout_at(deadline, decide).await.unwrap_or(Ok(None))
    }

    /// A read may bring more than the limit; without the cut the answer would depend on how the
    /// bytes came in pieces.
    fn sniff(&self) -> Option<Sniffed> {
        if self.only_tls && self.read.first().is_some_and(|first| *first != HANDSHAKE) {
            return Some(Sniffed::Opaque);
        }
        sniff(&self.read[..self.read.len().min(DETECT_MOST)])
    }

    /// What is known from what was read.
    fn judge(&mut self) -> Option<Detection> {
        match self.sniff() {
            Some(Sniffed::Tls) => match tls::client_hello(&self.read) {
                Hello::Incomplete if self.read.len() < tls::READ_LIMIT && !self.closed => None,
                Hello::Complete(hello) => {
                    self.hello = Some(hello);
                    Some(Detection::Sniffed(Sniffed::Tls))
                }
                _ => Some(Detection::Sniffed(Sniffed::Tls)),
            },
            Some(sniffed) => Some(Detection::Sniffed(sniffed)),
            None if self.closed && self.read.is_empty() => Some(Detection::Closed),
            // What it did say is for the server, which may still answer: only this half is closed.
            None if self.closed || self.read.len() >= DETECT_MOST => {
                Some(Detection::Sniffed(Sniffed::Opaque))
            }
            None => None,
        }
    }

    fn end(self, outcome: Detection) -> Detected<I> {
        Detected { outcome, hello: self.hello, client: Prefixed::new(self.read.freeze(), self.io) }
    }

    /// Ends without an outcome: the time was up. A hello that did not come to its end is TLS all
    /// the same.
    fn end_or_time_out(self, outcome: Option<Detection>) -> Detected<I> {
        let late = match self.sniff() {
            Some(sniffed) => Detection::Sniffed(sniffed),
            None => Detection::Timeout,
        };
        self.end(outcome.unwrap_or(late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[(&[u8], Sniffed)] = &[
        (b"GET / HTTP/1.1\r\n", Sniffed::Http1),
        (b"GET / HTTP/1.0\r\n", Sniffed::Http1),
        (b"PRIMATE /x HTTP/1.1\r\n", Sniffed::Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Sniffed::Http1),
        (b"CONNECT a:443 HTTP/1.1\r\n", Sniffed::Http1),
        (H2_PREFACE, Sniffed::Http2),
        (b"PRI * HTTP/1.1\r\n", Sniffed::Http1),
        (b"\x16\x03\x01\x02\x00", Sniffed::Tls),
        (b"\x16\x02\x01", Sniffed::Opaque),
        (b"GET / HTTP/3.0\r\n", Sniffed::Opaque),
        (b"GET /  HTTP/1.1\r\n", Sniffed::Opaque),
        (b"GET\r\n", Sniffed::Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Sniffed::Opaque),
        (b"EHLO client.example\r\n", Sniffed::Opaque),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Sniffed::Opaque),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Sniffed::Opaque),
        (b" GET / HTTP/1.1\r\n", Sniffed::Opaque),
        (b"AVERYLONGWORDTHATISNOMETHODATALL", Sniffed::Opaque),
    ];

    #[test]
    fn known_openings_are_told_apart() {
        for (bytes, expected) in TABLE {
            assert_eq!(sniff(bytes), Some(*expected), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_opening_that_arrives_a_byte_at_a_time_is_recognised_and_nothing_is_lost() {
        use tokio::io::AsyncWriteExt;
        for (bytes, expected) in TABLE {
            let (mut client, server) = tokio::io::duplex(1);
            let sent = async {
                client.write_all(bytes).await.unwrap();
                drop(client);
            };
            let seen = async {
                let Detected { outcome, mut client, .. } =
                    detect(server, Duration::from_secs(1)).await.unwrap();
                let mut all = Vec::new();
                client.read_to_end(&mut all).await.unwrap();
                (outcome, all)
            };
            let ((), (outcome, all)) = tokio::join!(sent, seen);
            assert_eq!(outcome, Detection::Sniffed(*expected), "{:?}", String::from_utf8_lossy(bytes));
            assert_eq!(all, *bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_early_is_opaque_if_it_said_anything() {
        for (bytes, expected) in
            [(&b""[..], Detection::Closed), (b"PING", Detection::Sniffed(Sniffed::Opaque))]
        {
            let found = detect(bytes_then_nothing(bytes), Duration::from_secs(1)).await.unwrap();
            assert_eq!(found.outcome, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_only_tls_is_looked_for_one_other_byte_is_enough() {
        use tokio::io::AsyncWriteExt;
        let hello = tls::tests::hello_for("db.example", 50);
        let cases: [(&[u8], Option<Sniffed>); 6] = [
            (b"a", Some(Sniffed::Opaque)),
            (b"GET / HTTP/1.1\r\n", Some(Sniffed::Opaque)),
            (H2_PREFACE, Some(Sniffed::Opaque)),
            (b"\x16\x02", Some(Sniffed::Opaque)),
            (b"\x16", None),
            (&hello, Some(Sniffed::Tls)),
        ];
        for (said, expected) in cases {
            let (mut client, server) = tokio::io::duplex(1 << 10);
            client.write_all(said).await.unwrap();
            let begun = Instant::now();
            let mut reader = Reader::of_tls(server);
            let outcome = reader.decide_until(begun + Duration::from_secs(1)).await.unwrap();
            assert_eq!(outcome, expected.map(Detection::Sniffed), "{said:?}");
            assert_eq!(begun.elapsed().is_zero(), expected.is_some());
        }
    }

    fn bytes_then_nothing(bytes: &'static [u8]) -> impl AsyncRead + Unpin {
        Prefixed::new(bytes::Bytes::from_static(bytes), tokio::io::empty())
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_name_is_read_from_a_hello_in_pieces_and_a_hello_without_end_is_still_tls() {
        use tokio::io::AsyncWriteExt;
        let hello = tls::tests::hello_for("db.example", 50);
        for (said, name) in [(&hello[..], Some("db.example")), (&hello[..99], None)] {
            let (mut client, server) = tokio::io::duplex(1);
            let (found, sent) = tokio::join!(detect(server, Duration::from_secs(1)), client.write_all(said));
            sent.unwrap();
            let mut found = found.unwrap();
            assert_eq!(found.outcome, Detection::Sniffed(Sniffed::Tls));
            assert_eq!(found.hello.and_then(|hello| hello.server_name).as_deref(), name);
            drop(client);
            let mut all = Vec::new();
            found.client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, said);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_times_out() {
        let (_client, server) = tokio::io::duplex(1);
        let found = detect(server, Duration::from_secs(1)).await.unwrap();
        assert_eq!(found.outcome, Detection::Timeout);
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut answer = None;
            for end in 0..=bytes.len() {
                let now = sniff(&bytes[..end]);
                if answer.is_some() {
                    prop_assert_eq!(now, answer);
                }
                answer = now;
            }
        }
    }
}
