//! The trend: how each measure went over all comparisons that were kept, on one page without
//! scripts.
//!
//! Ratios of one comparison to the next are multiplied up, because values of different days, or
//! machines, cannot be compared and ratios can.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Comparison, bounds, percent, value};
use crate::finding::Finding;
use crate::statistics::Verdict;

/// Size of a plot, in pixels.
const PLOT: (f64, f64) = (360.0, 60.0);

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:76em;padding:0 1em;color:#222;background:#fff}\
    table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}svg{display:block}code{font-size:13px}\
    .regression{color:#b00020;font-weight:600}.improvement{color:#00693e}.unknown{color:#7a5c00}\
    @media (prefers-color-scheme:dark){body{color:#ddd;background:#161616}td,th{border-color:#333}\
    .regression{color:#ff7a85}.improvement{color:#5fd39c}.unknown{color:#e0bd5a}}";

/// The page. `all` are comparisons, oldest first.
pub fn page(all: &[Comparison]) -> String {
    let mut text = String::new();
    let _ = write(&mut text, all);
    text
}

fn write(text: &mut String, all: &[Comparison]) -> std::fmt::Result {
    write!(
        text,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>What the sidecar costs</title>\
         <style>{STYLE}</style><h1>What the sidecar costs</h1>\n<p>{} comparisons. A line shows what a measure \
         costs as a multiple of what it cost at first; the band is the interval of each step. Points \
         are revisions, each compared with the one before it; hover to see which. Of a pair that was \
         compared more than once, the newest comparison counts.</p>\n",
        all.len()
    )?;
    let mut measures: BTreeMap<&str, Vec<(&Comparison, &Finding)>> = BTreeMap::new();
    for comparison in all {
        for finding in &comparison.findings {
            let steps = measures.entry(&finding.measure).or_default();
            // A pair that is compared again has not changed again: the newest counts.
            steps.retain(|(earlier, _)| !same_pair(earlier, comparison));
            steps.push((comparison, finding));
        }
    }
    writeln!(
        text,
        "<table><tr><th>measure<th>last value<th>last change<th>since the first<th>verdict<th>trend</tr>"
    )?;
    for (measure, steps) in &measures {
        let Some((_, last)) = steps.last() else { continue };
        let total: f64 = steps.iter().map(|(_, finding)| finding.ratio).product();
        let class = match last.verdict {
            Verdict::Regression => "regression",
            Verdict::Improvement => "improvement",
            Verdict::NotEnoughEvidence => "unknown",
            Verdict::NoChange => "same",
        };
        write!(
            text,
            "<tr><td><code>{}</code><td class=\"n\">{} {}<td class=\"n\" title=\"{}\">{}<td class=\"n\">{}<td class=\"{class}\">{}<td>",
            escape(measure),
            value(last.head, last.unit),
            last.unit.word(),
            bounds(last),
            percent(last.ratio),
            percent(total),
            last.accepted
                .as_ref()
                .map_or_else(|| last.verdict.word().into(), |why| format!("accepted: {}", escape(why))),
        )?;
        plot(text, steps)?;
        writeln!(text, "</tr>")?;
    }
    writeln!(text, "</table>\n<h2>Comparisons</h2>\n<table><tr><th>base<th>head<th>form<th>verdict</tr>")?;
    for comparison in all.iter().rev() {
        writeln!(
            text,
            "<tr><td><code>{}</code><td><code>{}</code> {}<td>{}<td>{}</tr>",
            comparison.base.short(),
            comparison.head.short(),
            escape(&comparison.head.title),
            escape(&comparison.form),
            comparison.verdict(),
        )?;
    }
    writeln!(text, "</table></html>")
}

fn same_pair(one: &Comparison, other: &Comparison) -> bool {
    (&one.base.id, &one.head.id) == (&other.base.id, &other.head.id)
}

/// Cost over revisions, as a multiple of the first base.
fn plot(text: &mut String, steps: &[(&Comparison, &Finding)]) -> std::fmt::Result {
    let mut cost = 1.0;
    let mut points = vec![(1.0, 1.0, 1.0)];
    for (_, finding) in steps {
        let bound = |bound: Option<f64>| cost * bound.unwrap_or(finding.ratio);
        let (low, high) = (bound(finding.low), bound(finding.high));
        cost *= finding.ratio;
        points.push((low, cost, high));
    }
    let least = points.iter().map(|p| p.0).fold(0.98, f64::min);
    let most = points.iter().map(|p| p.2).fold(1.02, f64::max);
    let (width, height) = PLOT;
    let x = |i: usize| 4.0 + (width - 8.0) * i as f64 / (points.len() - 1) as f64;
    let y = |cost: f64| 4.0 + (height - 8.0) * (most - cost) / (most - least);
    write!(text, "<svg width=\"{width}\" height=\"{height}\" role=\"img\">")?;
    write!(
        text,
        "<line x1=\"0\" x2=\"{width}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#999\" stroke-dasharray=\"3\"/>",
        y(1.0)
    )?;
    for (i, (low, _, high)) in points.iter().enumerate() {
        let (x, low, high) = (x(i), y(*low), y(*high));
        write!(
            text,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\" stroke=\"#8ab\" stroke-width=\"4\" opacity=\".5\"/>"
        )?;
    }
    let line: Vec<String> =
        points.iter().enumerate().map(|(i, p)| format!("{:.1},{:.1}", x(i), y(p.1))).collect();
    write!(text, "<polyline points=\"{}\" fill=\"none\" stroke=\"#36c\"/>", line.join(" "))?;
    for (i, (comparison, finding)) in steps.iter().enumerate() {
        let color = if finding.is_alarm() { "#b00020" } else { "#36c" };
        write!(
            text,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"><title>{} {}: {}</title></circle>",
            x(i + 1),
            y(points[i + 1].1),
            comparison.head.short(),
            escape(&comparison.head.title),
            percent(finding.ratio),
        )?;
    }
    write!(text, "</svg>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::examples::comparison;
    use super::super::{Comparison, Named};

    #[test]
    fn each_measure_has_a_row_with_all_its_steps() {
        let first = comparison();
        let head = Named { id: "c".repeat(40), ..first.head.clone() };
        let second = Comparison { at: first.at + 1, base: first.head.clone(), head, ..first.clone() };
        let page = super::page(&[first, second]);
        let row = page.lines().find(|line| line.contains("cpu/http1/outbound")).unwrap();
        // 2.25 % twice.
        assert!(row.contains("+4.55 %") && row.matches("<circle").count() == 2, "{row}");
        assert!(page.contains("proxy: &lt;one&gt; | two") && !page.contains("<b>are"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn a_pair_that_was_compared_again_counts_once() {
        let first = comparison();
        let again = Comparison { at: first.at + 1, ..first.clone() };
        let page = super::page(&[first, again]);
        let row = page.lines().find(|line| line.contains("cpu/http1/outbound")).unwrap();
        assert_eq!((row.matches("+2.25 %").count(), row.matches("<circle").count()), (3, 1), "{row}");
    }
}
