//! `[load.NAME]`: the keys of every load, and those that only some protocols have.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;

use crate::syntax::diagnose::Mistake;
use crate::syntax::units::{Rate, Span};

/// Default of [`LoadTable::timeout`].
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// `[load.NAME]`: an open-loop generator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadTable {
    /// The instance or service that it runs in (on the first instance of a service).
    pub from: Spanned<String>,
    /// `"http://SERVICE:PORT/path"`, `"grpc://SERVICE:PORT/package.Service/Method"` or
    /// `"tcp://SERVICE:PORT"`.
    pub url: Spanned<String>,
    /// Requests a second, sent on time whether or not earlier ones were answered.
    pub rate: Spanned<Rate>,
    /// HTTP method. Default `GET`.
    pub method: Option<Spanned<String>>,
    /// Bytes in each request body. Default 0.
    pub body: Option<Spanned<u32>>,
    /// When a request counts as failed. Default 1 s.
    pub timeout: Option<Spanned<Span>>,
    /// How long a client waits after the head of an answer before it reads the body. Default: not
    /// at all.
    pub read_delay: Option<Spanned<Span>>,
    /// How long a gRPC client waits after its message before it ends its half of the call. Default:
    /// not at all.
    pub end_delay: Option<Spanned<Span>>,
    /// When it begins, from the start of the measured part. Default: with the warm-up.
    pub at: Option<Spanned<Span>>,
    /// How long it lasts. Default: to the end.
    #[serde(default, rename = "for")]
    pub lasts: Option<Spanned<Span>>,
    /// Headers of each request.
    #[serde(default)]
    pub headers: BTreeMap<Spanned<String>, Spanned<String>>,
}

impl LoadTable {
    /// The keys that it has and that only some protocols take, and where each is written.
    pub(super) fn own_keys(&self) -> Vec<(&'static str, Range<usize>)> {
        let all = [
            ("method", self.method.as_ref().map(Spanned::span)),
            ("body", self.body.as_ref().map(Spanned::span)),
            ("headers", self.headers.keys().next().map(Spanned::span)),
            ("read_delay", self.read_delay.as_ref().map(Spanned::span)),
            ("end_delay", self.end_delay.as_ref().map(Spanned::span)),
        ];
        all.into_iter().filter_map(|(key, at)| at.map(|at| (key, at))).collect()
    }

    /// Bytes in each request body.
    pub(super) fn body(&self) -> u32 {
        self.body.as_ref().map_or(0, |body| *body.get_ref())
    }

    /// Headers of each request, by their names in lower case.
    pub(super) fn headers(&self, mistakes: &mut Vec<Mistake>) -> BTreeMap<String, String> {
        let mut headers = BTreeMap::new();
        for (name, value) in &self.headers {
            if http::HeaderName::from_bytes(name.get_ref().as_bytes()).is_err() {
                let message = format!("`{name}` cannot be the name of a header");
                let mistake = Mistake::new(name.span(), message, "not a header's name");
                mistakes.push(mistake.help("letters, digits and hyphens, such as x-user"));
            }
            if http::HeaderValue::from_str(value.get_ref()).is_err() {
                let message = format!("`{value}` cannot be the value of a header");
                let mistake = Mistake::new(value.span(), message, "not a header's value");
                mistakes.push(mistake.help("printable characters, on one line"));
            }
            headers.insert(name.get_ref().to_ascii_lowercase(), value.get_ref().clone());
        }
        headers
    }
}
