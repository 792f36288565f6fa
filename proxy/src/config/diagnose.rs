//! Mistakes in a configuration, each with the words it is about and, wherever there is one, the
//! fix.
//!
//! A [`ConfigErrors`] is never empty. It is a [`miette::Diagnostic`], so that `miette::Report`
//! draws the file, the line and the words; [`ConfigErrors::lines`] says in one line for each
//! mistake what a log may hold. Nothing here knows what a configuration means.
//!
//! Invariant: no text that is a value in the file gets into a log, since any may be a secret. What
//! was put together at run time may hold one: of a message what stands in double quotes is left
//! out, so that is how messages quote values, and a help is left out as a whole. Literals are kept.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, LabeledSpan, SourceCode};

use super::excerpt::Excerpt;

/// One mistake.
#[derive(Debug, Clone)]
pub struct ConfigError {
    message: Cow<'static, str>,
    help: Option<Cow<'static, str>>,
    labels: Vec<LabeledSpan>,
    source: Excerpt,
}

impl ConfigError {
    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// `file:line:column`, counted from 1, of the words that the mistake is about.
    pub fn place(&self) -> String {
        let before = self.source.text().get(..self.offset()).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.source.name())
    }

    /// The place, what is wrong and what to do, without what the file says there.
    fn line(&self) -> String {
        let place = self.place();
        let message = match &self.message {
            Cow::Borrowed(message) => (*message).into(),
            Cow::Owned(message) => without_quoted(message),
        };
        match &self.help {
            Some(Cow::Borrowed(help)) => format!("{place}: {message} ({help})"),
            Some(Cow::Owned(_)) | None => format!("{place}: {message}"),
        }
    }

    /// Where the words begin that the mistake is about, in bytes.
    fn offset(&self) -> usize {
        self.labels.first().map_or(0, LabeledSpan::offset)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic for ConfigError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as _)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

/// Every mistake that was found, in the order of the file. At least one.
#[derive(Debug, Clone)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The mistakes.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// One line for each mistake, `file:line:column: what is wrong (what to do)`, for logs: without
    /// what the file says there.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(ConfigError::line)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => one.fmt(f),
            [first, ..] => write!(f, "{} has {} mistakes", first.source.name(), self.0.len()),
            [] => Ok(()),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// A single mistake is shown as itself; several as a list under a headline.
impl Diagnostic for ConfigErrors {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        if let [one] = &self.0[..] { one.help() } else { None }
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        if let [one] = &self.0[..] { one.source_code() } else { None }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        if let [one] = &self.0[..] { one.labels() } else { None }
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if let [_] = &self.0[..] {
            None
        } else {
            Some(Box::new(self.0.iter().map(|error| error as &dyn Diagnostic)))
        }
    }
}

/// Where mistakes in one text are gathered.
pub(super) struct Diagnostics {
    source: Excerpt,
    found: Vec<ConfigError>,
}

impl Diagnostics {
    /// None so far in the text that was called `name`.
    pub(super) fn new(name: &str, text: &str) -> Self {
        Diagnostics { source: Excerpt::new(name, text), found: Vec::new() }
    }

    /// Notes one, about the words at `span`.
    pub(super) fn add(
        &mut self,
        message: impl Into<Cow<'static, str>>,
        span: Range<usize>,
        label: impl Into<String>,
    ) -> Noted<'_> {
        let span = self.source.words(span);
        self.found.push(ConfigError {
            message: message.into(),
            help: None,
            labels: vec![LabeledSpan::new_primary_with_span(Some(label.into()), span)],
            source: self.source.clone(),
        });
        Noted(self.found.last_mut().expect("it was just pushed"))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The mistakes, or `good` if there was none.
    pub(super) fn finish<T>(mut self, good: T) -> Result<T, ConfigErrors> {
        if self.found.is_empty() {
            return Ok(good);
        }
        self.found.sort_by_key(ConfigError::offset);
        // What a route says of limits is read once for each cluster that it leads to.
        self.found.dedup_by(|later, earlier| {
            later.message == earlier.message && later.help == earlier.help && later.labels == earlier.labels
        });
        Err(ConfigErrors(self.found))
    }
}

/// A mistake that was just noted, to say more about.
pub(super) struct Noted<'a>(&'a mut ConfigError);

impl Noted<'_> {
    /// The fix.
    pub(super) fn help(self, help: impl Into<Cow<'static, str>>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Another place that has to do with it.
    pub(super) fn also(self, span: Range<usize>, label: impl Into<String>) -> Self {
        let span = self.0.source.words(span);
        self.0.labels.push(LabeledSpan::new_with_span(Some(label.into()), span));
        self
    }
}

/// `message` without all from its first double quote to its last: a text that is quoted may have
/// some itself.
fn without_quoted(message: &str) -> Cow<'_, str> {
    match message.find('"').zip(message.rfind('"')) {
        Some((first, last)) => format!("{}\"...\"{}", &message[..first], &message[last + 1..]).into(),
        None => message.into(),
    }
}

/// The candidate that `word` was probably meant to be.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`, with `quote` around each.
pub(super) fn one_of(words: &[&str], quote: char) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{quote}{word}{quote}")).collect();
    match &quoted[..] {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
