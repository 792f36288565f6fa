//! How a line of the access log is written: as JSON with fields of its own, or as a text with
//! Envoy's operators (`%RESPONSE_CODE%`), so that what people have written for Envoy can be taken
//! over.
//!
//! A text is read once, when the configuration is. It knows which headers it asks for, so that of a
//! request only those are kept.
//!
//! Left out: operators of what this sidecar does not know, such as dynamic metadata and filter
//! state. They are refused by name.

use std::ops::Range;

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::diagnose::did_you_mean;

/// How lines are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// An object of JSON.
    Json,
    /// A text with operators.
    Text(TextFormat),
}

/// A text with operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFormat {
    /// As it was written.
    text: String,
    /// What it consists of.
    pub pieces: Vec<Piece>,
    /// The headers of a request that it asks for.
    pub request_headers: Vec<HeaderName>,
    /// The same of an answer.
    pub response_headers: Vec<HeaderName>,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Written as it is.
    Text(String),
    /// An operator, and how many characters of its value are written at most.
    Value(Operator, Option<usize>),
}

/// What an operator stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// One without an argument.
    Plain(PlainOperator),
    /// A word of the request, and the one that is asked for if there is none.
    Request(RequestWord, Option<RequestWord>),
    /// A header of the answer, and the one that is asked for if there is none, by their places
    /// among [`TextFormat::response_headers`].
    Response(usize, Option<usize>),
}

/// What a request says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestWord {
    /// `:METHOD`.
    Method,
    /// `:PATH`, with the query.
    Path,
    /// `:AUTHORITY`.
    Authority,
    /// A header, by its place among [`TextFormat::request_headers`].
    Header(usize),
}

