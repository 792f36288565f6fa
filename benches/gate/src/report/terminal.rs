//! One screen: what fails, what is not known, what is better, and how many are unchanged.

use std::fmt::Write as _;

use super::{Comparison, columns, no_time_for, percent};
use crate::failure::printable;
use crate::finding::Finding;
use crate::statistics::Verdict;

/// Unchanged measures that are shown one by one: with more of them, only their number is.
const UNCHANGED: usize = 12;

/// For people at a terminal. `all` shows every measure.
pub fn text(comparison: &Comparison, all: bool) -> String {
    let mut text = String::new();
    let _ = write(&mut text, comparison, all);
    printable(&text)
}

fn write(text: &mut String, comparison: &Comparison, all: bool) -> std::fmt::Result {
    for (word, revision) in [("base", &comparison.base), ("head", &comparison.head)] {
        writeln!(text, "{word}  {}  {}", revision.short(), revision.title)?;
    }
    let is_news = |finding: &&Finding| finding.verdict != Verdict::NoChange;
    let unchanged = comparison.findings.iter().filter(|finding| !is_news(finding)).count();
    let shows_unchanged = all || unchanged <= UNCHANGED;
    let shown: Vec<&Finding> =
        comparison.findings.iter().filter(|finding| shows_unchanged || is_news(finding)).collect();
    if !shown.is_empty() {
        writeln!(
            text,
            "\n{:<32} {:>10} {:>10} {:<12} {:>10}  {:<22} {:>9}  verdict",
            "measure", "base", "head", "", "change", "interval", "threshold"
        )?;
    }
    for finding in shown {
        let [measure, base, head, unit, change, interval, threshold] = columns(finding);
        let verdict = verdict(finding);
        writeln!(
            text,
            "{measure:<32} {base:>10} {head:>10} {unit:<12} {change:>10}  {interval:<22} {threshold:>9}  {verdict}"
        )?;
    }
    if unchanged > 0 && !shows_unchanged {
        let widest = comparison.findings.iter().filter(|finding| !is_news(finding));
        let widest = widest.max_by(|a, b| (a.ratio - 1.0).abs().total_cmp(&(b.ratio - 1.0).abs()));
        if let Some(widest) = widest {
            writeln!(
                text,
                "\n{unchanged} measures are unchanged; the widest change is {} ({})",
                percent(widest.ratio),
                widest.measure
            )?;
        }
    }
    for left_out in &comparison.left_out {
        writeln!(text, "not compared: {left_out}")?;
    }
    if let Some(names) = no_time_for(comparison) {
        writeln!(text, "no time for: {names}")?;
    }
    writeln!(text, "\n{}", comparison.verdict())
}

fn verdict(finding: &Finding) -> String {
    match &finding.accepted {
        Some(reason) => format!("accepted: {reason}"),
        None => finding.verdict.word().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::comparison;
    use super::*;

    #[test]
    fn each_finding_is_a_line_with_its_verdict() {
        let text = text(&comparison(), true);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [
            "base bbbbbbbbbb where the branch left main",
            "cpu/http1/outbound 20.2 20.7 us +2.25 % +1.50 % to +3.00 % +1.00 % REGRESSION",
            "accepted: calls <b>are</b> signed",
            "no bounds",
            "exact",
            "not compared: kernels: the base has none",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    }

    #[test]
    fn many_unchanged_measures_are_a_line() {
        let mut comparison = comparison();
        let unchanged = comparison.findings.iter().find(|f| f.verdict == Verdict::NoChange).cloned().unwrap();
        comparison.findings.extend(std::iter::repeat_n(unchanged, 80));
        let short = text(&comparison, false);
        assert!(short.contains("81 measures are unchanged; the widest change is +0.05 %"), "{short}");
        assert!(short.lines().count() < 24, "{short}");
        assert!(text(&comparison, true).lines().count() > 80);
    }
}
