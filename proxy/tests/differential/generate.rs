//! Inputs: messages that are right, with mistakes.

/// A small source of chance, the same on every machine.
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Chance(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }

    /// One of these.
    pub fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const FIELDS: &[&str] = &[
    "Host: a",
    "X: y",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: x, Close",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "TE: trailers",
    "Trailer: x",
    "X:\ty \t",
    "X: \u{e9}",
    "Accept:",
    "content-length : 1",
];
const LENGTHS: &[&str] = &["Content-Length: ", "content-length:", "CONTENT-LENGTH:\t"];
const CODINGS: &[&str] = &[
    "Transfer-Encoding: chunked",
    "transfer-encoding: ChunkeD",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding:\tchunked ",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: chunked, chunked",
];
const SPICE: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "#",
    "0",
    "1",
    "f",
    "\x7f",
    "\x0b",
    "\u{fc}",
    "\r\n\r\n",
    "\"",
    "<",
    "HTTP/1.1",
    "GET / HTTP/1.1\r\n",
    "0\r\n\r\n",
    "Content-Length: 1\r\n",
    "Transfer-Encoding: chunked\r\n",
    "+",
    "-",
    "x",
];

/// A few requests, behind a byte that says how they are torn.
pub fn requests(chance: &mut Chance) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..=chance.below(3) {
        let method = chance
            .one(&["GET", "GET", "POST", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "get", "M-SEARCH"]);
        let target = chance.one(&[
            "/",
            "/a?b=c",
            "*",
            "http://a/b",
            "a:80",
            "/a%20b",
            "/\u{fc}",
            "/a?{b}|c",
            "/\"",
            "/a?\"",
            "//",
            "/#a",
            "x",
            "/a`^",
        ]);
        let version = chance.one(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2"]);
        text += &format!("{method} {target} {version}\r\n");
        message(chance, &mut text);
    }
    spoil(chance, text)
}

/// A response, perhaps after interim ones.
pub fn response(chance: &mut Chance) -> Vec<u8> {
    let mut text = String::new();
    while chance.below(8) == 0 {
        text += chance.one(&["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"]);
    }
    let version = chance.one(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]);
    let status = chance.one(&[
        "200 OK",
        "200 OK",
        "200",
        "200 ",
        "204 No Content",
        "304 Not Modified",
        "404 \u{fc}",
        "101 Switching",
        "500 x",
        "99 x",
        "1000 x",
        "999 x",
        "205 Reset",
    ]);
    text += &format!("{version} {status}\r\n");
    message(chance, &mut text);
    spoil(chance, text)
}

/// The fields and the body of a message.
fn message(chance: &mut Chance, text: &mut String) {
    for _ in 0..chance.below(3) {
        *text += chance.one(FIELDS);
        *text += "\r\n";
    }
    let body = chance.one(&["", "h", "hello", "\n\n", "0\r\n\r\n", "GET /x HTTP/1.1\r\n\r\n"]);
    match chance.below(4) {
        0 => *text += "\r\n",
        1 => {
            let length = chance.one(LENGTHS);
            *text += &format!("{length}{}\r\n\r\n{body}", body.len());
        }
        2 if chance.below(8) == 0 => {
            let (length, coding) = (chance.one(LENGTHS), chance.one(CODINGS));
            *text += &format!("{length}{}\r\n{coding}\r\n\r\n{body}", body.len());
        }
        _ => {
            let coding = if chance.below(3) == 0 { chance.one(CODINGS) } else { CODINGS[0] };
            *text += &format!("{coding}\r\n\r\n");
            for _ in 0..chance.below(3) {
                let body = if body.is_empty() { "x" } else { body };
                let extension = chance.one(&["", "", "", ";a", " ;a=\"b\"", "\t", " x"]);
                *text += &format!("{:x}{extension}\r\n{body}\r\n", body.len());
            }
            let trailers = chance.one(&["", "", "x: y\r\n", "content-length: 1\r\n", "x y\r\n", ": z\r\n"]);
            *text += &format!("0\r\n{trailers}\r\n");
        }
    }
}

/// Makes up to three mistakes.
fn spoil(chance: &mut Chance, text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    for _ in 0..chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let until = (at + chance.below(4)).min(bytes.len());
        let spice = chance.one(SPICE).as_bytes().to_vec();
        match chance.below(4) {
            0 => drop(bytes.drain(at..until)),
            1 => drop(bytes.splice(at..until, spice)),
            2 => bytes.truncate(at),
            _ => drop(bytes.splice(at..at, spice)),
        }
    }
    bytes.insert(0, chance.next() as u8);
    bytes
}
