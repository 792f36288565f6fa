//! Inputs: requests that are right, with mistakes.

use super::frames::{Field, Frame, Noise, Sent};
use crate::generate::Chance;

/// Field lines that may stand in any request.
const FIELDS: &[(&str, &[u8])] = &[
    ("x", b"y"),
    ("x", b"z"),
    ("x", b""),
    ("x", b"a\tb"),
    ("x", b"\xe9\xff"),
    ("x", b"\"a: b\""),
    ("x!#$%&'*+-.^_`|~9", b"odd"),
    ("cookie", b"a=1"),
    ("cookie", b"b=2"),
    ("cookie", b""),
    ("te", b"trailers"),
    ("expect", b"100-continue"),
    ("trailer", b"x-sum"),
    ("trailer", b"x-sum, X-Other"),
    ("trailer", b"content-length"),
    ("accept", b"*/*"),
    ("http2-settings", b"AAMAAABkAARAAAAAAAIAAAAA"),
    ("x-request-id", b"1"),
    ("sidelab-orig-proto", b"HTTP/1.0"),
    ("authorization", b"a"),
];

/// Field lines that make a request something else, or none.
const HOSTILE: &[(&str, &[u8])] = &[
    ("connection", b"close"),
    ("connection", b"x"),
    ("transfer-encoding", b"chunked"),
    ("transfer-encoding", b"identity"),
    ("keep-alive", b"timeout=5"),
    ("proxy-connection", b"close"),
    ("upgrade", b"h2c"),
    ("upgrade", b"websocket"),
    ("te", b"gzip"),
    ("te", b"trailers, deflate"),
    ("te", b"Trailers"),
    ("content-length", b"3"),
    ("content-length", b"0"),
    ("content-length", b"+3"),
    ("content-length", b" 3"),
    ("content-length", b"3, 3"),
    ("content-length", b""),
    ("content-length", b"18446744073709551616"),
    ("host", b"a"),
    ("host", b"evil"),
    ("host", b""),
    ("host", b"a:x"),
    ("host", b" a"),
    ("host", b"a,b"),
    ("host", b"a/b"),
    ("x", b" y\t"),
    (":method", b"GET"),
    (":path", b"/evil"),
    (":authority", b"evil"),
    (":protocol", b"websocket"),
    (":status", b"200"),
];

/// Field lines that HPACK carries and no message may hold: whoever takes them for an error of the
/// connection may.
const FATAL: &[(&str, &[u8])] = &[
    ("X", b"y"),
    ("Content-Length", b"3"),
    ("x y", b"z"),
    ("x:", b"y"),
    ("x: y\r\nevil", b"z"),
    ("", b"y"),
    ("x\0", b"y"),
    ("\u{e9}", b"y"),
    ("x", b"y\r\nevil: z"),
    ("x", b"y\nz"),
    ("x", b"\r"),
    ("x", b"\0"),
    ("x", b"y\x7f"),
    (":unknown", b"y"),
    (":", b"y"),
    (":path", b"/\xff"),
    (":method", b"GET / HTTP/1.1\r\nx:"),
    (":method", b""),
];

const PATHS: &[&str] = &[
    "/a?b=c",
    "/a%20b",
    "*",
    "/\u{fc}",
    "/a?{b}|c",
    "/{b}|c",
    "/\"",
    "/a?\"",
    "//evil/b",
    "/#a",
    "/a?b#c",
    "#a",
    "x",
    "",
    "?a",
    "/a`^",
    "/a?`^",
    "/a b",
    "/ HTTP/1.1\r\nevil: x\r\n\r\n",
    "/\tb",
    "/a\\b",
    "/<",
    "/a?<",
    "http://evil/",
    "/\0",
    "/\x7f",
];
const AUTHORITIES: &[&str] = &[
    "orders:8080",
    "a:",
    "a:65535",
    "a:65536",
    "a:-1",
    "a:x",
    "u@a",
    "@a",
    "a,b",
    "a b",
    "",
    "[::1]:80",
    "[::1",
    "[a]",
    "a%41",
    "A-b_c~d;e",
    "a/b",
    "a?b",
    "a#b",
    "a\r\nevil: x",
    "\u{fc}",
    ":80",
];
const SCHEMES: &[&str] = &["https", "ftp", "HTTP", "", "a b", "http:", "1"];
const METHODS: &[&str] =
    &["POST", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "get", "M-SEARCH", "CONNECT", "TRACE"];
