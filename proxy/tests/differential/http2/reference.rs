//! The other reader: RFC 9113 section 8 written down once more, on the frames as they were meant,
//! and what of a request must arrive at an app of HTTP/1 (sections 8.2.3 and 8.3.1, RFC 9112, RFC
//! 9110 section 7.6.1).
//!
//! Where the RFC leaves a choice, or a library takes one, it says so ([`Verdict::MayArrive`]): then
//! a request may be refused, but what arrives is no other.

use std::collections::BTreeMap;
use std::fmt;

use super::frames::{self, Field, Frame, Sent};

/// Fields by name, the values of each in order.
pub type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// A request as the app must see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Framed as chunks, and not by a length.
    pub is_chunked: bool,
}

impl Request {
    /// Whether it is the same but for how no body is framed: of a stream that fails right after its
    /// end, it is not known any more that it had none.
    pub fn says_the_same_as(&self, other: &Request) -> bool {
        let has_nothing = self.body.is_empty() && self.trailers.is_empty();
        let mut own = self.clone();
        if has_nothing && self.is_chunked && !other.is_chunked {
            own.is_chunked = false;
            own.fields.remove("transfer-encoding");
        }
        own == *other
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)?;
        for (name, values) in self.fields.iter().chain(&self.trailers) {
            for value in values {
                write!(f, " [{name}: {}]", value.escape_ascii())?;
            }
        }
        write!(
            f,
            " and {} trailers, chunked: {}, [{}]",
            self.trailers.len(),
            self.is_chunked,
            self.body.escape_ascii()
        )
    }
}

/// What must become of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives, and its client gets the answer.
    Arrives(Request),
    /// It arrives so or not at all.
    MayArrive(Request),
    /// It never arrives whole, and its client hears that it is refused, unless it has given it up
    /// itself or the connection may have ended.
    Refused { before_its_body: bool, is_told: bool },
    /// It has no end, and never arrives whole.
    Unfinished,
}

/// What is wrong with a block of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// It ends the stream.
    Stream,
    /// It ends the stream, and may end the connection (section 5.4.2 leaves that to the reader).
    Connection,
}

#[derive(Debug)]
struct Stream {
    head: Result<Head, Wrong>,
    body: Vec<u8>,
    trailers: Vec<Field>,
    is_ended: bool,
    is_reset: bool,
    /// The whole of it was at hand before something was wrong.
    was_whole: bool,
    is_refused: bool,
    /// There may be readers that refuse its trailers.
    is_odd: bool,
}

/// Reads what a client sent: of each stream what must become of it.
pub fn read(sent: &[Sent]) -> BTreeMap<u32, Verdict> {
    let mut streams = BTreeMap::<u32, Stream>::new();
    let mut is_in_doubt = false;
    for Sent { stream: id, frame } in sent {
        if id % 2 == 0 {
            is_in_doubt = true;
            continue;
        }
        if let Some(stream) = streams.get_mut(id) {
            is_in_doubt |= stream.read(frame);
            continue;
        }
        match frame {
            Frame::Headers { fields, is_end, style } => {
                let head = Head::read(fields, *is_end, frames::is_torn(*style));
                is_in_doubt |= frame.is_doubtful();
                is_in_doubt |= streams.last_key_value().is_some_and(|(last, _)| last > id);
                streams.insert(*id, Stream::new(head, *is_end));
            }
            Frame::Noise(_) => {}
            Frame::Data { .. } | Frame::Reset(_) => is_in_doubt = true,
        }
    }
    let verdicts = streams.into_iter().map(|(id, stream)| (id, stream.verdict()));
    let stale_since = |verdict| match verdict {
        Verdict::Arrives(request) if is_in_doubt => Verdict::MayArrive(request),
        Verdict::Refused { before_its_body, .. } if is_in_doubt => {
            Verdict::Refused { before_its_body, is_told: false }
        }
        verdict => verdict,
    };
    verdicts.map(|(id, verdict)| (id, stale_since(verdict))).collect()
}

impl Stream {
    fn new(head: Result<Head, Wrong>, is_ended: bool) -> Self {
        Stream {
            is_refused: head.is_err(),
            head,
            body: Vec::new(),
            trailers: Vec::new(),
            is_ended,
            is_reset: false,
            was_whole: false,
            is_odd: false,
        }
    }

    /// Whether the body is as long as the head says.
    fn is_as_long_as_said(&self) -> Option<bool> {
        self.head.as_ref().ok()?.length.map(|length| length == self.body.len() as u64)
    }

