//! Frames of HTTP/2 as a client's bytes (RFC 9113 sections 4 and 6, RFC 7541), written by hand
//! because no library writes what is wrong; and what a server says to them, read as far as it tells
//! an answer from a refusal.

use std::collections::BTreeMap;
use std::fmt;

/// A field as it stands in a header block, pseudo-headers included.
pub type Field = (Vec<u8>, Vec<u8>);

/// What a frame holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Frame {
    /// HEADERS. `style` says how the block is written: torn, padded, and each field in which of
    /// HPACK's forms.
    Headers { fields: Vec<Field>, is_end: bool, style: u64 },
    /// DATA, perhaps padded.
    Data { bytes: Vec<u8>, is_end: bool, padding: Option<u8> },
    /// RST_STREAM.
    Reset(u32),
    /// A frame that says nothing about the request.
    Noise(Noise),
}

/// Frames that change no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    Ping,
    Priority,
    WindowUpdate,
    /// Of a type that nobody knows (section 5.5).
    Unknown,
}

/// A frame of a stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Sent {
    pub stream: u32,
    pub frame: Frame,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |is_end| if is_end { ", the last" } else { "" };
        match &self.frame {
            Frame::Headers { fields, is_end, .. } => {
                write!(f, "{}: HEADERS{}", self.stream, end(*is_end))?;
                fields.iter().try_for_each(|(name, value)| {
                    write!(f, " [{}: {}]", name.escape_ascii(), value.escape_ascii())
                })
            }
            Frame::Data { bytes, is_end, .. } => {
                write!(f, "{}: DATA{} [{}]", self.stream, end(*is_end), bytes.escape_ascii())
            }
            Frame::Reset(code) => write!(f, "{}: RST_STREAM {code}", self.stream),
            Frame::Noise(noise) => write!(f, "{}: {noise:?}", self.stream),
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;

/// What a client sends that sends these frames. It allows the server no dynamic table, which keeps
/// [`answers`] simple.
pub fn bytes(sent: &[Sent]) -> Vec<u8> {
    const SETTINGS_HEADER_TABLE_SIZE: u16 = 1;
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let setting = [&SETTINGS_HEADER_TABLE_SIZE.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    write(&mut out, SETTINGS, 0, 0, &setting);
    let mut last = None;
    for Sent { stream, frame } in sent {
        match frame {
            Frame::Headers { fields, is_end, style } => {
                let block = block(fields, *style, &mut last);
                write_block(&mut out, *stream, &block, if *is_end { END_STREAM } else { 0 }, *style);
            }
            Frame::Data { bytes, is_end, padding } => {
                let flags = if *is_end { END_STREAM } else { 0 };
                let (flags, payload) = padded(flags, bytes.clone(), *padding);
                write(&mut out, DATA, flags, *stream, &payload);
            }
            Frame::Reset(code) => write(&mut out, RST_STREAM, 0, *stream, &code.to_be_bytes()),
            Frame::Noise(Noise::Ping) => write(&mut out, PING, 0, 0, b"whatever"),
            Frame::Noise(Noise::Priority) => write(&mut out, PRIORITY, 0, *stream, &[0, 0, 0, 0, 7]),
            Frame::Noise(Noise::WindowUpdate) => write(&mut out, WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
            Frame::Noise(Noise::Unknown) => write(&mut out, 0xfa, 0xff, *stream, b"\0GET / HTTP/1.1\r\n\r\n"),
        }
    }
    out
}

fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn padded(flags: u8, payload: Vec<u8>, padding: Option<u8>) -> (u8, Vec<u8>) {
    match padding {
        Some(n) => (flags | PADDED, [&[n][..], &payload, &vec![0; n.into()]].concat()),
        None => (flags, payload),
    }
}

/// In how many pieces a block of this style is written, at most.
fn pieces(style: u64) -> usize {
    [1, 1, 1, 1, 1, 1, 2, 5][style as usize % 8]
}

/// Whether a block of this style may come in more than one frame.
pub fn is_torn(style: u64) -> bool {
    pieces(style) > 1
}

/// A block in HEADERS and perhaps CONTINUATION frames.
fn write_block(out: &mut Vec<u8>, stream: u32, block: &[u8], mut flags: u8, style: u64) {
    let mut pieces = block.chunks(block.len().div_ceil(pieces(style)).max(1)).peekable();
    let mut payload = pieces.next().unwrap_or_default().to_vec();
    if style & 0x10 != 0 {
        flags |= WITH_PRIORITY;
        payload.splice(..0, [0, 0, 0, 0, 15]);
    }
    let (flags, payload) = padded(flags, payload, (style & 0x20 != 0).then_some((style >> 8) as u8));
    let end = |is_last| if is_last { END_HEADERS } else { 0 };
    write(out, HEADERS, flags | end(pieces.peek().is_none()), stream, &payload);
    while let Some(piece) = pieces.next() {
        write(out, CONTINUATION, end(pieces.peek().is_none()), stream, piece);
    }
}

/// A header block. `last` is what stands first in the dynamic table.
fn block(fields: &[Field], style: u64, last: &mut Option<Field>) -> Vec<u8> {
    /// The static table as far as it is of use here.
    const STATIC: [(&str, &str, u8); 9] = [
        (":authority", "", 1),
        (":method", "GET", 2),
        (":method", "POST", 3),
        (":path", "/", 4),
        (":scheme", "http", 6),
        (":scheme", "https", 7),
        ("content-length", "", 28),
        ("cookie", "", 32),
        ("host", "", 38),
    ];
    const FIRST_DYNAMIC: u8 = 62;
    let mut out = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let form = (style >> (16 + 2 * (i % 16))) & 3;
        let (name, value) = (&field.0[..], &field.1[..]);
        let names = STATIC.iter().find(|known| known.0.as_bytes() == name);
        let whole = STATIC.iter().find(|known| known.0.as_bytes() == name && known.1.as_bytes() == value);
        match (form, whole, names) {
            (0, Some((.., index)), _) if !value.is_empty() => out.push(0x80 | index),
            (0 | 1, ..) if last.as_ref() == Some(field) => out.push(0x80 | FIRST_DYNAMIC),
            (0 | 1, _, Some((.., index))) => {
                out.push(0x40 | index);
                string(&mut out, value);
                *last = Some(field.clone());
            }
            (2, _, Some((.., index))) => {
                integer(&mut out, 0x10, 4, (*index).into());
                string(&mut out, value);
            }
            (form, ..) => {
                out.push([0x40, 0x40, 0x10, 0x00][form as usize]);
                string(&mut out, name);
                string(&mut out, value);
                if form < 2 {
                    *last = Some(field.clone());
                }
            }
        }
    }
    out
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}

/// RFC 7541 section 5.1.
fn integer(out: &mut Vec<u8>, first: u8, bits: u32, mut value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    value -= most;
    while value >= 128 {
        out.push(0x80 | (value % 128) as u8);
        value /= 128;
    }
    out.push(value as u8);
}

/// What a stream was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: Option<u16>,
    pub is_ended: bool,
    pub is_reset: bool,
}

/// What a server has said: of each stream, and why it gave the connection up, if it did.
pub fn answers(mut bytes: &[u8]) -> (BTreeMap<u32, Answer>, Option<String>) {
    let (mut answers, mut over) = (BTreeMap::<u32, Answer>::new(), None);
    while let Some((header, rest)) = bytes.split_first_chunk::<9>() {
        let [l, e, n, kind, flags, a, b, c, d] = *header;
        let len = u32::from_be_bytes([0, l, e, n]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        bytes = rest;
        let answer = answers.entry(u32::from_be_bytes([a, b, c, d])).or_default();
        match kind {
            HEADERS if answer.status.is_none() => answer.status = Some(status(payload)),
            RST_STREAM => answer.is_reset = true,
            GOAWAY if payload[4..8] != [0; 4] => over = Some(payload.escape_ascii().to_string()),
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            answer.is_ended = true;
        }
    }
    (answers, over)
}

/// The status at the start of a header block, without a dynamic table.
fn status(mut block: &[u8]) -> u16 {
    const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    const SHRINKS: u8 = 0x20;
    while let [SHRINKS, rest @ ..] = block {
        block = rest;
    }
    match *block {
        [index @ 0x88..=0x8e, ..] => STATUSES[usize::from(index - 0x88)],
        // A literal with the name of the first of them and three digits in Huffman's code.
        [0x48 | 0x08 | 0x18, 0x82, a, b, ..] => digits(u32::from(a) << 8 | u32::from(b), 16),
        [0x48 | 0x08 | 0x18, 0x83, a, b, c, ..] => digits(u32::from_be_bytes([0, a, b, c]), 24),
        _ => panic!("a block that does not begin with a status: {block:x?}"),
    }
}

/// RFC 7541 appendix B: `0` to `2` take five bits, other digits six.
fn digits(code: u32, mut left: u32) -> u16 {
    let mut number = 0;
    for _ in 0..3 {
        let five = code >> (left - 5) & 0x1f;
        let digit = if five < 3 {
            left -= 5;
            five
        } else {
            left -= 6;
            (code >> left & 0x3f) - 0x19 + 3
        };
        number = number * 10 + digit as u16;
    }
    number
}
