//! One simulated history as a page: faults, the sidecars' view of endpoints, every request with its
//! attempts, and the log.
//!
//! One file without scripts and without anything from elsewhere, so that it can be attached to a
//! bug. Colours are those of Okabe and Ito, which people with colour-blindness tell apart; whatever
//! a colour says, hovering says in words.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::facts::{EndpointChange, Facts, Request, RequestStep};
use super::invariant::InvariantViolation;
use super::lines::Note;
use crate::fault::Entry;
use crate::sim::LogLine;

/// Pixels of the time axis, and of the names left of it.
const WIDTH: f64 = 1000.0;
const LEFT: f64 = 190.0;
/// Pixels of a lane, and of a request.
const LANE: f64 = 18.0;
const ROW: f64 = 7.0;
/// How much of the log around a violation is shown at once, microseconds before and after.
const AROUND: (u64, u64) = (200_000, 50_000);

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --faint: #d8d8d8; --band: #8884 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --faint: #3a3d42; --band: #9996 } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 24px auto; max-width: 1230px }
h1 { font-size: 20px; margin: 0 } h2 { font-size: 15px; margin: 24px 0 6px }
code, pre, td { font: 12px/1.4 ui-monospace, monospace } pre { overflow-x: auto }
.bad { color: #d55e00; font-weight: 600 } .good { color: #009e73; font-weight: 600 }
svg { display: block } text { fill: var(--ink); font: 11px ui-monospace, monospace }
.grid { stroke: var(--faint) } .fault { fill: var(--band) } .violation { stroke: #d55e00; stroke-width: 2 }
.ok { fill: #009e73 } .failed { fill: #d55e00 } .wait { fill: none; stroke: var(--ink); stroke-dasharray: 2 2 }
.attempt { fill: #0072b2 } .ejected { fill: #cc79a7 } .probing { fill: #f0e442 } .unhealthy { fill: #56b4e9 } .gone { fill: #999 }
.legend span { display: inline-block; width: 11px; height: 11px; margin: 0 4px 0 14px; vertical-align: -1px }
table { border-collapse: collapse } td { padding: 0 12px 0 0; vertical-align: top; white-space: pre-wrap } .at { text-align: right }
tr.here td { background: #d55e0033 }
";

/// The page. `replay` is the command that makes this history again, `scenario` the text of what was
/// run.
pub fn html(facts: &Facts, violations: &[InvariantViolation], scenario: &str, replay: &str) -> String {
    let name = escaped(&facts.plan.name);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{name}</title>\n<style>{STYLE}</style>\n\
         <h1>{name}</h1>\n<p>seed {}, {:.3} s of virtual time, {} requests, <code>{}</code></p>\n",
        facts.plan.seed,
        end(facts) as f64 / 1e6,
        facts.requests.len(),
        escaped(replay),
    );
    if violations.is_empty() {
        page += "<p class=\"good\">No invariant is violated.</p>\n";
    }
    for violation in violations {
        let at = violation.violation.at as f64 / 1e6;
        let (says, what) = (escaped(violation.says), escaped(&violation.violation.what));
        let _ = writeln!(
            page,
            "<p><span class=\"bad\">{}</span>: {says}; but at {at:.3} s {what}</p>",
            violation.invariant
        );
    }
    page += &drawing(facts, violations);
    for violation in violations.iter().take(3) {
        let at = violation.violation.at;
        let near = |line: &&LogLine| (at.saturating_sub(AROUND.0)..=at + AROUND.1).contains(&line.at_us);
        let _ = writeln!(page, "<h2>Around {:.3} s</h2>", at as f64 / 1e6);
        page += &table(facts.log.iter().filter(near), at);
    }
    let _ = writeln!(page, "<h2>What was run</h2>\n<pre>{}</pre>", escaped(scenario));
    let _ = writeln!(page, "<details><summary>The whole log, {} lines</summary>", facts.log.len());
    page += &table(facts.log.iter(), u64::MAX);
    page += "</details>\n</html>\n";
    page
}

fn end(facts: &Facts) -> u64 {
    facts.log.last().map_or(1, |line| line.at_us.max(1))
}

/// Everything on one time axis.
fn drawing(facts: &Facts, violations: &[InvariantViolation]) -> String {
    let end = end(facts);
    let x = |at: u64| LEFT + at.min(end) as f64 / end as f64 * WIDTH;
    let mut body = String::new();
    let mut y = 24.0;
    let mut lane = |body: &mut String, name: &str, height: f64| {
        let top = y;
        y += height;
        let _ = writeln!(body, "<text x=\"0\" y=\"{:.0}\">{}</text>", top + 12.0, escaped(name));
        top
    };
    for (instance, described) in facts.plan.instances.iter().enumerate() {
        let bands: Vec<_> =
            facts.plan.timeline.iter().filter(|entry| entry.action.touches(instance)).collect();
        if bands.is_empty() {
            continue;
        }
        let top = lane(&mut body, &format!("{} faults", described.name), LANE);
        for entry in bands {
            let (from, to) = in_force(facts, entry, end);
            let words = format!(
                "{}, {:.3} s to {:.3} s: {:?}",
                entry.name,
                from as f64 / 1e6,
                to as f64 / 1e6,
                entry.action
            );
            band(&mut body, "fault", (x(from), x(to)), (top, LANE - 4.0), &words);
        }
    }
    for ((process, endpoint), bands) in availability(facts, end) {
        let top = lane(&mut body, &format!("{process} {endpoint}"), LANE);
        for (from, to, class, words) in bands {
            band(&mut body, class, (x(from), x(to)), (top, LANE - 4.0), &words);
        }
    }
    for request in &facts.requests {
        let first = std::ptr::eq(request, &facts.requests[0]);
        let top = lane(&mut body, if first { "requests" } else { "" }, ROW);
        draw(&mut body, request, top, end, x);
    }
    let height = y + 8.0;
    let mut grid = String::new();
    for tenth in 0..=10 {
        let at = end * tenth / 10;
        let (place, seconds) = (x(at), at as f64 / 1e6);
        let _ = writeln!(
            grid,
            "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"16\" y2=\"{height:.0}\"/>"
        );
        let _ = writeln!(grid, "<text x=\"{:.1}\" y=\"11\">{seconds:.2} s</text>", place - 12.0);
    }
    for violation in violations {
        let (place, words) = (x(violation.violation.at), escaped(&violation.to_string()));
        let _ = writeln!(
            body,
            "<line class=\"violation\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"16\" y2=\"{height:.0}\"><title>{words}</title></line>"
        );
    }
    let legend: String = [
        ("009e73", "answered"),
        ("d55e00", "failed"),
        ("0072b2", "an attempt that was not the last"),
        ("cc79a7", "ejected"),
        ("f0e442", "half-open"),
        ("56b4e9", "unhealthy"),
        ("999", "not in the registry"),
        ("888888", "fault in force"),
    ]
    .iter()
    .map(|(colour, words)| format!("<span style=\"background:#{colour}\"></span>{words}"))
    .collect();
    format!(
        "<p class=\"legend\">{legend}</p>\n<svg viewBox=\"0 0 {:.0} {height:.0}\" width=\"100%\">\n{grid}{body}</svg>\n",
        LEFT + WIDTH + 30.0
    )
}

fn band(body: &mut String, class: &str, (from, to): (f64, f64), (top, height): (f64, f64), words: &str) {
    let (width, words) = ((to - from).max(1.5), escaped(words));
    let _ = writeln!(
        body,
        "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"><title>{words}</title></rect>"
    );
}

/// A request: each attempt from its pick to its end, and the waits between.
fn draw(body: &mut String, request: &Request, top: f64, end: u64, x: impl Fn(u64) -> f64) {
    let good =
        request.steps.iter().any(|(_, step)| matches!(step, RequestStep::Done(status) if *status < 500));
    let over = request.done().unwrap_or(end);
    let mut words = format!("to {} at {:.3} s", request.cluster, request.begun as f64 / 1e6);
    for (when, step) in &request.steps {
        let _ = write!(words, "\n{:.3} s {step:?}", when.at as f64 / 1e6);
    }
    let _ = writeln!(body, "<g><title>{}</title>", escaped(&words));
    let picks: Vec<u64> = request.picks().map(|(when, ..)| when.at).collect();
    for (nth, &from) in picks.iter().enumerate() {
        let ended =
            |step: &RequestStep| matches!(step, RequestStep::Answered { .. } | RequestStep::Failed { .. });
        let to = request
            .steps
            .iter()
            .find(|(when, step)| when.at >= from && ended(step))
            .map_or(over, |(w, _)| w.at);
        let class = match (nth + 1 == picks.len(), good) {
            (false, _) => "attempt",
            (true, true) => "ok",
            (true, false) => "failed",
        };
        let (place, width) = (x(from), (x(to) - x(from)).max(1.5));
        let _ = writeln!(
            body,
            "<rect class=\"{class}\" x=\"{place:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            ROW - 2.0
        );
    }
    let middle = top + ROW / 2.0 - 1.0;
    let _ = writeln!(
        body,
        "<path class=\"wait\" d=\"M{:.1} {middle:.1}H{:.1}\"/></g>",
        x(request.begun),
        x(over)
    );
}

type Band = (u64, u64, &'static str, String);

/// Each sidecar's view of each endpoint that was ever unavailable.
fn availability(facts: &Facts, end: u64) -> BTreeMap<(String, String), Vec<Band>> {
    let mut bands: BTreeMap<(String, String), Vec<Band>> = BTreeMap::new();
    for update in &facts.availability {
        let (class, words) = match &update.change {
            EndpointChange::Ejected(time, reason) => ("ejected", format!("ejected for {time:?}: {reason}")),
            EndpointChange::Probing => ("probing", "a request probes whether it is back".to_owned()),
            EndpointChange::Healthy(false) => ("unhealthy", "active checks fail".to_owned()),
            EndpointChange::Gone => ("gone", "the registry does not have it".to_owned()),
            EndpointChange::Restored(_) | EndpointChange::Healthy(true) | EndpointChange::Found => {
                ("", String::new())
            }
            EndpointChange::Unanswered | EndpointChange::CheckFailed | EndpointChange::CheckPassed => {
                continue;
            }
        };
        let key = (update.process.to_string(), update.endpoint.clone());
        let lane = bands.entry(key).or_default();
        if let Some(last) = lane.last_mut() {
            last.1 = last.1.min(update.when.at);
        }
        if !class.is_empty() {
            lane.push((update.when.at, end, class, words));
        }
    }
    bands.retain(|_, lane| !lane.is_empty());
    bands
}

/// When a fault came into force and when it was taken back, as the lab noted it.
fn in_force(facts: &Facts, entry: &Entry, end: u64) -> (u64, u64) {
    let noted = |what: Note| facts.notes().find(|(_, note)| **note == what).map(|(when, _)| when.at);
    let from = noted(Note::Applied(entry.name.clone()));
    let to = noted(Note::Reverted(entry.name.clone()));
    (from.unwrap_or_else(|| facts.time_us(entry.at)), to.unwrap_or(end))
}

fn table<'a>(lines: impl Iterator<Item = &'a LogLine>, here: u64) -> String {
    let mut text = String::from("<table>\n");
    for line in lines {
        let class = if line.at_us == here { " class=\"here\"" } else { "" };
        let (at, process) = (line.at_us as f64 / 1e6, escaped(&line.process));
        let words = escaped(&line.to_string());
        let _ = writeln!(text, "<tr{class}><td class=\"at\">{at:.3} s<td>{process}<td>{words}");
    }
    text + "</table>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use proxy::mutant::Mutant;

    use super::*;
    use crate::swarm::{Drawn, SwarmOptions, run_schedule};

    #[test]
    fn every_request_and_every_fault_is_on_the_page_and_a_violation_is_told_in_words() {
        let options = SwarmOptions { mutant: Some(Mutant::UncountedRetry) };
        let schedule = Drawn::new(1).schedule();
        let run = run_schedule(&schedule, options).expect("a run that ends");
        let page = html(&run.facts, &run.violations, &schedule.scenario(), "lab sim --replay 1");
        assert_eq!(page.matches("<g><title>").count(), run.facts.requests.len());
        for entry in &run.facts.plan.timeline {
            assert!(page.contains(&format!("<title>{}, ", entry.name)), "{}", entry.name);
        }
        assert!(page.contains("counters equal what happened; but at"));
        assert!(
            page.matches("class=\"violation\"").count() == run.violations.len() && !run.violations.is_empty()
        );
        assert!(!page.contains("<script") && !page.contains("http://www"));
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escaped("<b a=\"c\">&"), "&lt;b a=&quot;c&quot;&gt;&amp;");
    }
}
