//! Mistakes in a scenario file, each with its place, what is wrong and what to write instead.
//!
//! All mistakes of a file are collected and told in the order of the file, so that one run of `lab
//! check` is enough. A lone mistake is rendered as itself; several hang under one headline.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, LabeledSpan, SourceCode};
use proxy::config::excerpt::Excerpt;
use serde_spanned::Spanned;

/// One mistake.
#[derive(Debug, Clone)]
pub struct Mistake {
    message: String,
    labels: Vec<LabeledSpan>,
    help: Option<String>,
}

impl Mistake {
    /// A mistake in these bytes of the file; `label` stands under them.
    pub fn new(at: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> Self {
        let label = LabeledSpan::new_primary_with_span(Some(label.into()), at);
        Mistake { message: message.into(), labels: vec![label], help: None }
    }

    /// A name that means nothing here, with the names that would.
    pub fn unknown<'a>(what: &str, word: &Spanned<String>, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let message = format!("unknown {what} `{word}`");
        let mistake = Mistake::new(word.span(), message, format!("there is no such {what}"));
        if known.is_empty() {
            return mistake.help(format!("the file has no {what}"));
        }
        let hint = closest(word.get_ref(), known.iter().copied());
        let hint = hint.map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
        mistake.help(format!("{hint}known: {}", known.join(", ")))
    }

    /// Points at a second place that belongs to the mistake.
    pub fn also(mut self, at: Range<usize>, label: impl Into<String>) -> Self {
        self.labels.push(LabeledSpan::new_with_span(Some(label.into()), at));
        self
    }

    /// Says what to write instead.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where the mistake begins, in bytes from the start of the file.
    pub fn offset(&self) -> usize {
        self.labels.first().map_or(0, LabeledSpan::offset)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

/// The name that the user most likely meant: at most a third of its letters differ.
pub fn closest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distance = |name: &str| strsim::osa_distance(&word, &name.to_lowercase());
    let near = names.into_iter().map(|name| (distance(name), name)).min_by_key(|(d, _)| *d);
    near.filter(|(d, name)| *d <= name.chars().count().max(3) / 3).map(|(_, name)| name)
}

/// Where a part of a string stands in the file; the whole string if it is written with escapes.
pub fn inside(string: &Spanned<String>, part: Range<usize>, text: &str) -> Range<usize> {
    let span = string.span();
    let plain = text.get(span.start + 1..span.end.saturating_sub(1));
    match plain == Some(string.get_ref()) && !part.is_empty() {
        true => span.start + 1 + part.start..span.start + 1 + part.end,
        false => span,
    }
}

/// Everything that is wrong with a scenario file. Never empty.
#[derive(Debug, Clone)]
pub struct ScenarioErrors {
    source: Excerpt,
    mistakes: Vec<Mistake>,
}

impl ScenarioErrors {
    /// Collects the mistakes of a file.
    pub fn new(file: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(Mistake::offset);
        let source = Excerpt::new(file, text);
        for label in mistakes.iter_mut().flat_map(|mistake| &mut mistake.labels) {
            let span = source.words(label.offset()..label.offset() + label.len());
            *label = match label.primary() {
                true => LabeledSpan::new_primary_with_span(label.label().map(str::to_owned), span),
                false => LabeledSpan::new_with_span(label.label().map(str::to_owned), span),
            };
        }
        ScenarioErrors { source, mistakes }
    }

    /// The mistakes, in the order of the file.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for ScenarioErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mistakes[..] {
            [only] => only.fmt(f),
            all => write!(f, "{} has {} mistakes", self.source.name(), all.len()),
        }
    }
}

impl std::error::Error for ScenarioErrors {}

impl Diagnostic for ScenarioErrors {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match &self.mistakes[..] {
            [only] => only.help(),
            _ => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        match &self.mistakes[..] {
            [only] => only.labels(),
            _ => None,
        }
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        match &self.mistakes[..] {
            [_] => None,
            all => Some(Box::new(all.iter().map(|m| m as &dyn Diagnostic))),
        }
    }
}
