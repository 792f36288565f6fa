//! The reader of [`super::Strict`]: a state machine over the bytes of a connection's requests,
//! without I/O. It knows where each message ends, refuses every head that hyper would refuse, and
//! some that hyper would mend. Of bodies it checks the framing only; hyper checks more, and what it
//! does not like breaks a body off as well.

use http::Uri;

use super::is_offer;
use crate::config::Http1;
use crate::error::{Error, Kind};

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseError {
    /// [`Kind::Malformed`] or [`Kind::HeadersTooLarge`].
    pub kind: Kind,
    /// In words.
    pub what: &'static str,
    /// Whether its head was handed over before, so that somebody answers it.
    pub in_body: bool,
    /// Whether the answer must have no body.
    pub is_head: bool,
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        Error { cause: Some(error.what.into()), ..Error::new(error.kind) }
    }
}

/// A request that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// How many of the bytes at hand come before it: all that belongs to earlier messages, and to
    /// its own body.
    pub good: usize,
    /// Why.
    pub error: ParseError,
}

/// Where in a message the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a request line. Empty lines are skipped, as RFC 9112 section 2.2 asks of a server.
    Start,
    StartLf,
    Method,
    Target,
    Version,
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
}

impl At {
    fn is_in_head(self) -> bool {
        use At::{HeadLf, Lf, Method, Name, Start, StartLf, Target, Value, Version};
        matches!(self, Start | StartLf | Method | Target | Version | Name | Value | Lf | HeadLf)
    }
}

/// Header fields that decide where a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    Coding,
    Upgrade,
    Other,
}

/// What the transfer codings of a message come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// Others first, which nobody undoes here.
    AndOthers,
}

type ReadResult<T> = Result<T, (Kind, &'static str)>;

fn malformed<T>(what: &'static str) -> ReadResult<T> {
    Err((Kind::Malformed, what))
}

fn too_large<T>(what: &'static str) -> ReadResult<T> {
    Err((Kind::HeadersTooLarge, what))
}

const TOO_MANY_BYTES: &str = "a head of more bytes than `limits.header_bytes`";
const NO_CRLF: &str = "a line that does not end in CRLF";

/// The longest name or value that matters is `transfer-encoding`.
pub(super) const WORD: usize = 18;

/// The longest target that hyper takes.
const TARGET: usize = 65_534;

const VERSIONS: [&[u8]; 2] = [b"HTTP/1.0", b"HTTP/1.1"];

/// Reads along.
#[derive(Debug)]
pub struct Reader {
    limits: Http1,
    at: At,
    /// Bytes of the head so far, empty lines before it included.
    head: usize,
    /// The start of a target that is torn.
    target: Vec<u8>,
    message: Message,
}

/// What there is to know about the message at hand.
#[derive(Debug)]
struct Message {
    is_head: bool,
    is_http10: bool,
    /// Header fields so far.
    fields: usize,
    field: Field,
    /// The start of the method, version, name or value at hand; names and values in lower case.
    word: [u8; WORD],
    /// Its length; more than [`WORD`] if it did not fit.
    len: usize,
    /// Blanks at its end so far.
    blanks: usize,
    /// Whether it is not the first of a list.
    listed: bool,
    length: Option<u64>,
    coding: Option<Coding>,
    upgrade: bool,
    chunk: u64,
}

impl Default for Message {
    fn default() -> Self {
        Message {
            is_head: false,
            is_http10: false,
            fields: 0,
            field: Field::Other,
            word: [0; WORD],
            len: 0,
            blanks: 0,
            listed: false,
            length: None,
            coding: None,
            upgrade: false,
            chunk: 0,
        }
    }
}

impl Reader {
    /// Before the first request, with the limits that hyper gets too.
    pub fn new(limits: Http1) -> Self {
        Reader { limits, at: At::Start, head: 0, target: Vec::new(), message: Message::default() }
    }

    /// Whether what was read ends with a request, or with one after which nothing is read.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.at, At::Start | At::Unread)
    }

    /// Reads on to the end of a message at most; how many bytes that were. After a refusal there is
    /// nothing to read.
    ///
    /// # Errors
    /// What is refused, and what comes before it.
    pub fn read(&mut self, bytes: &[u8]) -> Result<usize, Rejection> {
        let was_in_body = !self.at.is_in_head();
        // Where the message at hand begins; `None` if it did so in an earlier read.
        let mut begin = None;
        let mut i = 0;
        let mut result = Ok(());
        while i < bytes.len() {
            let at = self.at;
            match at {
                At::Unread => {
                    i = bytes.len();
                    break;
                }
                At::Start => begin = Some(i),
                _ => {}
            }
            match self.take(&bytes[i..]) {
                Ok(n) => i += n,
                Err(wrong) => {
                    result = Err(wrong);
                    break;
                }
            }
            // An empty line is no message.
            if self.at == At::Start && at != At::StartLf {
                self.message.is_head = false;
                break;
            }
        }
        if result.is_ok() && self.at.is_in_head() && self.head >= self.limits.header_bytes {
            result = too_large(TOO_MANY_BYTES);
        }
        result.map(|()| i).map_err(|(kind, what)| {
            let in_body = begin.is_none() && was_in_body;
            // Before the head there can only be empty lines, which nobody needs.
            let good = if in_body { i } else { 0 };
            Rejection { good, error: ParseError { kind, what, in_body, is_head: self.message.is_head } }
        })
    }

    /// Takes one byte, or as many as are alike; how many.
    fn take(&mut self, bytes: &[u8]) -> ReadResult<usize> {
        let taken = match self.at {
            At::Body(left) | At::ChunkData(left) => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - here as u64;
                self.at = match self.at {
                    At::Body(_) if left == 0 => At::Start,
                    At::Body(_) => At::Body(left),
                    _ if left == 0 => At::ChunkCr,
                    _ => At::ChunkData(left),
                };
                return Ok(here);
            }
            // Most of a head: nothing to note until something ends.
            At::Target => self.target(bytes)?,
            At::Value if self.message.field == Field::Other && is_in_value(bytes[0]) => {
                bytes.iter().take_while(|b| is_in_value(**b)).count()
            }
            at => {
                self.at = self.message.step(at, bytes[0], self.limits.headers)?;
                1
            }
        };
        if self.at.is_in_head() {
            self.head += taken;
        } else if self.head > 0 {
            self.end_of_head()?;
        }
        Ok(taken)
    }

    /// Takes a target, or what there is of it.
    fn target(&mut self, bytes: &[u8]) -> ReadResult<usize> {
        let n = bytes.iter().take_while(|b| is_in_target(**b)).count();
        let piece = &bytes[..n];
        let Some(end) = bytes.get(n) else {
            self.target.extend_from_slice(piece);
            return Ok(n);
        };
        match end {
            b' ' => {}
            b'#' => return malformed("a fragment in the target"),
            _ => return malformed("a request line that is not a method, a target and a version"),
        }
        if self.target.is_empty() {
            check_target(piece)?;
        } else {
            let mut target = std::mem::take(&mut self.target);
            target.extend_from_slice(piece);
            check_target(&target)?;
        }
        self.message.len = 0;
        self.at = At::Version;
        Ok(n + 1)
    }

    /// The head's last byte has been taken.
    fn end_of_head(&mut self) -> ReadResult<()> {
        let head = std::mem::take(&mut self.head) + 1;
        if self.at == At::Body(0) {
            self.at = At::Start;
        }
        if head > self.limits.header_bytes { too_large(TOO_MANY_BYTES) } else { Ok(()) }
    }
}