    /// Another frame; whether it may end the connection.
    fn read(&mut self, frame: &Frame) -> bool {
        if self.is_reset || self.is_ended {
            self.was_whole |= self.is_ended && !self.is_refused;
            // After its end a stream takes nothing but frames that say nothing (section 5.1).
            self.is_reset |= matches!(frame, Frame::Reset(_));
            return matches!(frame, Frame::Headers { .. } | Frame::Data { .. });
        }
        if self.is_refused {
            self.is_reset = matches!(frame, Frame::Reset(_));
            self.is_ended = frame.is_end();
            // What follows the refusal of a stream is ignored, if it was on its way; but who reads
            // on must keep HPACK's state.
            return frame.is_doubtful();
        }
        let could_be_whole = self.is_as_long_as_said() == Some(true);
        match frame {
            Frame::Noise(_) => return false,
            Frame::Reset(_) => {
                self.is_reset = true;
                self.was_whole = could_be_whole;
                return false;
            }
            Frame::Data { bytes, is_end, .. } => {
                let length = self.head.as_ref().ok().and_then(|head| head.length);
                let all = (self.body.len() + bytes.len()) as u64;
                if length.is_some_and(|length| all > length || *is_end && all < length) {
                    self.is_refused = true;
                } else {
                    self.body.extend_from_slice(bytes);
                    self.is_ended = *is_end;
                }
            }
            Frame::Headers { fields, is_end, style } => {
                let is_torn = frames::is_torn(*style);
                let is_fatal = has_fatal(fields, is_torn);
                let is_malformed = fields.iter().any(|field| is_pseudo(field) || is_wrong(field));
                // The library drops pseudo-headers where they could stand in a head.
                let is_dropped = is_torn || !fields.iter().any(is_wrong) && has_pseudo_first(fields);
                if !is_end
                    || is_fatal
                    || is_malformed && !is_dropped
                    || self.is_as_long_as_said() == Some(false)
                {
                    self.is_refused = true;
                } else {
                    self.trailers = mend(fields).into_iter().filter(|field| !is_pseudo(field)).collect();
                    self.is_ended = true;
                    self.is_odd |= is_malformed;
                }
                self.was_whole = self.is_refused && could_be_whole;
                return frame.is_doubtful();
            }
        }
        self.was_whole = self.is_refused && could_be_whole;
        false
    }

    fn verdict(self) -> Verdict {
        let is_satisfied = self.is_as_long_as_said() == Some(true);
        let is_told = !self.is_reset;
        let Ok(head) = self.head else { return Verdict::Refused { before_its_body: true, is_told } };
        let is_certain = self.is_ended
            && !self.is_refused
            && !self.is_reset
            && !self.was_whole
            && !self.is_odd
            && !head.is_odd;
        let is_at_hand =
            self.is_ended && !self.is_refused || self.was_whole || is_satisfied && !self.is_refused;
        match (is_at_hand, self.is_refused) {
            // An app of HTTP/1 takes it for whole when the length is reached, whatever becomes of
            // the stream then.
            (true, _) if is_certain => Verdict::Arrives(head.request(self.body, &self.trailers)),
            (true, _) => Verdict::MayArrive(head.request(self.body, &self.trailers)),
            (false, true) => Verdict::Refused { before_its_body: false, is_told },
            (false, false) => Verdict::Unfinished,
        }
    }
}

impl Frame {
    fn is_end(&self) -> bool {
        match self {
            Frame::Headers { is_end, .. } | Frame::Data { is_end, .. } => *is_end,
            Frame::Reset(_) | Frame::Noise(_) => false,
        }
    }

    /// Whether it may end the connection by what it says.
    fn is_doubtful(&self) -> bool {
        let Frame::Headers { fields, style, .. } = self else { return false };
        // A torn block that is refused half-way leaves frames which nobody expects.
        let is_malformed = fields.iter().any(is_wrong) || !has_pseudo_first(fields);
        let is_torn = frames::is_torn(*style);
        has_fatal(fields, is_torn) || is_torn && is_malformed || is_connect_with_length(fields)
    }
}

/// The head of a request that is none of those that are refused.
#[derive(Debug)]
struct Head {
    method: String,
    target: String,
    host: Vec<u8>,
    fields: Vec<Field>,
    length: Option<u64>,
    is_end: bool,
    /// There may be readers that refuse it.
    is_odd: bool,
}

impl Head {
    fn read(fields: &[Field], is_end: bool, is_torn: bool) -> Result<Head, Wrong> {
        if has_fatal(fields, is_torn) {
            return Err(Wrong::Connection);
        }
        let head = Head::read_whole(fields, is_end);
        if head.is_ok() || !is_torn {
            return head;
        }
        // The library forgets what is wrong with the part of a block that comes in a frame of its
        // own (hyperium/h2#37), and passes on the rest without it. Nobody downstream sees anything
        // else, so it does no harm; but it should be refused.
        Ok(Head { is_odd: true, ..Head::read_whole(&mend(fields), is_end)? })
    }

