//! A run in one screen of text: the verdict's reasons first to be read last, where the eye is when a command ends.

use std::fmt::Write;

use crate::plan::SidecarKind;
use crate::run::{Report, Struck, Verdict};
use crate::verdict::Judged;

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
}

/// The whole report.
pub fn render(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let plan = &report.plan;
    let sidecar = match plan.sidecar {
        SidecarKind::Ours => "sidecars",
        SidecarKind::None => "no sidecars",
    };
    let _ = writeln!(
        out,
        "\n{}\n  seed {}, {sidecar}, links: {}, {} build, measured {:.1} s after {:.1} s of warm-up",
        style.title(&plan.name),
        plan.seed,
        report.fidelity.link_backend,
        report.build,
        plan.duration.as_secs_f64(),
        plan.warmup.as_secs_f64(),
    );
    loads(&mut out, report, style);
    faults(&mut out, report, style);
    processes(&mut out, report, style);
    fidelity(&mut out, report, style);
    expectations(&mut out, &report.expectations, style);
    verdict(&mut out, report, style);
    out
}

fn loads(out: &mut String, report: &Report, style: Style) {
    let _ = writeln!(
        out,
        "\n{}\n  {:<14} {:>8} {:>8} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
        style.title("load"),
        "",
        "requests",
        "ok",
        "errors",
        "p50",
        "p90",
        "p99",
        "max",
        "sent late"
    );
    for (load, s) in report.plan.loads.iter().zip(&report.loads) {
        let errors = s.requests - s.ok;
        let _ = writeln!(
            out,
            "  {:<14} {:>8} {:>8} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
            load.name,
            s.requests,
            s.ok,
            errors,
            time(s.p50_us),
            time(s.p90_us),
            time(s.p99_us),
            time(s.max_us),
            time(s.late_p99_us),
        );
        if errors > 0 {
            let kinds: Vec<_> = s.errors.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            let _ = writeln!(out, "  {:<14} {}", "", style.bad(&kinds.join(", ")));
        }
    }
}

fn faults(out: &mut String, report: &Report, style: Style) {
    if report.faults.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", style.title("faults"));
    for Struck { name, start_us, end_us, failed, evidence } in &report.faults {
        let at = |us: Option<i64>| us.map_or("-".into(), |us| format!("{:.2}s", us as f64 / 1e6));
        let proof: Vec<_> = evidence.iter().map(|(what, n)| format!("{what} {n:.0}")).collect();
        let _ = writeln!(out, "  {name:<14} {:>7} .. {:<7} {}", at(*start_us), at(*end_us), proof.join(", "));
        if let Some(why) = failed {
            let _ = writeln!(out, "  {:<14} {}", "", style.bad(why));
        }
    }
}

/// The counters of a sidecar that tell its story, and those of an app.
const TOLD: [(&str, &str); 9] = [
    ("proxy_connections_total", "connections"),
    ("proxy_requests_total", "requests"),
    ("proxy_retries_total", "retries"),
    ("proxy_ejections_total", "ejections"),
    ("proxy_connects_total", "connects"),
    ("proxy_connect_failures_total", "failed connects"),
    ("proxy_errors_total", "failed tries"),
    ("app_connections_total", "connections"),
    ("app_requests_total", "requests"),
];

fn processes(out: &mut String, report: &Report, style: Style) {
    let _ = writeln!(out, "\n{}", style.title("processes"));
    for (process, totals) in &report.totals {
        let told: Vec<_> = TOLD
            .iter()
            .filter_map(|(name, word)| Some((word, *totals.get(*name)?)))
            .filter(|(_, n)| *n > 0.0)
            .map(|(word, n)| format!("{word} {n:.0}"))
            .collect();
        if !told.is_empty() {
            let _ = writeln!(out, "  {process:<18} {}", told.join(", "));
        }
    }
}

fn fidelity(out: &mut String, report: &Report, style: Style) {
    let f = &report.fidelity;
    let _ = writeln!(out, "\n{}", style.title("fidelity"));
    let _ = write!(out, "  links: {}", f.link_backend);
    if f.packets > 0 {
        let _ = write!(out, ", {} packets, {} lost outside the model", f.packets, f.overflow);
    }
    if f.lateness_max_us > 0.0 {
        let [p50, p99, max] = [f.lateness_p50_us, f.lateness_p99_us, f.lateness_max_us].map(time);
        let _ = write!(out, ", held packets released late by p50 {p50}, p99 {p99}, max {max}");
    }
    out.push('\n');
    for note in &f.notes {
        let _ = writeln!(out, "  {note}");
    }
}

fn expectations(out: &mut String, expectations: &[Judged], style: Style) {
    let _ = writeln!(out, "\n{}", style.title("expectations"));
    for judged in expectations {
        let mark = if judged.passed { style.good("held  ") } else { style.bad("BROKEN") };
        let _ = write!(out, "  {mark} {} ({})", judged.name, judged.window);
        if let Some(after) = judged.recovered_after_us {
            let _ = write!(out, ", recovered after {}", time(after as f64));
        }
        out.push('\n');
        for condition in &judged.conditions {
            let shown = if condition.passed { condition.shown.clone() } else { style.bad(&condition.shown) };
            let _ = writeln!(out, "           {}: {shown}", condition.text);
        }
        if let Some(note) = &judged.note {
            let _ = writeln!(out, "           {}", style.doubt(note));
        }
    }
}

fn verdict(out: &mut String, report: &Report, style: Style) {
    let word = match report.verdict {
        Verdict::Passed => style.good("PASSED"),
        Verdict::Failed => style.bad("FAILED"),
        Verdict::Inconclusive => style.doubt("INCONCLUSIVE: this machine was not good enough to say"),
        Verdict::Interrupted => style.doubt("INTERRUPTED"),
    };
    let _ = writeln!(out, "\n{word}");
    for reason in &report.reasons {
        let _ = writeln!(out, "  {reason}");
    }
}

/// A time in microseconds, in the unit that reads best.
pub fn time(us: f64) -> String {
    match us.abs() {
        t if t < 1e3 => format!("{us:.0}us"),
        t if t < 1e4 => format!("{:.2}ms", us / 1e3),
        t if t < 1e6 => format!("{:.1}ms", us / 1e3),
        _ => format!("{:.2}s", us / 1e6),
    }
}