impl Message {
    /// Takes one byte of the head or of the framing of chunks.
    fn step(&mut self, at: At, byte: u8, most_fields: usize) -> ReadResult<At> {
        Ok(match (at, byte) {
            (At::Start, b'\r') => At::StartLf,
            (At::StartLf, b'\n') => At::Start,
            (At::Start, _) if is_token(byte) => {
                *self = Message::default();
                self.push(byte);
                At::Method
            }
            (At::Method, b' ') => {
                // A method has the case that it has.
                self.upgrade = self.word() == b"CONNECT";
                self.is_head = self.word() == b"HEAD";
                At::Target
            }
            (At::Method, _) if is_token(byte) => {
                self.push(byte);
                At::Method
            }
            (At::Start | At::StartLf | At::Method, _) => return malformed("a method that is no token"),
            (At::Version, b'\r') if self.len == VERSIONS[0].len() => {
                self.is_http10 = self.word() == VERSIONS[0];
                At::Lf
            }
            (At::Version, b'\n') => return malformed(NO_CRLF),
            (At::Version, _) => {
                self.push(byte);
                // Byte by byte, as hyper's parser does it, or hyper would refuse the first part of
                // one that is torn.
                if !VERSIONS.iter().any(|version| version.starts_with(self.word())) {
                    return malformed("a version other than 1.0 and 1.1");
                }
                At::Version
            }
            (At::Lf, b'\n') => {
                self.len = 0;
                At::Name
            }
            (At::Name, b'\r') if self.len == 0 => At::HeadLf,
            (At::Name, b':') if self.len > 0 => self.name(most_fields)?,
            (At::Name, _) if is_token(byte) => {
                self.push(byte.to_ascii_lowercase());
                At::Name
            }
            (At::Name, b'\n') => return malformed(NO_CRLF),
            (At::Name, _) => return malformed("a header's name that is no token"),
            (At::Value, b'\r') => {
                self.value()?;
                At::Lf
            }
            (At::HeadLf, b'\n') => self.body(),
            (At::Value, b'\n') | (At::Lf | At::HeadLf, _) => return malformed(NO_CRLF),
            (At::Value, _) if is_in_value(byte) => {
                self.of_value(byte);
                At::Value
            }
            (At::Value, _) => return malformed("a control character in a header"),
            _ => return self.step_in_chunks(at, byte),
        })
    }