    fn read_whole(fields: &[Field], is_end: bool) -> Result<Head, Wrong> {
        // Section 8.3: all pseudo-headers come first, none twice, and none of a response's.
        let first = fields.iter().position(|field| !is_pseudo(field)).unwrap_or(fields.len());
        let (pseudo, fields) = fields.split_at(first);
        let of = |name: &[u8]| pseudo.iter().find(|field| field.0 == name).map(|field| &field.1[..]);
        let mut names: Vec<_> = pseudo.iter().map(|field| &field.0).collect();
        names.sort_unstable();
        let is_known =
            |name: &&Vec<u8>| [&b":method"[..], b":scheme", b":authority", b":path"].contains(&&name[..]);
        if fields.iter().any(|field| is_pseudo(field) || is_wrong(field))
            || names.windows(2).any(|pair| pair[0] == pair[1])
            || !names.iter().all(is_known)
        {
            return Err(Wrong::Stream);
        }
        let (Some(method), Some(scheme), Some(path)) = (of(b":method"), of(b":scheme"), of(b":path")) else {
            return Err(Wrong::Stream);
        };
        let values = |name: &[u8]| -> Vec<&[u8]> {
            fields.iter().filter(|field| field.0 == name).map(|field| &field.1[..]).collect()
        };
        let host = match (of(b":authority"), &values(b"host")[..]) {
            (Some(b""), _) | (_, [_, _, ..]) | (None, [] | [b""]) => return Err(Wrong::Stream),
            // Section 8.3.1: the authority counts. A sidecar of ours says by an empty field that
            // there was none.
            (Some(_), [b""]) => b"",
            (Some(authority), [host]) if is_authority(host) => authority,
            (Some(authority), []) => authority,
            (None, [host]) => host,
            _ => return Err(Wrong::Stream),
        };
        let length = match &values(b"content-length")[..] {
            [] => None,
            [digits] => Some(number(digits).filter(|length| *length == 0 || !is_end).ok_or(Wrong::Stream)?),
            _ => return Err(Wrong::Stream),
        };
        let (target, is_cut) = target(path).ok_or(Wrong::Stream)?;
        // Tunnels are never bridged (and have neither scheme nor path).
        if method == b"CONNECT"
            || target == "*" && method != b"OPTIONS"
            || !(host.is_empty() || is_authority(host))
            || !of(b":authority").is_none_or(is_authority)
            // Section 8.2.1.
            || fields.iter().any(|(_, value)| value.trim_ascii() != &value[..])
            || fields.len() > 120
        {
            return Err(Wrong::Stream);
        }
        Ok(Head {
            method: String::from_utf8(method.to_vec()).expect("a token"),
            target,
            host: host.to_vec(),
            fields: fields.to_vec(),
            length,
            is_end,
            is_odd: is_cut || !matches!(scheme, b"http" | b"https"),
        })
    }

    fn request(self, body: Vec<u8>, trailers: &[Field]) -> Request {
        let is_chunked = self.length.is_none() && !self.is_end;
        let mut fields = by_name(&self.fields);
        fields.remove("sidelab-orig-proto");
        fields.insert("host".to_owned(), vec![self.host]);
        // Section 8.2.3.
        if let Some(pieces) = fields.get_mut("cookie") {
            *pieces = vec![pieces.join(&b"; "[..]).trim_ascii().to_vec()];
        }
        if let Some(te) = fields.get_mut("te") {
            te.truncate(1);
            fields.insert("connection".to_owned(), vec![b"te".to_vec()]);
        }
        if self.length == Some(0) {
            // It says what none says.
            fields.remove("content-length");
        }
        if is_chunked {
            fields.insert("transfer-encoding".to_owned(), vec![b"chunked".to_vec()]);
        }
        let announced =
            fields.get("trailer").into_iter().flatten().flat_map(|names| names.split(|b| *b == b','));
        let announced: Vec<_> = announced.map(|name| name.trim_ascii().to_ascii_lowercase()).collect();
        // RFC 9112 section 7.1.2: without chunks there is no place for trailers. Those that nobody
        // announced, and those that may not be any (RFC 9110 section 6.5.1), are dropped.
        let mut trailers = by_name(trailers);
        trailers.retain(|name, _| {
            is_chunked && announced.iter().any(|a| a == name.as_bytes()) && may_trail(name)
        });
        Request { method: self.method, target: self.target, fields, body, trailers, is_chunked }
    }
}

