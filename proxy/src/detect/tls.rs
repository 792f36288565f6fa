//! What a TLS ClientHello says in the clear: the server's name and the protocols that the client
//! offers.
//!
//! Pure, and bounded by the message's own length of at most 16 KiB: a message may be spread over
//! several records (RFC 8446 section 5.1) and arrive in any pieces. An app's own TLS is passed
//! through untouched; this only reads.
//!
//! What it leaves out: everything else. A message that is odd in other ways is the server's to
//! refuse.

use std::borrow::Cow;

use crate::config::names::is_server_name;

/// The longest message that is read, its header included. Post-quantum key shares make some of 2
/// KiB; OpenSSL refuses more than 16 KiB.
const MESSAGE_LIMIT: usize = 16 * 1024;
/// How many records may carry it. A browser uses one or two; without a limit, records of one byte
/// would make six bytes to read of each that counts.
const RECORD_LIMIT: usize = 64;
/// How much is read at most to see the whole message.
pub const READ_LIMIT: usize = MESSAGE_LIMIT + RECORD_LIMIT * RECORD_HEADER;

/// Type, version, length: RFC 8446 section 5.1.
const RECORD_HEADER: usize = 5;
/// Type and length: RFC 8446 section 4.
const MESSAGE_HEADER: usize = 4;

/// A ClientHello, as far as it is of interest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The name of the server that the client wants (SNI, RFC 6066 section 3), in lower case and
    /// without a final dot.
    pub server_name: Option<String>,
    /// The protocols that the client offers (ALPN, RFC 7301), in its order.
    pub alpn: Vec<Vec<u8>>,
}

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a ClientHello.
    Incomplete,
    /// No ClientHello that could be read, whatever follows.
    Unreadable,
    /// One. What follows it does not matter.
    Complete(ClientHello),
}

/// Reads a ClientHello from the first bytes of a connection. More bytes change the answer only if
/// it is [`Hello::Incomplete`].
pub fn client_hello(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Ok(Some(message)) => read_message(&message).map_or(Hello::Unreadable, Hello::Complete),
        Ok(None) => Hello::Incomplete,
        Err(Malformed) => Hello::Unreadable,
    }
}

struct Malformed;

/// The message without its header, put together from its records, or `None` if some of it is
/// missing.
fn message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Malformed> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    for _ in 0..RECORD_LIMIT {
        // Each byte is judged as soon as it is there, so that no answer depends on how many follow.
        match rest {
            [kind, ..] if *kind != 0x16 => return Err(Malformed),
            [_, major, ..] if *major != 3 => return Err(Malformed),
            _ => {}
        }
        let Some((header, body)) = rest.split_at_checked(RECORD_HEADER) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > 1 << 14 {
            return Err(Malformed);
        }
        let (part, following) = body.split_at(length.min(body.len()));
        if message.is_empty() {
            message = Cow::Borrowed(part);
        } else {
            message.to_mut().extend_from_slice(part);
        }
        if message.first().is_some_and(|kind| *kind != 1) {
            return Err(Malformed);
        }
        if let Some(&[_, a, b, c]) = message.get(..MESSAGE_HEADER) {
            let end = MESSAGE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
            if end > MESSAGE_LIMIT {
                return Err(Malformed);
            }
            if message.len() >= end {
                return Ok(Some(match message {
                    Cow::Borrowed(message) => Cow::Borrowed(&message[MESSAGE_HEADER..end]),
                    Cow::Owned(message) => Cow::Owned(message[MESSAGE_HEADER..end].to_vec()),
                }));
            }
        }
        if part.len() < length {
            return Ok(None);
        }
        rest = following;
    }
    Err(Malformed)
}

/// RFC 8446 section 4.1.2, the same in every version since TLS 1.0. `None` if it is cut short or
/// contradicts itself.
fn read_message(message: &[u8]) -> Option<ClientHello> {
    let mut rest = message;
    take(&mut rest, 2 + 32)?;
    take_vector::<1>(&mut rest)?;
    take_vector::<2>(&mut rest)?;
    take_vector::<1>(&mut rest)?;
    let mut hello = ClientHello::default();
    if rest.is_empty() {
        return Some(hello);
    }
    let mut extensions = take_vector::<2>(&mut rest)?;
    let (mut named, mut offered) = (false, false);
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2)?;
        let body = take_vector::<2>(&mut extensions)?;
        match kind {
            // Two of one kind are forbidden, and one might be shown to us and the other be meant
            // for the server.
            [0, 0] if std::mem::replace(&mut named, true) => return None,
            [0, 16] if std::mem::replace(&mut offered, true) => return None,
            [0, 0] => hello.server_name = server_name(body)?,
            [0, 16] => hello.alpn = protocols(body)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The host name of an SNI extension; the inner `None` if it has none that is a host's name.
fn server_name(mut body: &[u8]) -> Option<Option<String>> {
    let mut list = take_vector::<2>(&mut body)?;
    while !list.is_empty() {
        let kind = take(&mut list, 1)?;
        let name = take_vector::<2>(&mut list)?;
        if kind == [0] {
            let name = name.strip_suffix(b".").unwrap_or(name);
            let text = std::str::from_utf8(name).ok().filter(|_| is_server_name(name));
            return Some(text.map(str::to_ascii_lowercase));
        }
    }
    Some(None)
}

fn protocols(mut body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = take_vector::<2>(&mut body)?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        protocols.push(take_vector::<1>(&mut list)?.to_vec());
    }
    Some(protocols)
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, following) = rest.split_at_checked(n)?;
    *rest = following;
    Some(taken)
}

