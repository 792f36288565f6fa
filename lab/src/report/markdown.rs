//! Runs as Markdown, for the summary of a CI job: the verdict, what was expected and what it was,
//! and the loads.

use std::fmt::Write;

use super::Ran;
use super::terminal::time;
use crate::run::{Report, Verdict};

/// The text about these runs, in their order.
pub fn of(runs: &[Ran]) -> String {
    let mut out = String::new();
    for ran in runs {
        if !out.is_empty() {
            out.push('\n');
        }
        match &ran.result {
            Ok(report) => run(&mut out, ran, report),
            Err(why) => {
                let _ = writeln!(out, "### 🛑 cannot run: {}\n\n{}", cell(&ran.name()), cell(why));
            }
        }
    }
    out
}

fn run(out: &mut String, ran: &Ran, report: &Report) {
    let (mark, word) = match report.verdict {
        Verdict::Passed => ("✅", "passed"),
        Verdict::Failed => ("❌", "failed"),
        Verdict::Inconclusive => ("⚠️", "inconclusive"),
        Verdict::Interrupted => ("⚠️", "interrupted"),
    };
    let _ = writeln!(out, "### {mark} {word}: {}\n\n{}\n", cell(&report.plan.name), cell(&ran.name()));
    for reason in &report.reasons {
        let _ = writeln!(out, "- {}", cell(reason));
    }
    if !report.reasons.is_empty() {
        out.push('\n');
    }
    if !report.expectations.is_empty() {
        out.push_str("| | expectation | condition | measured |\n|---|---|---|---|\n");
    }
    for judged in &report.expectations {
        let mut name = cell(&judged.name);
        for condition in &judged.conditions {
            let mark = if condition.passed { "✅" } else { "❌" };
            let (text, shown) = (code(&condition.text), cell(&condition.shown));
            let _ = writeln!(out, "| {mark} | {name} | {text} | {shown} |");
            name.clear();
        }
    }
    if !report.loads.is_empty() && !report.expectations.is_empty() {
        out.push('\n');
    }
    if !report.loads.is_empty() {
        out.push_str("| load | requests | errors | p50 | p99 | max |\n|---|--:|--:|--:|--:|--:|\n");
    }
    for (load, s) in report.plan.loads.iter().zip(&report.loads) {
        let [p50, p99, max] = [s.p50_us, s.p99_us, s.max_us].map(time);
        let (name, errors) = (cell(&load.name), s.requests - s.ok);
        let _ = writeln!(out, "| {name} | {} | {errors} | {p50} | {p99} | {max} |", s.requests);
    }
}

/// A text that is no markup, and fits into a cell.
fn cell(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' => plain.push(' '),
            '|' | '<' | '*' | '_' | '\\' | '`' | '[' => plain.extend(['\\', c]),
            c => plain.push(c),
        }
    }
    plain
}

/// The same in a code span, where only what separates cells has a meaning.
fn code(text: &str) -> String {
    format!("`{}`", text.replace(['\n', '\r', '`'], " ").replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SidecarKind;
    use crate::report::terminal::tests::{failing, passing};

    #[test]
    fn a_summary_says_what_was_expected_and_what_it_was() {
        let ran = |kind, result| Ran { scenario: "scenarios/lose-one.toml".into(), kind, result };
        let mut odd = passing();
        odd.plan.name = "a|b <script> *c*\n# d".into();
        odd.expectations.clear();
        let runs = [
            ran(SidecarKind::Ours, Ok(passing())),
            ran(SidecarKind::None, Ok(failing())),
            ran(SidecarKind::Ours, Ok(odd)),
            ran(SidecarKind::Ours, Err("no root".into())),
        ];
        insta::assert_snapshot!(of(&runs));
    }
}
