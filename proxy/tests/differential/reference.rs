//! The other reader: httparse's heads on the whole of the bytes, and RFC 9112 section 6 and 7
//! written down once more.

use http::Uri;

/// The body of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Whole(Vec<u8>),
    /// It has not come to its end.
    Short,
    /// Its framing is wrong.
    Broken,
    /// Of a response: its chunks are whole, and a line of what should be its trailers does not end
    /// in CRLF.
    Untrailed(Vec<u8>),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub body: Body,
}

/// Header fields or trailers: names in lower case, values without the blanks around them.
pub type Fields = Vec<(String, Vec<u8>)>;

/// A request with its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub asked: Asked,
    pub fields: Fields,
    pub trailers: Fields,
}

/// How a client's bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Between requests.
    Between,
    /// In the middle of a request.
    Short,
    /// The last request was the last.
    Closed,
    /// The last request asks for something other than HTTP.
    Tunnel,
    /// The next request is refused with this status.
    Refused(u16),
}

/// All requests in `bytes`.
pub fn requests(bytes: &[u8]) -> (Vec<Asked>, End) {
    let (messages, end) = messages(bytes);
    (messages.into_iter().map(|message| message.asked).collect(), end)
}

/// All requests in `bytes`, with their fields.
pub fn messages(bytes: &[u8]) -> (Vec<Message>, End) {
    let mut asked = Vec::new();
    let mut rest = bytes;
    loop {
        while let Some(more) = rest.strip_prefix(b"\r\n") {
            rest = more;
        }
        match rest {
            [] => return (asked, End::Between),
            [b'\r'] => return (asked, End::Short),
            _ => {}
        }
        let Head { request, fields, framing, len, last, tunnel } = match head(rest) {
            Ok(Some(head)) => head,
            Ok(None) => return (asked, End::Short),
            Err(status) => return (asked, End::Refused(status)),
        };
        rest = &rest[len..];
        let (body, trailers, taken) = body(framing, rest);
        rest = &rest[taken..];
        let stays = matches!(body, Body::Whole(_));
        asked.push(Message { asked: Asked { body, ..request }, fields, trailers });
        if tunnel {
            return (asked, End::Tunnel);
        }
        if !stays {
            return (asked, End::Short);
        }
        if last {
            return (asked, End::Closed);
        }
    }
}

struct Head {
    request: Asked,
    fields: Fields,
    framing: Framing,
    len: usize,
    last: bool,
    tunnel: bool,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// The same in a response, where extensions are skipped and whatever is in them.
    ChunkedByAServer,
    /// To the end of the stream.
    Rest,
}

fn head(bytes: &[u8]) -> Result<Option<Head>, u16> {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes);
    // A line feed alone ends a line for httparse; here it is refused, before anything that follows
    // counts.
    let end = find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let alone =
        bytes[..end].iter().enumerate().any(|(i, b)| *b == b'\n' && (i == 0 || bytes[i - 1] != b'\r'));
    if alone {
        return Err(400);
    }
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(_) => return Err(400),
    };
    let path = request.path.expect("it is complete");
    let Ok(target) = Uri::try_from(path) else { return Err(400) };
    if path.contains('#') {
        return Err(400);
    }
    let method = request.method.expect("it is complete").to_owned();
    let is_10 = request.version == Some(0);
    let values = |name: &str| -> Vec<&[u8]> {
        let of_name = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
        of_name.map(|h| h.value.trim_ascii()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) => Framing::Length(0),
        ([length], []) => Framing::Length(number(length).ok_or(400_u16)?),
        ([], [coding]) if !is_10 => {
            let last = coding.rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii();
            if !last.eq_ignore_ascii_case(b"chunked") {
                return Err(400);
            }
            Framing::Chunked
        }
        _ => return Err(400),
    };
    let others = codings.iter().any(|coding| coding.contains(&b','));
    let upgrades = values("upgrade");
    let tunnel = method == "CONNECT" || others || upgrades.iter().any(|value| !is_offer(value));
    // A line that is no text says nothing: neither hyper nor the sidecar looks for tokens in it.
    let is_text = |line: &&[u8]| line.iter().all(|b| matches!(b, b'\t' | b' '..=b'~'));
    let lines: Vec<_> = values("connection").into_iter().filter(is_text).collect();
    let tokens: Vec<_> = lines.join(&b","[..]).to_ascii_lowercase();
    let says = |word: &[u8]| tokens.split(|b| *b == b',').any(|token| token.trim_ascii() == word);
    let last = says(b"close") || is_10 && !says(b"keep-alive");
    let asked = Asked { method, target: target.to_string(), body: Body::Short };
    Ok(Some(Head { request: asked, fields: fields(request.headers), framing, len, last, tunnel }))
}

