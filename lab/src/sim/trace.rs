//! The full history of a simulated run as text: one line for every connection, payload, segment and
//! process event.
//!
//! Two runs of one seed must give the same lines, in one process, in two, and on any thread; the
//! trace is how that is tested and how a difference is found. Payloads appear as length and hash.
//! Collecting is off unless asked for, since formatting costs more than the simulation itself.

use std::fmt::Write;

/// Everything that happened, in order. Equal traces mean equal histories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    on: bool,
    lines: Vec<String>,
}

impl Trace {
    pub(super) fn new(on: bool) -> Self {
        Trace { on, lines: Vec::new() }
    }

    /// Adds a line, formatted only if someone wants it. `now` is virtual time in nanoseconds.
    pub(super) fn note(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.on {
            self.lines.push(format!("{:>13.6} {}", now as f64 / 1e9, line()));
        }
    }

    /// The lines: virtual time in seconds, then what happened. Empty unless collecting was asked
    /// for.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// One number for the whole history.
    pub fn hash(&self) -> u64 {
        self.lines.iter().fold(FNV_START, |hash, line| fnv(fnv(hash, line.as_bytes()), b"\n"))
    }

    /// The first place where two histories part, with the lines before it, or `None` if they are
    /// equal.
    pub fn first_difference(&self, other: &Trace) -> Option<String> {
        let same = self.lines.iter().zip(&other.lines).take_while(|(a, b)| a == b).count();
        if same == self.lines.len() && same == other.lines.len() {
            return None;
        }
        let mut text = String::new();
        for line in &self.lines[same.saturating_sub(3)..same] {
            let _ = writeln!(text, "  {line}");
        }
        let end = "(end)".to_owned();
        let _ = writeln!(text, "- {}", self.lines.get(same).unwrap_or(&end));
        let _ = writeln!(text, "+ {}", other.lines.get(same).unwrap_or(&end));
        Some(text)
    }
}

pub(super) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, continued from `hash`: stable across releases, which the standard library's hasher does
/// not promise.
pub(super) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown_with_what_came_before() {
        let mut a = Trace::new(true);
        a.note(1_000_000, || "one".into());
        let mut b = a.clone();
        assert_eq!(a.first_difference(&b), None);
        a.note(2_000_000, || "two".into());
        b.note(2_000_000, || "three".into());
        let text = a.first_difference(&b).expect("they differ");
        assert!(text.contains("one") && text.contains("- ") && text.contains("three"), "{text}");
        assert_ne!(a.hash(), b.hash());
    }

    #[test]
    fn nothing_is_formatted_when_nobody_asked() {
        let mut trace = Trace::new(false);
        trace.note(0, || unreachable!("not asked for"));
        assert!(trace.lines().is_empty());
    }
}