/// Declares the operators without an argument.
macro_rules! plain_operators {
    ($($(#[$doc:meta])* $name:literal $variant:ident,)+) => {
        /// An operator without an argument.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum PlainOperator { $($(#[$doc])* $variant),+ }

        impl PlainOperator {
            /// Each with its name.
            pub const ALL: &[(&str, PlainOperator)] = &[$(($name, PlainOperator::$variant)),+];
        }
    };
}

plain_operators! {
    /// When it began, RFC 3339 in UTC.
    "START_TIME" StartTime,
    /// `HTTP/1.1`, `HTTP/2`.
    "PROTOCOL" Protocol,
    /// The status; 0 without one.
    "RESPONSE_CODE" ResponseCode,
    /// Why it failed, in the word of `proxy_errors_total`.
    "RESPONSE_CODE_DETAILS" ResponseCodeDetails,
    /// The same as Envoy's flag.
    "RESPONSE_FLAGS" ResponseFlags,
    /// The number of `grpc-status`.
    "GRPC_STATUS" GrpcStatus,
    /// Bytes of the request's body, or from the client of a connection.
    "BYTES_RECEIVED" BytesReceived,
    /// Bytes of the answer's body, or to the client of a connection.
    "BYTES_SENT" BytesSent,
    /// From its beginning to its end, ms.
    "DURATION" Duration,
    /// From its beginning to the head of the answer, ms.
    "RESPONSE_DURATION" ResponseDuration,
    /// From the head of the answer to its end, ms.
    "RESPONSE_TX_DURATION" ResponseTxDuration,
    /// The endpoint of the last attempt.
    "UPSTREAM_HOST" UpstreamHost,
    /// The cluster.
    "UPSTREAM_CLUSTER" UpstreamCluster,
    /// How many attempts there were.
    "UPSTREAM_REQUEST_ATTEMPT_COUNT" AttemptCount,
    /// The route.
    "ROUTE_NAME" RouteName,
    /// The client.
    "DOWNSTREAM_REMOTE_ADDRESS" RemoteAddress,
    /// Its address alone.
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" RemoteAddressWithoutPort,
    /// Where the client wanted to go.
    "DOWNSTREAM_LOCAL_ADDRESS" LocalAddress,
    /// Its address alone.
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" LocalAddressWithoutPort,
    /// Who the client is, as its certificate proves.
    "DOWNSTREAM_PEER_URI_SAN" PeerUriSan,
    /// `INBOUND` or `OUTBOUND`.
    "TRAFFIC_DIRECTION" TrafficDirection,
    /// The trace of `traceparent`.
    "TRACE_ID" TraceId,
}

/// A mistake in a text, and which bytes of it are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatError {
    /// What is wrong.
    pub what: String,
    /// Where.
    pub at: Range<usize>,
    /// How to mend it, if there is more to say.
    pub help: Option<String>,
}

impl TextFormat {
    /// Reads a text.
    ///
    /// # Errors
    /// The first mistake: an operator that is not known or not closed, an argument that it does not
    /// take, the name of a header that none can have.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut format = TextFormat {
            text: text.to_owned(),
            pieces: Vec::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        };
        let mut rest = 0..text.len();
        while let Some(percent) = text[rest.clone()].find('%') {
            format.push_text(&text[rest.start..rest.start + percent]);
            let start = rest.start + percent;
            if text[start + 1..].starts_with('%') {
                format.push_text("%");
                rest.start = start + 2;
                continue;
            }
            let Some(length) = text[start + 1..].find('%') else {
                return Err(FormatError {
                    what: "an operator is not closed".into(),
                    at: start..text.len(),
                    help: Some("write `%%` for a percent sign".into()),
                });
            };
            let end = start + 1 + length + 1;
            let piece = format.operator(&text[start + 1..end - 1]).map_err(|(what, help)| FormatError {
                what,
                at: start..end,
                help,
            })?;
            format.pieces.push(piece);
            rest.start = end;
        }
        format.push_text(&text[rest]);
        Ok(format)
    }

    /// Whether lines differ at all.
    pub fn has_values(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Value(..)))
    }

    fn push_text(&mut self, more: &str) {
        match self.pieces.last_mut() {
            _ if more.is_empty() => {}
            Some(Piece::Text(text)) => text.push_str(more),
            _ => self.pieces.push(Piece::Text(more.to_owned())),
        }
    }

    /// Reads what stands between two percent signs: `NAME`, `NAME(ARGUMENT)`, `NAME(ARGUMENT):10`.
    fn operator(&mut self, words: &str) -> Result<Piece, (String, Option<String>)> {
        let (words, most) = match words.rsplit_once(':') {
            // A colon inside the argument is part of it: `REQ(:PATH)`.
            Some((before, length)) if !length.contains(')') => {
                let length = length.parse().map_err(|_| (format!("{length:?} is no length"), None))?;
                (before, Some(length))
            }
            _ => (words, None),
        };
        let (name, argument) = match words.split_once('(') {
            None => (words, None),
            Some((name, argument)) => match argument.strip_suffix(')') {
                Some(argument) => (name, Some(argument)),
                None => return Err((format!("the argument of {name} is not closed"), None)),
            },
        };
        let operator = match (name, argument) {
            ("REQ", Some(argument)) => {
                let (first, second) = alternatives(argument);
                let first = self.request_word(first)?;
                Operator::Request(first, second.map(|word| self.request_word(word)).transpose()?)
            }
            ("RESP", Some(argument)) => {
                let (first, second) = alternatives(argument);
                let first = keep(&mut self.response_headers, first)?;
                let second = second.map(|word| keep(&mut self.response_headers, word)).transpose()?;
                Operator::Response(first, second)
            }
            ("REQ" | "RESP", None) => {
                return Err((format!("{name} takes the name of a header"), Some(format!("%{name}(NAME)%"))));
            }
            _ => {
                let known = PlainOperator::ALL.iter().find(|(known, _)| *known == name);
                let Some((_, plain)) = known else {
                    return Err((format!("there is no operator {name:?}"), Some(operators_like(name))));
                };
                if argument.is_some() {
                    return Err((format!("{name} takes no argument"), None));
                }
                Operator::Plain(*plain)
            }
        };
        Ok(Piece::Value(operator, most))
    }

    fn request_word(&mut self, word: &str) -> Result<RequestWord, (String, Option<String>)> {
        Ok(match word.to_ascii_lowercase().as_str() {
            ":method" => RequestWord::Method,
            ":path" => RequestWord::Path,
            ":authority" | "host" => RequestWord::Authority,
            _ => RequestWord::Header(keep(&mut self.request_headers, word)?),
        })
    }
}

