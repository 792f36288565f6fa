//! Why there is no verdict, and the exit code that says so.

use std::fmt::Display;
use std::io;

/// The exit code for a mistake in the arguments, the settings or a revision.
const INVALID: u8 = 2;
/// The exit code if this machine cannot do it.
pub const CANNOT_RUN: u8 = 3;

/// Why there is no verdict.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub code: u8,
    /// For people.
    pub words: String,
}

impl Failure {
    /// A mistake of whoever asked.
    pub fn invalid(words: impl Display) -> Failure {
        Failure { code: INVALID, words: words.to_string() }
    }

    /// This machine cannot do it.
    pub fn cannot(words: impl Display) -> Failure {
        Failure { code: CANNOT_RUN, words: words.to_string() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::cannot(error)
    }
}

/// `text` with nothing in it that a terminal would obey: titles of commits come from strangers.
pub fn printable(text: &str) -> String {
    let harmless = |c: char| {
        let reorders =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c == '\n' || !(c.is_control() || reorders)
    };
    text.chars().map(|c| if harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_nothing_that_it_would_obey() {
        assert_eq!(
            printable("a\u{1b}[31mb\r\u{9b}c\nd\u{202e}é"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}c\nd\u{fffd}é"
        );
    }
}