const BODIES: &[&str] = &[
    "h",
    "hello",
    "\n\n",
    "0\r\n\r\n",
    "GET /x HTTP/1.1\r\nhost: a\r\n\r\n",
    "\r\n0\r\n\r\nGET /y HTTP/1.1\r\n\r\n",
];
const TRAILERS: &[(&str, &[u8])] = &[
    ("x-sum", b"1"),
    ("x-sum", b"2"),
    ("x-other", b" 3 "),
    ("y", b"4"),
    ("content-length", b"1"),
    ("host", b"evil"),
    ("te", b"trailers"),
    ("grpc-status", b"0"),
    ("trailer", b"y"),
];

/// Frames of a few requests on one connection.
pub fn requests(chance: &mut Chance) -> Vec<Sent> {
    let mut streams = Vec::new();
    for n in 0..=chance.below(4) as u32 {
        let mut frames = request(chance, 2 * n + 1);
        frames.reverse();
        streams.push((2 * n + 1, frames));
    }
    if chance.below(40) == 0 {
        // Neither may be: an even number, and one that is lower than those before.
        let (stream, _) = streams.last_mut().expect("there is one");
        *stream = if *stream > 1 && chance.below(2) == 0 { *stream - 2 } else { *stream + 1 };
    }
    interleave(chance, streams)
}

/// Mixes the frames of streams, which begin in turn.
fn interleave(chance: &mut Chance, mut streams: Vec<(u32, Vec<Frame>)>) -> Vec<Sent> {
    let (mut sent, mut begun) = (Vec::new(), 0);
    loop {
        let open: Vec<_> = (0..begun).filter(|i| !streams[*i].1.is_empty()).collect();
        let next = match (open.is_empty(), begun == streams.len()) {
            (true, true) => return sent,
            (false, is_last) if is_last || chance.below(2) == 0 => open[chance.below(open.len())],
            _ => {
                begun += 1;
                begun - 1
            }
        };
        let (stream, frames) = &mut streams[next];
        if let Some(frame) = frames.pop() {
            sent.push(Sent { stream: *stream, frame });
        }
    }
}

/// The frames of one stream.
fn request(chance: &mut Chance, stream: u32) -> Vec<Frame> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    if chance.below(2) == 0 {
        for _ in 0..=chance.below(2) {
            parts.push(chance.one(BODIES).as_bytes().to_vec());
        }
        if chance.below(6) == 0 {
            parts.insert(chance.below(parts.len() + 1), Vec::new());
        }
    }
    let length: usize = parts.iter().map(Vec::len).sum();
    let head = head(chance, stream, length);
    let trailers = (chance.below(4) == 0).then(|| trailers(chance));
    let mut frames = vec![Frame::Headers { fields: head, is_end: false, style: chance.next() }];
    for bytes in parts {
        if chance.below(16) == 0 {
            frames.push(Frame::Noise(noise(chance)));
        }
        let padding = (chance.below(4) == 0).then(|| chance.next() as u8);
        frames.push(Frame::Data { bytes, is_end: false, padding });
    }
    if let Some(fields) = trailers {
        frames.push(Frame::Headers { fields, is_end: false, style: chance.next() });
    }
    // Most come to their end, and some then go on.
    match chance.below(16) {
        0 => {}
        1 => frames.push(Frame::Reset([0, 8][chance.below(2)])),
        2 => end(&mut frames, Some(chance)),
        _ => end(&mut frames, None),
    }
    match chance.below(48) {
        0 => frames.push(Frame::Reset(8)),
        1 => frames.push(Frame::Data { bytes: b"more".to_vec(), is_end: true, padding: None }),
        _ => {}
    }
    frames
}