/// A vector whose length stands before it in `L` bytes: RFC 8446 section 3.4.
fn take_vector<'a, const L: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take(rest, L)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    take(rest, length)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector<const L: usize>(body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32).to_be_bytes();
        [&length[4 - L..], body].concat()
    }

    fn extension(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[0, kind][..], &vector::<2>(body)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(0, &vector::<2>(&[&[0][..], &vector::<2>(name)].concat()))
    }

    /// A ClientHello with these extensions, in records of at most `size` bytes.
    fn hello(extensions: &[Vec<u8>], size: usize) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector::<1>(&[8; 32]),
            &vector::<2>(&[0x13, 1, 0x13, 2]),
            &vector::<1>(&[0]),
            &vector::<2>(&extensions.concat()),
        ]
        .concat();
        let message = [&[1][..], &vector::<3>(&body)].concat();
        message.chunks(size).flat_map(|part| [&[0x16, 3, 1][..], &vector::<2>(part)].concat()).collect()
    }

    /// A ClientHello for `name`, also for the tests of whoever reads it from a stream.
    pub(in crate::detect) fn hello_for(name: &str, size: usize) -> Vec<u8> {
        let alpn = extension(16, &vector::<2>(&[vector::<1>(b"h2"), vector::<1>(b"http/1.1")].concat()));
        hello(&[extension(43, &[2, 3, 4]), sni(name.as_bytes()), alpn], size)
    }

    fn expected(name: &str) -> Hello {
        let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Hello::Complete(ClientHello { server_name: Some(name.into()), alpn })
    }

    #[test]
    fn name_and_protocols_are_read_however_the_message_is_cut() {
        for size in [3, 7, 100, 1 << 14] {
            let bytes = hello_for("DB.Example.", size);
            for end in 0..bytes.len() {
                assert_eq!(
                    client_hello(&bytes[..end]),
                    Hello::Incomplete,
                    "{end} of {} by {size}",
                    bytes.len()
                );
            }
            assert_eq!(client_hello(&bytes), expected("db.example"));
            assert_eq!(client_hello(&[&bytes[..], b"\x17and more"].concat()), expected("db.example"));
        }
    }

    #[test]
    fn a_hello_without_extensions_or_with_an_address_as_name_has_no_name() {
        for extensions in [vec![], vec![sni(b"no name, this")], vec![sni(b"")], vec![sni(b"a..b")]] {
            assert_eq!(client_hello(&hello(&extensions, 100)), Hello::Complete(ClientHello::default()));
        }
    }

    #[test]
    fn what_cannot_be_a_hello_is_known_at_the_first_wrong_byte() {
        let good = hello_for("a.example", 1 << 14);
        for (at, byte) in [(0, 0x17), (1, 2), (5, 2)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(client_hello(&bad[..at]), Hello::Incomplete);
            assert_eq!(client_hello(&bad[..at + 1]), Hello::Unreadable);
        }
        assert_eq!(client_hello(b"\x16\x03\x01\0\0"), Hello::Unreadable, "an empty record");
        assert_eq!(client_hello(b"\x16\x03\x01\x02\0\x01\0\x40\0"), Hello::Unreadable, "over 16 KiB");
        assert_eq!(client_hello(&hello_for("a.example", 1)), Hello::Unreadable, "too many records");
        let twice = hello(&[sni(b"a.example"), sni(b"b.example")], 1 << 14);
        assert_eq!(client_hello(&twice), Hello::Unreadable, "two names");
    }

    proptest! {
        #[test]
        fn damage_never_makes_it_panic_and_more_bytes_never_change_an_answer(
            at in 0..200_usize, byte: u8, size in 3..300_usize, cut in 0..200_usize,
        ) {
            let mut bytes = hello_for("a.example", size);
            let length = bytes.len();
            bytes[at % length] = byte;
            let early = client_hello(&bytes[..cut % length]);
            if early != Hello::Incomplete {
                prop_assert_eq!(client_hello(&bytes), early);
            }
        }
    }
}
