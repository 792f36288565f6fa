//! Which protocol a connection speaks, from its first bytes.
//!
//! Explicit configuration always wins; this is for ports that nobody declared. [`sniff`] is pure and decides as early
//! as the bytes allow: one byte is enough for most opaque protocols, and a request that arrives a byte at a time is
//! still recognised, because [`detect`] keeps reading until it knows, the client stops, or the time-out passes. The bias
//! is towards availability: in doubt a connection is opaque, which always works, only without per-request features.
//!
//! What it leaves out: TLS and HTTP/2 are recognised but carried as opaque bytes.

mod prefixed;

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

pub use prefixed::Prefixed;

/// The client connection preface of RFC 9113 section 3.4, up to where it differs from every HTTP/1 request.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is read at most to decide. An HTTP/1 request line whose method and target do not end within this is carried
/// as opaque bytes; Linkerd's detector looks at 1024 bytes.
const LIMIT: usize = 1024;

/// The longest method that is waited for. The longest registered one is `UPDATEREDIRECTREF` with 17 letters.
const METHOD_LIMIT: usize = 24;

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
pub enum Outcome {
    /// The bytes told.
    Sniffed(Sniffed),
    /// The client was silent for too long; it may be waiting for the server to speak.
    Timeout,
    /// The client closed before it said anything.
    Closed,
}

/// Decides from the bytes so far, or `None` if more could change the answer.
pub fn sniff(bytes: &[u8]) -> Option<Sniffed> {
    let first = *bytes.first()?;
    // A TLS record of type handshake; the major version byte follows.
    if first == 0x16 {
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
        None if method <= METHOD_LIMIT => None,
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
        return if rest.len() > target || rest.len() >= LIMIT { Some(Sniffed::Opaque) } else { None };
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

/// Reads from `io` until the protocol is known, the client closes, or `limit` has passed. Returns the stream with what
/// was read put back in front.
///
/// # Errors
/// If reading fails.
pub async fn detect<I: AsyncRead + Unpin>(
    mut io: I,
    limit: Duration,
) -> std::io::Result<(Outcome, Prefixed<I>)> {
    let mut read = BytesMut::new();
    let outcome = tokio::time::timeout(limit, async {
        loop {
            if let Some(sniffed) = sniff(&read) {
                return Ok(Outcome::Sniffed(sniffed));
            }
            if read.len() >= LIMIT {
                return Ok(Outcome::Sniffed(Sniffed::Opaque));
            }
            read.reserve(LIMIT);
            if io.read_buf(&mut read).await? == 0 {
                // What it did say is for the server, which may still answer: only this half is closed.
                let silent = read.is_empty();
                return Ok(if silent { Outcome::Closed } else { Outcome::Sniffed(Sniffed::Opaque) });
            }
        }
    })
    .await
    .unwrap_or(Ok(Outcome::Timeout));
    outcome.map(|outcome| (outcome, Prefixed::new(read.freeze(), io)))
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
                let (outcome, mut io) = detect(server, Duration::from_secs(1)).await.unwrap();
                let mut all = Vec::new();
                io.read_to_end(&mut all).await.unwrap();
                (outcome, all)
            };
            let ((), (outcome, all)) = tokio::join!(sent, seen);
            assert_eq!(outcome, Outcome::Sniffed(*expected), "{:?}", String::from_utf8_lossy(bytes));
            assert_eq!(all, *bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_early_is_opaque_if_it_said_anything() {
        for (bytes, expected) in [(&b""[..], Outcome::Closed), (b"PING", Outcome::Sniffed(Sniffed::Opaque))] {
            let (outcome, _) = detect(bytes_then_nothing(bytes), Duration::from_secs(1)).await.unwrap();
            assert_eq!(outcome, expected);
        }
    }

    fn bytes_then_nothing(bytes: &'static [u8]) -> impl AsyncRead + Unpin {
        Prefixed::new(bytes::Bytes::from_static(bytes), tokio::io::empty())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_times_out() {
        let (_client, server) = tokio::io::duplex(1);
        let (outcome, _) = detect(server, Duration::from_secs(1)).await.unwrap();
        assert_eq!(outcome, Outcome::Timeout);
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