/// Fields without those that may not be there, or not where they are.
fn mend(fields: &[Field]) -> Vec<Field> {
    let mut kept = Vec::<Field>::new();
    for field in fields {
        let is_late =
            is_pseudo(field) && kept.iter().any(|earlier| !is_pseudo(earlier) || earlier.0 == field.0);
        if !is_late && !is_wrong(field) {
            kept.push(field.clone());
        }
    }
    kept
}

/// Whether no pseudo-header comes twice, or after another field.
fn has_pseudo_first(fields: &[Field]) -> bool {
    mend(fields).len() == fields.iter().filter(|field| !is_wrong(field)).count()
}

fn by_name(fields: &[Field]) -> Fields {
    let mut map = Fields::new();
    for (name, value) in fields {
        let name = String::from_utf8(name.clone()).expect("a token");
        // Blanks around a value are none of it on HTTP/1 (RFC 9110 section 5.5).
        map.entry(name).or_default().push(value.trim_ascii().to_vec());
    }
    map
}

fn is_pseudo(field: &Field) -> bool {
    field.0.starts_with(b":")
}

/// Section 8.2.1 and 8.3, as far as a name or value is none at all.
fn is_fatal((name, value): &Field) -> bool {
    let is_text = |b: &u8| matches!(b, b'\t' | b' '..=b'~' | 0x80..);
    let is_utf8 = std::str::from_utf8(value).is_ok();
    match name.strip_prefix(b":") {
        Some(b"authority" | b"path" | b"scheme" | b"protocol") => !is_utf8,
        Some(b"method") => value.is_empty() || !value.iter().all(|b| is_token(*b) || b.is_ascii_uppercase()),
        Some(b"status") => false,
        Some(_) => true,
        None => name.is_empty() || !name.iter().all(|b| is_token(*b)) || !value.iter().all(is_text),
    }
}

/// A name that is empty is for the library one that has not come yet, if more of its block is to
/// come.
fn has_fatal(fields: &[Field], is_torn: bool) -> bool {
    fields.iter().any(|field| is_fatal(field) && !(is_torn && field.0.is_empty()))
}

/// hyper's server gives up the connection.
fn is_connect_with_length(fields: &[Field]) -> bool {
    let has_length = |field: &Field| field.0 == b"content-length" && number(&field.1) != Some(0);
    fields.contains(&(b":method".to_vec(), b"CONNECT".to_vec())) && fields.iter().any(has_length)
}

/// Characters of a name in lower case.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Section 8.2.2: what belongs to a connection; and what has no name.
fn is_wrong((name, value): &Field) -> bool {
    match &name[..] {
        b"" | b"connection" | b"transfer-encoding" | b"upgrade" | b"keep-alive" | b"proxy-connection" => true,
        b"te" => value != b"trailers",
        _ => false,
    }
}

fn may_trail(name: &str) -> bool {
    !matches!(name, "content-length" | "host" | "te" | "trailer" | "connection" | "transfer-encoding")
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// The target that `:path` names, and whether something was cut off it.
fn target(path: &[u8]) -> Option<(String, bool)> {
    // What follows a `#` no client may send; the library drops it.
    let end = path.iter().position(|b| *b == b'#').unwrap_or(path.len());
    let (kept, is_cut) = (&path[..end], end < path.len());
    let kept = if kept.is_empty() && is_cut { b"/" } else { kept };
    let query = kept.iter().position(|b| *b == b'?').unwrap_or(kept.len());
    let is_fine = |at: usize, b: u8| match b {
        b'"' | b'<' | b'>' | ..=b' ' | 0x7f => false,
        b'`' => at > query,
        _ => true,
    };
    let is_target = kept == b"*" || kept.starts_with(b"/") && (0..kept.len()).all(|at| is_fine(at, kept[at]));
    is_target.then(|| (String::from_utf8(kept.to_vec()).expect("it is text"), is_cut))
}

/// RFC 3986 section 3.2 without what could be read in two ways: user information, percent-encoding,
/// commas.
fn is_authority(text: &[u8]) -> bool {
    let (name, port) = match text.iter().rposition(|b| *b == b':') {
        Some(at) if !text.ends_with(b"]") => (&text[..at], &text[at + 1..]),
        _ => (text, &b""[..]),
    };
    let is_port =
        port.iter().all(u8::is_ascii_digit) && (port.is_empty() || number(port).is_some_and(|n| n < 65536));
    let is_name = match name.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) {
        Some(address) => std::str::from_utf8(address).is_ok_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let may_stand = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(b);
            !name.is_empty() && name.iter().all(may_stand)
        }
    };
    is_name && is_port
}