    /// Takes one byte of a chunk's frame or of the trailers.
    fn step_in_chunks(&mut self, at: At, byte: u8) -> ReadResult<At> {
        Ok(match (at, byte) {
            (At::ChunkSize { digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == 0 {
                    self.chunk = 0;
                }
                // 16 digits are all that 64 bits hold.
                if digits == 16 {
                    return malformed("the size of a chunk is too large");
                }
                let digit = (byte as char).to_digit(16).expect("a hexadecimal digit");
                self.chunk = self.chunk << 4 | u64::from(digit);
                At::ChunkSize { digits: digits + 1 }
            }
            (At::ChunkSize { digits: 1.. }, b'\r') => At::ChunkSizeLf,
            (At::ChunkSize { digits: 1.. }, b';' | b' ' | b'\t') => At::ChunkExtension,
            (At::ChunkSize { .. }, _) => return malformed("the size of a chunk is no number"),
            (At::ChunkExtension, b'\r') => At::ChunkSizeLf,
            (At::ChunkExtension, _) if is_in_value(byte) => At::ChunkExtension,
            (At::ChunkExtension, _) => return malformed("a control character in a chunk extension"),
            (At::ChunkSizeLf, b'\n') if self.chunk == 0 => At::TrailerStart,
            (At::ChunkSizeLf, b'\n') => At::ChunkData(self.chunk),
            (At::ChunkCr, b'\r') => At::ChunkLf,
            (At::ChunkLf, b'\n') => At::ChunkSize { digits: 0 },
            (At::ChunkCr | At::ChunkLf, _) => return malformed("a chunk that is not as long as its size"),
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::TrailerStart | At::Trailer, b'\n') => return malformed(NO_CRLF),
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerStart | At::Trailer, _) => At::Trailer,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => At::Start,
            _ => return malformed(NO_CRLF),
        })
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

    /// A name has ended.
    fn name(&mut self, most_fields: usize) -> ReadResult<At> {
        self.field = match self.word() {
            b"content-length" => Field::Length,
            b"transfer-encoding" => Field::Coding,
            b"upgrade" => Field::Upgrade,
            _ => Field::Other,
        };
        (self.len, self.blanks, self.listed) = (0, 0, false);
        self.fields += 1;
        if self.fields > most_fields {
            return too_large("more header lines than `limits.headers`");
        }
        Ok(At::Value)
    }

    /// Takes one byte of a value that matters.
    fn of_value(&mut self, byte: u8) {
        match byte {
            // Blanks around a value are not part of it.
            b' ' | b'\t' => self.blanks += usize::from(self.len > 0 && self.blanks <= WORD),
            b',' if self.field == Field::Coding => (self.len, self.blanks, self.listed) = (0, 0, true),
            _ => {
                for _ in 0..std::mem::take(&mut self.blanks) {
                    self.push(b' ');
                }
                self.push(byte.to_ascii_lowercase());
            }
        }
    }

    /// A value has ended.
    fn value(&mut self) -> ReadResult<()> {
        match self.field {
            Field::Length => {
                let word = self.word();
                let digits = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
                let length = word.iter().fold(0, |n: u64, b| n * 10 + u64::from(b.wrapping_sub(b'0')) % 10);
                if !digits {
                    return malformed("a length that is no number, or too large a one");
                }
                if self.length.is_some() || self.coding.is_some() {
                    return malformed("more than one length");
                }
                self.length = Some(length);
            }
            Field::Coding => {
                if self.length.is_some() || self.coding.is_some() {
                    return malformed("more than one length");
                }
                if self.is_http10 {
                    return malformed("a transfer coding in version 1.0");
                }
                self.coding = match (self.word(), self.listed) {
                    (b"chunked", false) => Some(Coding::Chunked),
                    (b"chunked", true) => Some(Coding::AndOthers),
                    _ => return malformed("a transfer coding that does not end in chunked"),
                };
            }
            Field::Upgrade => self.upgrade |= !is_offer(self.word()),
            Field::Other => {}
        }
        Ok(())
    }

    /// What follows the head. A body of no length has its end there.
    fn body(&self) -> At {
        match (self.upgrade, self.coding, self.length) {
            (true, ..) | (_, Some(Coding::AndOthers), _) => At::Unread,
            (_, Some(Coding::Chunked), _) => At::ChunkSize { digits: 0 },
            (.., length) => At::Body(length.unwrap_or(0)),
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
}

fn is_in_target(byte: u8) -> bool {
    matches!(byte, b'!' | b'"' | b'$'..=b'~' | 0x80..)
}

fn is_in_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// What nearly every target is made of needs no second look.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~' | b'?' | b'&' | b'=' | b'%' | b'+' | b',' | b':')
}

/// Whether a request may have this target.
pub fn is_target(target: &[u8]) -> bool {
    target.iter().all(|byte| is_in_target(*byte)) && check_target(target).is_ok()
}

fn check_target(target: &[u8]) -> ReadResult<()> {
    if target.len() > TARGET {
        return too_large("the target is too long");
    }
    let plain = target.first() == Some(&b'/') && target.iter().all(|b| is_plain(*b));
    if plain || Uri::try_from(target).is_ok() { Ok(()) } else { malformed("a target that is no URI") }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
