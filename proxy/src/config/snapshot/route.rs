//! What becomes of the requests to a cluster's addresses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Method, StatusCode};
use serde::Serialize;

use super::{RequestTimeouts, Retry, dump};

/// What becomes of the requests that match. The first route of a cluster that does counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// Its name in metrics.
    pub name: String,
    /// Which requests.
    pub matches: Match,
    /// What becomes of them.
    pub action: Action,
    /// Changes of a request's headers, before it is sent.
    pub request_headers: HeaderEdits,
    /// Changes of the headers of whatever is answered.
    pub response_headers: HeaderEdits,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is sent on.
    Forward(Box<Forward>),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The sidecar answers.
    Respond(Respond),
}

/// How a request is sent on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forward {
    /// Where to: at least one with a share.
    pub to: Vec<Target>,
    /// What it asks for there.
    pub rewrite: Rewrite,
    /// Who gets a copy.
    pub mirror: Option<Mirror>,
    /// What is done to it on purpose.
    pub fault: Fault,
}

/// Which requests: those for which all that is said holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Match {
    /// The path, without the query, as it was sent: `%41` is not `A`.
    pub path: PathMatch,
    /// One of these methods; empty: any.
    #[serde(serialize_with = "dump::texts")]
    pub methods: Vec<Method>,
    /// One of these hosts; empty: any.
    pub authorities: Vec<HostPattern>,
    /// Each of these headers.
    #[serde(serialize_with = "dump::header_matches")]
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Each of these parameters of the query, as it was sent.
    #[serde(serialize_with = "dump::query_matches")]
    pub query: Vec<(String, ValueMatch)>,
}

/// Which paths.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// All.
    #[default]
    Any,
    /// This one.
    Exact(String),
    /// Those that begin with these segments. No slash at the end, so `""` is every path.
    Prefix(String),
    /// Those that are this expression from end to end.
    Regex(Pattern),
}

/// A host in lower case, without a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPattern {
    /// This one.
    Exact(String),
    /// Every name that ends so; it begins with a dot.
    Below(String),
}

/// Which values of a header or a parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    /// This one.
    Exact(String),
    /// Those that begin so.
    Prefix(String),
    /// Those that are this expression from end to end.
    Regex(Pattern),
    /// Any, if there is one.
    Present,
    /// There is none.
    Absent,
}

/// A compiled regular expression over bytes. Equal to another one of the same text.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: regex::bytes::Regex,
}

/// How large a compiled expression may become, bytes: enough for what people write about paths, and
/// too little for nested repetitions that would make a match slow.
const PATTERN_BYTES: usize = 256 << 10;

impl Pattern {
    /// The expression `text`, in the syntax of the `regex` crate (RE2's, so a match takes linear
    /// time). Letters, digits and case are ASCII's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        // By itself first, or `a)(b` would be taken together with the anchors around it.
        compile(text)?;
        Ok(Pattern { text: text.to_owned(), regex: compile(&format!(r"\A(?:{text})\z"))? })
    }

    /// Whether it is all of `bytes`.
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
    }
}

fn compile(text: &str) -> Result<regex::bytes::Regex, String> {
    let mut builder = regex::bytes::RegexBuilder::new(text);
    let built = builder.unicode(false).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large: write fewer or smaller repetitions".to_owned(),
        other => {
            // The parser draws the whole pattern; its last line says what is wrong.
            let said = other.to_string();
            said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// One of the clusters that share a route's requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// Its name.
    pub cluster: String,
    /// Its share, relative to the others'; 0: none.
    pub weight: u32,
    /// Time limits of requests that go there by this route.
    pub timeouts: RequestTimeouts,
    /// Their retries after a failure.
    pub retry: Arc<Retry>,
}

/// What a request asks for instead.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Rewrite {
    /// The path.
    pub path: Option<PathRewrite>,
    /// The host.
    #[serde(serialize_with = "dump::optional_value")]
    pub authority: Option<HeaderValue>,
}

/// Another path. The query stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// This one.
    Whole(String),
    /// Its first `matched` bytes become `to`, neither of which ends with a slash.
    Prefix {
        /// How long the prefix is that was matched, bytes.
        matched: usize,
        /// What stands there instead.
        to: String,
    },
}

/// Where the client is sent; what is `None` is as in the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    #[serde(serialize_with = "dump::optional_text")]
    pub scheme: Option<Scheme>,
    /// The host, with a port if it has one.
    #[serde(serialize_with = "dump::optional_text")]
    pub authority: Option<Authority>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    #[serde(serialize_with = "dump::status")]
    pub status: StatusCode,
}

/// An answer of the sidecar's own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Respond {
    /// Its status.
    #[serde(serialize_with = "dump::status")]
    pub status: StatusCode,
    /// Its text.
    pub body: String,
}

/// Changes of headers. A name stands in one of the three only, so their order does not matter.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct HeaderEdits {
    /// Instead of what there was.
    #[serde(serialize_with = "dump::headers")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside what there was.
    #[serde(serialize_with = "dump::headers")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    #[serde(serialize_with = "dump::texts")]
    pub remove: Vec<HeaderName>,
}

/// Who gets a copy of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mirror {
    /// The cluster's name.
    pub cluster: String,
    /// Share of the requests, 0 to 1.
    pub share: f64,
}

/// What is done to requests on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Fault {
    /// How long they wait, and the share that does, 0 to 1.
    #[serde(serialize_with = "dump::delay")]
    pub delay: Option<(Duration, f64)>,
    /// What they are answered with instead, and the share that is, 0 to 1.
    #[serde(serialize_with = "dump::abort")]
    pub abort: Option<(StatusCode, f64)>,
}

impl Match {
    /// Whether every request that `other` matches is matched too, in the plain cases: paths under a
    /// prefix, hosts under a wildcard, and everything else said in the same words.
    pub fn covers(&self, other: &Match) -> bool {
        let path = match (&self.path, &other.path) {
            (PathMatch::Any, _) => true,
            (PathMatch::Prefix(prefix), PathMatch::Exact(path) | PathMatch::Prefix(path)) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            (one, other) => one == other,
        };
        fn holds<T>(all: &[T], other: &[T], weaker: impl Fn(&T, &T) -> bool) -> bool {
            all.is_empty()
                || !other.is_empty() && other.iter().all(|theirs| all.iter().any(|ours| weaker(ours, theirs)))
        }
        path && holds(&self.methods, &other.methods, |ours, theirs| ours == theirs)
            && holds(&self.authorities, &other.authorities, HostPattern::covers)
            && self.headers.iter().all(|ours| other.headers.contains(ours))
            && self.query.iter().all(|ours| other.query.contains(ours))
    }
}

impl HostPattern {
    fn covers(&self, other: &HostPattern) -> bool {
        match (self, other) {
            (HostPattern::Below(end), HostPattern::Exact(name) | HostPattern::Below(name)) => {
                name.len() > end.len() && name.ends_with(&**end) || self == other
            }
            (one, other) => one == other,
        }
    }
}
