//! A comment for a pull request.

use std::fmt::Write as _;

use super::{Comparison, columns, no_time_for};
use crate::finding::Finding;
use crate::statistics::Verdict;

/// As Markdown. What is unchanged is folded.
pub fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    let _ = write(&mut text, comparison);
    text
}

fn write(text: &mut String, comparison: &Comparison) -> std::fmt::Result {
    writeln!(text, "### What this change costs: {}\n", escape(&comparison.verdict()))?;
    let (base, head) = (&comparison.base, &comparison.head);
    writeln!(
        text,
        "`{}` ({}) against `{}` ({}), {} form.\n",
        head.short(),
        escape(&head.title),
        base.short(),
        escape(&base.title),
        comparison.form
    )?;
    let (unchanged, news): (Vec<&Finding>, Vec<&Finding>) =
        comparison.findings.iter().partition(|finding| finding.verdict == Verdict::NoChange);
    if !news.is_empty() {
        table(text, &news)?;
    }
    if !unchanged.is_empty() {
        writeln!(text, "<details><summary>{} measures are unchanged</summary>\n", unchanged.len())?;
        table(text, &unchanged)?;
        writeln!(text, "</details>")?;
    }
    for left_out in &comparison.left_out {
        writeln!(text, "\nNot compared: {}", escape(left_out))?;
    }
    if let Some(names) = no_time_for(comparison) {
        writeln!(text, "\nNo time for: {}", escape(&names))?;
    }
    Ok(())
}

fn table(text: &mut String, findings: &[&Finding]) -> std::fmt::Result {
    writeln!(text, "| measure | base | head | | change | interval | threshold | verdict |")?;
    writeln!(text, "|---|--:|--:|---|--:|---|--:|---|")?;
    for finding in findings {
        let verdict = match &finding.accepted {
            Some(reason) => format!("accepted: {}", escape(reason)),
            None if finding.is_alarm() => format!("**{}**", finding.verdict.word()),
            None => finding.verdict.word().into(),
        };
        let [measure, base, head, unit, change, interval, threshold] = columns(finding);
        writeln!(
            text,
            "| `{measure}` | {base} | {head} | {unit} | {change} | {interval} | {threshold} | {verdict} |"
        )?;
    }
    writeln!(text)
}

/// Titles come from strangers.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '@' | '#' => escaped.extend(['\\', c]),
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::examples::comparison;

    #[test]
    fn regressions_stand_above_the_fold_and_titles_are_only_text() {
        let text = super::text(&comparison());
        let fold = text.find("<details>").unwrap();
        let regression = text.find("| `cpu/http1/outbound` | 20.2 | 20.7 | us | +2.25 % | +1.50 % to +3.00 % | +1.00 % | **REGRESSION** |");
        assert!(regression.unwrap() < fold, "{text}");
        assert!(text.find("`memory/idle/inbound`").unwrap() > fold);
        assert!(
            text.contains("(proxy: &lt;one> \\| two)") && text.contains("calls &lt;b>are&lt;/b> signed"),
            "{text}"
        );
    }
}