/// Ends a stream with its last frame, or any.
fn end(frames: &mut [Frame], chance: Option<&mut Chance>) {
    let last = frames.len() - 1;
    let at = chance.map_or(last, |chance| chance.below(frames.len()));
    match &mut frames[at] {
        Frame::Headers { is_end, .. } | Frame::Data { is_end, .. } => *is_end = true,
        Frame::Reset(_) | Frame::Noise(_) => {}
    }
}

fn noise(chance: &mut Chance) -> Noise {
    [Noise::Ping, Noise::Priority, Noise::WindowUpdate, Noise::Unknown][chance.below(4)]
}

/// The head of a request whose body has `length` bytes.
fn head(chance: &mut Chance, stream: u32, length: usize) -> Vec<Field> {
    let method = mostly(chance, if length > 0 { "POST" } else { "GET" }, METHODS);
    let scheme = mostly(chance, "http", SCHEMES);
    let authority = mostly(chance, "orders", AUTHORITIES);
    let path = mostly(chance, "/", PATHS);
    let mut fields = vec![
        of(":method", method.as_bytes()),
        of(":scheme", scheme.as_bytes()),
        of(":authority", authority.as_bytes()),
        of(":path", path.as_bytes()),
        of("sidelab-orig-proto", b"HTTP/1.1"),
        of("x-stream", stream.to_string().as_bytes()),
    ];
    if method == "CONNECT" && chance.below(2) == 0 {
        fields.drain(1..2);
        fields.drain(2..3);
    }
    for _ in 0..chance.below(5) {
        let (name, value) = FIELDS[chance.below(FIELDS.len())];
        fields.insert(4.min(fields.len()) + chance.below(fields.len() - 3), of(name, value));
    }
    if chance.below(200) == 0 {
        fields.extend((0..130).map(|n| of(if n % 2 == 0 { "x" } else { "z" }, b"")));
    }
    match chance.below(16) {
        0..6 => fields.push(of("content-length", length.to_string().as_bytes())),
        6 => fields.extend([(); 2].map(|()| of("content-length", length.to_string().as_bytes()))),
        7 => {
            let wrong = [length + 1, length.saturating_sub(1), 0][chance.below(3)];
            fields.push(of("content-length", wrong.to_string().as_bytes()));
        }
        _ => {}
    }
    spoil(chance, &mut fields);
    fields
}

fn mostly(chance: &mut Chance, usual: &'static str, others: &[&'static str]) -> &'static str {
    if chance.below(8) == 0 { chance.one(others) } else { usual }
}

/// Makes mistakes now and then.
fn spoil(chance: &mut Chance, fields: &mut Vec<Field>) {
    match chance.below(16) {
        0 => drop(fields.remove(chance.below(4.min(fields.len())))),
        1 => {
            let last = fields.len() - 1;
            fields.swap(chance.below(last.min(4)), last);
        }
        2 | 3 => {
            let (name, value) = HOSTILE[chance.below(HOSTILE.len())];
            fields.insert(chance.below(fields.len() + 1), of(name, value));
        }
        4 if chance.below(4) == 0 => {
            let (name, value) = FATAL[chance.below(FATAL.len())];
            fields.insert(chance.below(fields.len() + 1), of(name, value));
        }
        5 => {
            fields.retain(|(name, _)| name != b":authority");
            let host = if chance.below(4) == 0 { chance.one(AUTHORITIES) } else { "orders" };
            fields.push(of("host", host.as_bytes()));
        }
        _ => {}
    }
}

fn trailers(chance: &mut Chance) -> Vec<Field> {
    let mut fields = Vec::new();
    for _ in 0..=chance.below(3) {
        let (name, value) = TRAILERS[chance.below(TRAILERS.len())];
        fields.push(of(name, value));
    }
    match chance.below(24) {
        0 | 1 => {
            let (name, value) = HOSTILE[chance.below(HOSTILE.len())];
            fields.insert(chance.below(fields.len() + 1), of(name, value));
        }
        2 if chance.below(4) == 0 => {
            let (name, value) = FATAL[chance.below(FATAL.len())];
            fields.insert(chance.below(fields.len() + 1), of(name, value));
        }
        _ => {}
    }
    fields
}

fn of(name: &str, value: &[u8]) -> Field {
    (name.as_bytes().to_vec(), value.to_vec())
}