/// `FIRST?SECOND`.
fn alternatives(argument: &str) -> (&str, Option<&str>) {
    argument.split_once('?').map_or((argument, None), |(first, second)| (first, Some(second)))
}

/// The place of a header among those that are kept.
fn keep(headers: &mut Vec<HeaderName>, word: &str) -> Result<usize, (String, Option<String>)> {
    let name = HeaderName::from_bytes(word.as_bytes()).map_err(|_| {
        let help = word
            .starts_with(':')
            .then(|| "of those with a colon there are :METHOD, :PATH and :AUTHORITY, of requests".into());
        (format!("no header can be called {word:?}"), help)
    })?;
    Ok(headers.iter().position(|known| *known == name).unwrap_or_else(|| {
        headers.push(name);
        headers.len() - 1
    }))
}

/// Which operators there are, or which of them was meant.
fn operators_like(name: &str) -> String {
    let names: Vec<_> = PlainOperator::ALL.iter().map(|(name, _)| *name).chain(["REQ", "RESP"]).collect();
    let small: Vec<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    match did_you_mean(name, small.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `%{}%`?", meant.to_ascii_uppercase()),
        None => format!("the operators are {}", names.join(", ")),
    }
}

impl Serialize for LogFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            LogFormat::Json => "json",
            LogFormat::Text(text) => &text.text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(text: &str) -> (String, &str, Option<String>) {
        let error = TextFormat::parse(text).unwrap_err();
        (error.what, &text[error.at], error.help)
    }

    #[test]
    fn the_default_of_envoy_is_read() {
        let text = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
                    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
                    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
                    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";
        let format = TextFormat::parse(text).unwrap();
        let names: Vec<_> = format.request_headers.iter().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-envoy-original-path", "x-forwarded-for", "user-agent", "x-request-id"]);
        assert_eq!(format.response_headers, ["x-envoy-upstream-service-time"]);
        let path = Operator::Request(RequestWord::Header(0), Some(RequestWord::Path));
        assert!(format.pieces.contains(&Piece::Value(path, None)));
    }

    #[test]
    fn a_length_is_one_of_characters_and_a_colon_in_an_argument_is_none() {
        let format = TextFormat::parse("%REQ(:PATH):20%%%").unwrap();
        let path = Piece::Value(Operator::Request(RequestWord::Path, None), Some(20));
        assert_eq!(format.pieces, [path, Piece::Text("%".into())]);
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let (what, words, help) = mistake("a %RESPONSE_COD% b");
        assert_eq!((&*what, words), ("there is no operator \"RESPONSE_COD\"", "%RESPONSE_COD%"));
        assert_eq!(help.unwrap(), "did you mean `%RESPONSE_CODE%`?");
        assert_eq!(mistake("100 % sure").0, "an operator is not closed");
        assert_eq!(mistake("%REQ%").0, "REQ takes the name of a header");
        assert_eq!(mistake("%REQ(a b)%").0, "no header can be called \"a b\"");
        assert_eq!(mistake("%REQ(:SCHEME)%").1, "%REQ(:SCHEME)%");
        assert_eq!(mistake("%DURATION(1)%").0, "DURATION takes no argument");
        assert_eq!(mistake("%REQ(x%").0, "the argument of REQ is not closed");
        assert_eq!(mistake("%REQ(x):many%").0, "\"many\" is no length");
    }
}
