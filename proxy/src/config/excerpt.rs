//! The text that a mistake points at, of which no more is shown than a person reads: of a long line
//! only what stands around the words. A generated file may have all in one line, and what draws the
//! lines cannot draw 65 536 columns.

use std::ops::Range;
use std::sync::Arc;

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// Bytes of a line that is shown whole.
const LONGEST: usize = 1000;
/// Bytes that are shown before and after the words in a longer one.
const AROUND: usize = 60;
/// Bytes of the words that are pointed at there.
const WORDS: usize = 200;

/// A text and what it is called.
#[derive(Debug, Clone)]
pub struct Excerpt {
    name: String,
    text: Arc<str>,
}

impl Excerpt {
    /// Of `text`, which errors call `name`.
    pub fn new(name: &str, text: &str) -> Self {
        Excerpt { name: name.to_owned(), text: text.into() }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The part of `span` that is pointed at.
    pub fn words(&self, span: Range<usize>) -> Range<usize> {
        let is_long = self.lines_around(&span).split('\n').any(|line| line.len() > LONGEST);
        let end = if is_long { span.end.min(span.start + WORDS) } else { span.end };
        span.start..self.text.ceil_char_boundary(end.min(self.text.len()))
    }

    /// Where the line begins that `at` is in, and where it ends.
    fn line(&self, at: usize) -> Range<usize> {
        let at = self.text.floor_char_boundary(at.min(self.text.len()));
        let start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline);
        start..end
    }

    /// The whole lines of `span`.
    fn lines_around(&self, span: &Range<usize>) -> &str {
        &self.text[self.line(span.start).start..self.line(span.end.max(span.start)).end]
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let whole = self.text.as_bytes().read_span(span, lines_before, lines_after)?;
        let is_long = whole.data().split(|byte| *byte == b'\n').any(|line| line.len() > LONGEST);
        let (data, span, line, column, count) = if is_long {
            let line = self.line(span.offset());
            let start = self.text.floor_char_boundary(span.offset().saturating_sub(AROUND).max(line.start));
            let words = span.len().min(WORDS + 2 * AROUND);
            let end = (span.offset() + words + AROUND).min(line.end).max(start);
            let end = self.text.ceil_char_boundary(end);
            let number = self.text[..line.start].matches('\n').count();
            (&self.text.as_bytes()[start..end], (start, end - start).into(), number, start - line.start, 1)
        } else {
            (whole.data(), *whole.span(), whole.line(), whole.column(), whole.line_count())
        };
        Ok(Box::new(MietteSpanContents::new_named(self.name.clone(), data, span, line, column, count)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::diagnose::Diagnostics;

    /// As a person sees it.
    fn drawn(text: &str, spans: &[std::ops::Range<usize>]) -> String {
        let mut diagnostics = Diagnostics::new("a.toml", text);
        for pair in spans.chunks(2) {
            let noted = diagnostics.add("it is wrong", pair[0].clone(), "here");
            if let Some(other) = pair.get(1) {
                noted.also(other.clone(), "and here");
            }
        }
        format!("{:?}", miette::Report::new(diagnostics.finish(()).unwrap_err()))
    }

    #[test]
    fn of_a_long_line_only_what_stands_around_the_words_is_shown() {
        let text = format!("one = 1\nname = \"{}\" wrong\nlast = 2\n", "ä".repeat(100_000));
        let at = text.find("wrong").unwrap();
        let words = at..at + 5;
        let drawn = drawn(&text, std::slice::from_ref(&words));
        assert!(drawn.contains("wrong") && drawn.contains("here") && drawn.len() < 1000, "{drawn}");
        assert!(drawn.contains("a.toml:2:"), "{drawn}");
    }

    proptest! {
        #[test]
        fn whatever_is_wrong_wherever_it_is_drawn(
            lines in proptest::collection::vec((0..3_usize, 0..90_000_usize), 1..4),
            spans in proptest::collection::vec((0.0..1.0_f64, prop_oneof![0..10_usize, 0..80_000_usize]), 1..5),
        ) {
            let text: String = lines.iter().map(|(c, length)| ["a", "ö", "\t"][*c].repeat(*length) + "\n").collect();
            let spans: Vec<_> = spans.iter().map(|(at, length)| {
                let start = text.floor_char_boundary((text.len() as f64 * at) as usize);
                start..text.ceil_char_boundary((start + length).min(text.len()))
            }).collect();
            prop_assert!(drawn(&text, &spans).contains("it is wrong"));
        }
    }
}
