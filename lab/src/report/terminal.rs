//! A run in one screen of text.
//!
//! The order is that of an eye which stays where a command ends: first what was run and what was
//! measured, then the expectations, and last the verdict with its reasons. A number is shown with
//! its unit, and a broken expectation with what was expected, what it was, and how far off that is.

use std::fmt::Write;

use crate::plan::{Plan, SidecarKind};
use crate::readable;
use crate::run::{AppliedFault, Report, UnexpectedExit, Verdict};
use crate::verdict::{Judged, JudgedCondition, Phase, Summary, found};
use crate::world::WorldKind;

/// Lines of a process's log tail that are shown; the results have all that were kept.
const LAST_WORDS: usize = 6;

/// How the text is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Plain text, for files and pipes.
    Plain,
    /// With colours.
    Colour,
}

impl Style {
    fn paint(self, colour: &str, text: &str) -> String {
        match self {
            Style::Plain => text.to_owned(),
            Style::Colour => format!("\x1b[{colour}m{text}\x1b[0m"),
        }
    }

    fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn doubt(self, text: &str) -> String {
        self.paint("33", text)
    }

    fn title(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// The whole report.
pub fn render(report: &Report, style: Style) -> String {
    let mut out = format!("\n{}\n  {}\n", style.title(&report.plan.name), what_ran(report));
    loads(&mut out, report, style);
    faults(&mut out, report, style);
    processes(&mut out, report, style);
    fidelity(&mut out, report, style);
    expectations(&mut out, report, style);
    verdict(&mut out, report, style);
    out
}

/// `kernel world, sidecars, links by wire, seed 7, debug build; 8s measured after 1s of warm-up`
fn what_ran(report: &Report) -> String {
    let plan = &report.plan;
    let (world, links) = match report.world {
        WorldKind::Kernel => ("kernel world", format!("links by {}, ", report.fidelity.link_backend)),
        WorldKind::Simulator => ("simulator (virtual time)", String::new()),
    };
    let sidecars = sidecars(plan);
    let (measured, warmup) = (readable::text(plan.duration), readable::text(plan.warmup));
    let (seed, build) = (plan.seed, report.build);
    let began = match report.world {
        // To the second; the results have all of it.
        WorldKind::Kernel => format!("\n  measured from {:.19}Z on", readable::utc(report.started)),
        WorldKind::Simulator => String::new(),
    };
    format!(
        "{world}, {sidecars}, {links}seed {seed}, {build} build; {measured} measured after {warmup} of warm-up{began}"
    )
}

fn sidecars(plan: &Plan) -> &'static str {
    match plan.sidecar {
        SidecarKind::Ours => "with sidecars",
        SidecarKind::None => "without sidecars",
    }
}

fn loads(out: &mut String, report: &Report, style: Style) {
    let name = names(report.plan.loads.iter().map(|l| l.name.as_str()).chain(["load"]));
    let _ = writeln!(
        out,
        "\n{}  {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
        style.title(&format!("{:<1$}", "load", name + 2)),
        "requests",
        "errors",
        "p50",
        "p90",
        "p99",
        "max",
        "sent late"
    );
    for (load, s) in report.plan.loads.iter().zip(&report.loads) {
        let errors = format!("{:>8}", s.requests - s.ok);
        let _ = writeln!(
            out,
            "  {:<name$}  {:>8} {} {:>9} {:>9} {:>9} {:>9} {:>9}",
            load.name,
            s.requests,
            if s.requests == s.ok { errors } else { style.bad(&errors) },
            time(s.p50_us),
            time(s.p90_us),
            time(s.p99_us),
            time(s.max_us),
            time(s.late_p99_us),
        );
        if s.requests > s.ok {
            let _ = writeln!(out, "  {:<name$}  {}", "", style.bad(&kinds_of_errors(s)));
        }
    }
}

fn kinds_of_errors(summary: &Summary) -> String {
    let words = |(kind, n): (&String, &u64)| match kind.as_str() {
        "connect" => format!("{n} could not connect"),
        "reset" => format!("{n} broken off"),
        "timeout" => format!("{n} timed out"),
        "mismatch" => format!("{n} answered wrongly"),
        "dropped" => format!("{n} never sent"),
        status => format!("{n} HTTP {status}"),
    };
    let kinds: Vec<String> = summary.errors.iter().map(words).collect();
    let share = (summary.requests - summary.ok) as f64 * 100.0 / summary.requests as f64;
    format!("{} ({share:.2} % of all)", kinds.join(", "))
}

fn faults(out: &mut String, report: &Report, style: Style) {
    if report.faults.is_empty() {
        return;
    }
    let loads = report.plan.loads.iter().map(|l| l.name.as_str());
    let names = names(report.faults.iter().map(|f| f.name.as_str()).chain(loads).chain(["faults"]));
    let _ = writeln!(
        out,
        "\n{}{:>19} {:>8} {:>9} {:>9}",
        style.title(&format!("{:<1$}", "faults", names + 2)),
        "requests",
        "errors",
        "p50",
        "p99"
    );
    for fault in &report.faults {
        let _ = writeln!(out, "  {:<names$}  {}", fault.name, in_force(fault, &report.plan));
        if let Some(why) = &fault.failed {
            let _ = writeln!(out, "  {:<names$}  {}", "", style.bad(why));
        }
        for impact in &fault.impact {
            let mut load = impact.load.as_str();
            let phases = [("before", &impact.before), ("during", &impact.during), ("after", &impact.after)];
            for (when, phase) in phases {
                let Some(Phase { requests, errors, p50_us, p99_us, .. }) = phase else { continue };
                let count = format!("{errors:>8}");
                let count = if *errors == 0 { count } else { style.bad(&count) };
                let (p50, p99) = (time(*p50_us), time(*p99_us));
                let _ =
                    writeln!(out, "    {load:<names$}  {when:<6} {requests:>8} {count} {p50:>9} {p99:>9}");
                load = "";
            }
            if let Some((first, last)) = impact.failing_us {
                let (first, last) = (time(first as f64), time(last as f64));
                let text = format!("requests failed from {first} to {last} after it began");
                let _ = writeln!(out, "    {load:<names$}  {}", style.bad(&text));
            }
        }
    }
}

/// `2.00 s to 4.03 s; killed 2, restarted 2`
fn in_force(fault: &AppliedFault, plan: &Plan) -> String {
    let at = |us: i64| format!("{:.2} s", us as f64 / 1e6);
    let when = match (fault.start_us, fault.end_us) {
        (None, _) => "never in force".to_owned(),
        (Some(start), Some(end)) => format!("{} to {}", at(start), at(end)),
        (Some(start), None) => {
            let asked = plan.timeline.iter().find(|e| e.name == fault.name).and_then(|e| e.until);
            let end = if asked.is_some() { ", never taken back" } else { " to the end" };
            format!("{}{end}", at(start))
        }
    };
    let proof: Vec<_> =
        fault.evidence.iter().map(|(what, n)| format!("{} {n:.0}", what.replace('_', " "))).collect();
    if proof.is_empty() { when } else { format!("{when}; {}", proof.join(", ")) }
}

/// The counters of a sidecar that tell its story, and those of an app.
const TOLD: [(&str, &str); 11] = [
    ("proxy_connections_total", "connections"),
    ("proxy_requests_total", "requests"),
    ("proxy_retries_total", "retries"),
    ("proxy_ejections_total", "ejections"),
    ("proxy_connects_total", "connects"),
    ("proxy_connect_failures_total", "failed connects"),
    ("proxy_errors_total", "failed attempts"),
    ("cgroup_throttled_total", "times throttled"),
    ("cgroup_oom_kills_total", "kills for want of memory"),
    ("app_connections_total", "connections"),
    ("app_requests_total", "requests"),
];

/// What each process has done, of those that have done anything.
pub(super) fn told(report: &Report) -> impl Iterator<Item = (&str, Vec<String>)> {
    let told = |totals: &std::collections::BTreeMap<String, f64>| -> Vec<String> {
        let counted = TOLD.iter().filter_map(|(name, word)| Some((word, *totals.get(*name)?)));
        counted.filter(|(_, n)| *n > 0.0).map(|(word, n)| format!("{word} {n:.0}")).collect()
    };
    let lines = report.totals.iter().map(move |(process, totals)| (process.as_str(), told(totals)));
    lines.filter(|(_, told)| !told.is_empty())
}

fn processes(out: &mut String, report: &Report, style: Style) {
    let lines: Vec<_> = told(report).collect();
    if lines.is_empty() {
        return;
    }
    let width = names(lines.iter().map(|(process, _)| *process));
    let _ = writeln!(out, "\n{} {}", style.title("processes"), style.faint("(with the warm-up)"));
    for (process, told) in lines {
        let _ = writeln!(out, "  {process:<width$}  {}", told.join(", "));
    }
}

fn fidelity(out: &mut String, report: &Report, style: Style) {
    let f = &report.fidelity;
    let _ = writeln!(out, "\n{}", style.title("fidelity"));
    if f.packets > 0 {
        let _ =
            writeln!(out, "  {} packets between instances, {} lost outside the model", f.packets, f.overflow);
    }
    if f.lateness_max_us > 0.0 {
        let [p50, p99, max] = [f.lateness_p50_us, f.lateness_p99_us, f.lateness_max_us].map(time);
        let _ = writeln!(out, "  delayed packets were released late by p50 {p50}, p99 {p99}, max {max}");
    }
    for note in &f.notes {
        let _ = writeln!(out, "  {note}");
    }
}

fn expectations(out: &mut String, report: &Report, style: Style) {
    let _ = writeln!(out, "\n{}", style.title("expectations"));
    for (position, judged) in report.expectations.iter().enumerate() {
        let mark = match (judged.passed, report.verdict) {
            // Of a part of the run it cannot be said yet, neither the one nor the other.
            (_, Verdict::Interrupted) => style.doubt("so far"),
            (true, _) => style.good("held  "),
            (false, _) => style.bad("BROKEN"),
        };
        let _ = write!(out, "  {mark}  {} {}", judged.name, style.faint(&format!("({})", judged.window)));
        if let Some(after) = judged.recovered_after_us {
            let _ = write!(out, ": recovered after {}", time(after as f64));
        }
        out.push('\n');
        let asked = report.plan.expectations.get(position);
        let width = names(judged.conditions.iter().map(|c| c.text.as_str()));
        for (at, condition) in judged.conditions.iter().enumerate() {
            let shown = match condition.passed {
                true => value(condition).to_owned(),
                false => style.bad(&found(condition, asked.and_then(|e| e.conditions.get(at)))),
            };
            let _ = writeln!(out, "            {:<width$}  {shown}", condition.text);
        }
        if let Some(note) = &judged.note {
            let _ = writeln!(out, "            {}", style.doubt(note));
        }
    }
    if report.plan.left_out > 0 {
        let (left_out, sidecars) =
            (readable::count(report.plan.left_out, "condition"), sidecars(&report.plan));
        let _ = writeln!(out, "  {left_out} of the file cannot be judged {sidecars}");
    }
}

/// What was measured, without the name of the statistic, which the condition's own words say.
fn value(condition: &JudgedCondition) -> &str {
    condition.shown.split_once(" = ").map_or(condition.shown.as_str(), |(_, value)| value)
}

fn verdict(out: &mut String, report: &Report, style: Style) {
    let all = report.expectations.len();
    let broken = report.expectations.iter().filter(|j: &&Judged| !j.passed).count();
    let word = match report.verdict {
        Verdict::Passed => format!("{}: {all} of {all} expectations held", style.good("PASSED")),
        Verdict::Failed if broken == 0 => style.bad("FAILED"),
        Verdict::Failed => format!("{}: {broken} of {all} expectations broken", style.bad("FAILED")),
        Verdict::Inconclusive => {
            format!("{}: the testbed was not good enough to say", style.doubt("INCONCLUSIVE"))
        }
        Verdict::Interrupted => {
            format!("{}: the numbers above are of a part of the run", style.doubt("INTERRUPTED"))
        }
    };
    let _ = writeln!(out, "\n{word}");
    for reason in &report.reasons {
        let _ = writeln!(out, "  {reason}");
    }
    for UnexpectedExit { process, log_tail, .. } in &report.unexpected_exits {
        if log_tail.is_empty() {
            continue;
        }
        let _ = writeln!(out, "  the log tail of {process}:");
        for line in &log_tail[log_tail.len().saturating_sub(LAST_WORDS)..] {
            let _ = writeln!(out, "    {}", style.faint(line));
        }
    }
}

/// The width of a column of names.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or(0)
}

/// A time in microseconds, in the unit that reads best.
pub fn time(us: f64) -> String {
    match us.abs() {
        0.0 => "0".to_owned(),
        t if t < 1e3 => format!("{us:.0} us"),
        t if t < 1e4 => format!("{:.2} ms", us / 1e3),
        t if t < 1e6 => format!("{:.1} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
pub(super) mod tests;