fn fields(headers: &[httparse::Header<'_>]) -> Fields {
    let field = |header: &httparse::Header<'_>| {
        (header.name.to_ascii_lowercase(), header.value.trim_ascii().to_vec())
    };
    headers.iter().map(field).collect()
}

fn is_offer(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let known = [&b"h2c"[..], b"http/", b"tls/"].iter().any(|offer| value.starts_with(offer));
    known && value.len() <= 18 && !value.contains(&b',')
}

/// A length, as far as anybody needs one.
pub fn number(digits: &[u8]) -> Option<u64> {
    let fits = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| fits)?.parse().ok()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A body at the start of `bytes`, its trailers, and how much of the bytes they take.
pub fn body(framing: Framing, bytes: &[u8]) -> (Body, Fields, usize) {
    match framing {
        Framing::Length(length) => match usize::try_from(length).ok().filter(|n| *n <= bytes.len()) {
            Some(n) => (Body::Whole(bytes[..n].to_vec()), Fields::new(), n),
            None => (Body::Short, Fields::new(), bytes.len()),
        },
        Framing::Rest => (Body::Whole(bytes.to_vec()), Fields::new(), bytes.len()),
        Framing::Chunked | Framing::ChunkedByAServer => {
            let mut rest = bytes;
            match chunks(&mut rest, framing == Framing::Chunked) {
                Ok((body, trailers)) => (Body::Whole(body), trailers, bytes.len() - rest.len()),
                Err(body) => (body, Fields::new(), bytes.len() - rest.len()),
            }
        }
    }
}

/// Takes the line at the start of `rest`, if it has come whole. All that could become one must be
/// text.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Body> {
    let Some(end) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) else { return Err(Body::Short) };
    let line = &rest[..end];
    match rest[end..] {
        [b'\r'] => Err(Body::Short),
        [b'\r', b'\n', ..] => {
            *rest = &rest[end + 2..];
            Ok(line)
        }
        _ => Err(Body::Broken),
    }
}

fn chunks(rest: &mut &[u8], is_request: bool) -> Result<(Vec<u8>, Fields), Body> {
    let mut body = Vec::new();
    loop {
        let size = line(rest)?;
        let digits = size.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let blanks = size[digits..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let extension = &size[digits + blanks..];
        let fine = |b: &u8| matches!(b, b'\t' | b' '..=b'~' | 0x80..);
        if !(1..=16).contains(&digits)
            || !(extension.is_empty() || extension[0] == b';')
            || is_request && !extension.iter().all(fine)
        {
            return Err(Body::Broken);
        }
        let text = std::str::from_utf8(&size[..digits]).expect("digits");
        let size = u64::from_str_radix(text, 16).map_err(|_| Body::Broken)?;
        if size == 0 {
            break;
        }
        let Some(n) = usize::try_from(size).ok().filter(|n| *n <= rest.len()) else {
            return Err(Body::Short);
        };
        body.extend_from_slice(&rest[..n]);
        *rest = &rest[n..];
        match rest {
            [] | [b'\r'] => return Err(Body::Short),
            [b'\r', b'\n', ..] => *rest = &rest[2..],
            _ => return Err(Body::Broken),
        }
    }
    let trailers = *rest;
    loop {
        match line(rest) {
            Ok([]) => break,
            Ok(_) => {}
            Err(Body::Broken) if !is_request => return Err(Body::Untrailed(body)),
            Err(wrong) => return Err(wrong),
        }
    }
    let block = &trailers[..trailers.len() - rest.len()];
    let mut headers = [httparse::EMPTY_HEADER; 100];
    match httparse::parse_headers(block, &mut headers) {
        Ok(httparse::Status::Complete((_, trailers))) => Ok((body, fields(trailers))),
        _ => Err(Body::Broken),
    }
}
