//! The language of expectations: `subject.statistic op value`, one condition a string.
//!
//! | subject and statistic | value | [`Condition::value`] | meaning |
//! |---|---|---|---|
//! | `LOAD.latency.pN` `.max` `.mean` | `"20ms"` | microseconds | from the intended start |
//! | `LOAD.errors` | `0` | a count | requests that failed |
//! | `LOAD.errors` | `0.1%` | a fraction | their share: `errors.share` |
//! | `LOAD.success` | `99.9%` | a fraction | share of all requests that succeeded |
//! | `LOAD.requests` | `1000` | a count | requests that were due |
//! | `LOAD.ok` | `1000` | a count | requests that succeeded |
//! | `LOAD.throughput` | `390/s` | per second | `ok` over the length of the window |
//! | `LOAD.dropped` | `0` | a count | requests that were never sent |
//! | `PROCESS.METRIC{label="x"}` | `3`, `25%` | as exported | summed over processes |
//! | `killed` and the like | `1` | a count | evidence, under `fault = "entry"` only |
//!
//! The statistics of a load are a table in [`crate::statistic`]; the names of evidence belong to
//! the kinds of [`crate::fault`].
//!
//! Two of them may be divided: `orders-*/app.app_requests_total / checkout.requests <= 1.2`, spaces
//! around the stroke.
//!
//! Operators: `<` `<=` `>` `>=` `==` `!=`.
//!
//! Parsing checks every name against what the plan has, so that a condition that can be measured is
//! the only kind that gets further. What it cannot know is which metrics a process exports: a
//! metric without samples fails the condition.

use std::ops::Range;

use crate::fault;
use crate::glob::glob;
use crate::metrics::FABRIC;
use crate::plan::{Condition, Op, Subject};
use crate::statistic::{Statistic, Unit};
use crate::syntax::diagnose::closest;
use crate::syntax::units::{Percent, Rate, Span};

/// What a condition may speak of.
#[derive(Debug, Clone, Copy)]
pub struct ConditionNames<'a> {
    /// Load generators, in the order of the plan.
    pub loads: &'a [String],
    /// Processes, such as `orders-0/app`.
    pub processes: &'a [String],
    /// The evidence that the fault in question leaves; `None` outside `fault = "entry"`.
    pub evidence: Option<&'a [&'a str]>,
}

/// A condition that means nothing, and where it goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The offending bytes of the condition.
    pub at: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl Malformed {
    fn new(at: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Malformed { at, message: message.into(), help: help.into() }
    }
}

/// Reads one condition.
///
/// # Errors
/// If it is not of the grammar above, or names what does not exist.
pub fn parse(text: &str, names: ConditionNames<'_>) -> Result<Condition, Malformed> {
    let Some((at, op)) = operator(text) else {
        return Err(Malformed::new(
            0..text.len(),
            "a condition compares something with a value",
            format!("write it as {}; the operators are < <= > >= == !=", example(names)),
        ));
    };
    let subject = trimmed(text, 0..at.start);
    let value = trimmed(text, at.end..text.len());
    let op = match &text[at.clone()] {
        "<" => Op::Lt,
        "<=" => Op::Le,
        ">" => Op::Gt,
        ">=" => Op::Ge,
        "==" => Op::Eq,
        "!=" => Op::Ne,
        other => {
            let right = op;
            return Err(Malformed::new(
                at.clone(),
                format!("`{other}` is not an operator"),
                format!("did you mean `{right}`? the operators are < <= > >= == !="),
            ));
        }
    };
    if subject.is_empty() {
        let help = format!("write it as {}", example(names));
        return Err(Malformed::new(at, "nothing stands before the operator", help));
    }
    if value.is_empty() {
        let help = format!("write it as {}", example(names));
        return Err(Malformed::new(at, "nothing stands after the operator", help));
    }
    let (subject, unit) = read_ratio(text, subject, names)?;
    let (value, share) = read_value(text, value, unit)?;
    let subject = match subject {
        Subject::Load { load, stat } if share => {
            Subject::Load { load, stat: stat.as_share().unwrap_or(stat) }
        }
        other => other,
    };
    Ok(Condition { text: text.trim().to_owned(), subject, op, value })
}

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Duration,
    Count,
    CountOrShare,
    Share,
    Rate,
    /// As the process exports it.
    Plain,
}

/// Where the operator stands, and the operator that its characters resemble most.
fn operator(text: &str) -> Option<(Range<usize>, &'static str)> {
    let mut quoted = false;
    let mut braces = 0_u32;
    let mut start = None;
    for (i, c) in text.char_indices() {
        let sign = matches!(c, '<' | '>' | '=' | '!') && !quoted && braces == 0;
        match (start, sign) {
            (None, true) => start = Some(i),
            (Some(from), false) => return Some((from..i, resembling(&text[from..i]))),
            _ => {}
        }
        match c {
            '"' => quoted = !quoted,
            '{' if !quoted => braces += 1,
            '}' if !quoted => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    start.map(|from| (from..text.len(), resembling(&text[from..])))
}

fn resembling(sign: &str) -> &'static str {
    match sign {
        "=<" => "<=",
        "=>" => ">=",
        "<>" | "!" | "=!" | "!==" => "!=",
        _ => "==",
    }
}

/// `range` without the white space at its ends.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    start..(start + part.trim().len())
}

/// A condition that would be right here.
fn example(names: ConditionNames<'_>) -> String {
    match (names.evidence, names.loads) {
        (Some(evidence), _) => format!("\"{} >= 1\"", evidence.first().unwrap_or(&"killed")),
        (None, [load, ..]) => format!("\"{load}.latency.p99 < 20ms\" or \"{load}.errors == 0\""),
        (None, []) => match names.processes {
            [process, ..] => format!("\"{process}.METRIC > 0\""),
            [] => "\"LOAD.latency.p99 < 20ms\"".into(),
        },
    }
}

/// A subject, or one divided by another: `A / B`, with spaces around the stroke.
fn read_ratio(text: &str, at: Range<usize>, names: ConditionNames<'_>) -> Result<(Subject, Form), Malformed> {
    let Some(stroke) = text[at.clone()].find(" / ").filter(|_| names.evidence.is_none()) else {
        return read_subject(text, at, names);
    };
    let of_at = trimmed(text, at.start..at.start + stroke);
    let to_at = trimmed(text, at.start + stroke + 2..at.end);
    let (of, of_unit) = read_subject(text, of_at, names)?;
    let (to, to_unit) = read_subject(text, to_at.clone(), names)?;
    let kind = |unit| match unit {
        // What a process exports may be anything, seconds as well as counts.
        Form::CountOrShare | Form::Plain => Form::Count,
        other => other,
    };
    if kind(of_unit) != kind(to_unit) {
        let help = "divide a count by a count, or a latency by a latency";
        return Err(Malformed::new(to_at, "these two are not of one kind", help));
    }
    Ok((Subject::Ratio { of: Box::new(of), to: Box::new(to) }, Form::Plain))
}

fn read_subject(
    text: &str,
    at: Range<usize>,
    names: ConditionNames<'_>,
) -> Result<(Subject, Form), Malformed> {
    let words = &text[at.clone()];
    // A metric's labels may hold dots and slashes of their own.
    let head = &words[..words.find('{').unwrap_or(words.len())];
    let first = head.split(['.', '/']).next().unwrap_or(head);
    if let Some(evidence) = names.evidence {
        return match evidence.contains(&words) {
            true => Ok((Subject::Evidence { name: words.into() }, Form::Count)),
            false => Err(unknown(at, "evidence", words, evidence.iter().copied(), "this fault leaves")),
        };
    }
    if head.contains('/') || first == FABRIC {
        return read_metric(text, at, names);
    }
    let Some((load, stat)) = words.split_once('.') else {
        let known = fault::KINDS.iter().any(|kind| kind.evidence.contains(&words));
        return Err(match known {
            true => Malformed::new(
                at,
                format!("`{words}` is evidence of a fault"),
                "put it under an [[expect]] with `fault = \"ENTRY\"`, the name of the timeline entry",
            ),
            false if names.loads.iter().any(|l| l == words) => Malformed::new(
                at,
                format!("nothing is said about `{words}`"),
                format!("add a statistic, such as `{words}.errors`; there are {}", statistics()),
            ),
            false => Malformed::new(
                at,
                format!("`{words}` means nothing here"),
                format!("write it as {}", example(names)),
            ),
        });
    };
    let Some(position) = names.loads.iter().position(|l| l == load) else {
        let at = at.start..at.start + load.len();
        // `orders-0.requests_total`: the role is missing.
        let of_instance =
            names.processes.iter().find(|p| p.split_once('/').is_some_and(|(node, _)| node == load));
        return Err(match of_instance {
            Some(process) => Malformed::new(
                at,
                format!("`{load}` is an instance, and metrics belong to processes"),
                format!("did you mean `{process}`?"),
            ),
            None => unknown(at, "load", load, names.loads.iter().map(String::as_str), "loads:"),
        });
    };
    let at = at.start + load.len() + 1..at.end;
    let Ok(stat) = stat.parse::<Statistic>() else {
        let known = Statistic::names();
        let near = closest(stat, known.clone())
            .or_else(|| known.clone().find(|k| k.rsplit('.').next() == Some(stat)));
        let hint = near.map(|n| format!("did you mean `{load}.{n}`? ")).unwrap_or_default();
        let help = format!("{hint}statistics: {}", statistics());
        return Err(Malformed::new(at, format!("a load has no statistic `{stat}`"), help));
    };
    let form = match stat.unit() {
        Unit::Latency => Form::Duration,
        Unit::Share => Form::Share,
        Unit::Rate => Form::Rate,
        Unit::Count if stat.as_share().is_some() => Form::CountOrShare,
        Unit::Count => Form::Count,
    };
    Ok((Subject::Load { load: position, stat }, form))
}

fn read_metric(
    text: &str,
    at: Range<usize>,
    names: ConditionNames<'_>,
) -> Result<(Subject, Form), Malformed> {
    let words = &text[at.clone()];
    let Some((process, metric)) = words.split_once('.') else {
        let help = format!("add the name of a metric, such as `{words}.NAME`");
        return Err(Malformed::new(at, format!("no metric of `{words}` is named"), help));
    };
    let after_process = at.start + process.len() + 1;
    if process != FABRIC && !names.processes.iter().any(|p| glob(process, p)) {
        let at = at.start..at.start + process.len();
        // A service's name stands for all its instances in a list of instances, but a metric's
        // process is a pattern.
        let all = process.split_once('/').map(|(node, role)| format!("{node}-*/{role}"));
        if let Some(all) = all.filter(|all| names.processes.iter().any(|p| glob(all, p))) {
            let message = format!("`{process}` is not one process but several");
            return Err(Malformed::new(at, message, format!("did you mean `{all}`, their sum?")));
        }
        let is_sidecar = |process: &str| process.ends_with("/sidecar");
        if is_sidecar(process) && !names.processes.iter().any(|p| is_sidecar(p)) {
            let message = format!("`{process}` does not exist: the scenario runs without sidecars");
            let help = "add \"ours\" to `sidecar` in [scenario], or leave the condition out";
            return Err(Malformed::new(at, message, help));
        }
        let known = names.processes.iter().map(String::as_str).chain([FABRIC]);
        return Err(unknown(at, "process", process, known, "processes:"));
    }
    let (name, labels) = match metric.find('{') {
        Some(brace) => (&metric[..brace], Some(after_process + brace..at.end)),
        None => (metric, None),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(valid) {
        return Err(Malformed::new(
            after_process..after_process + name.len(),
            format!("`{name}` is not the name of a metric"),
            "a metric's name has letters, digits and underscores, such as `proxy_requests_total`",
        ));
    }
    let labels = labels.map_or(Ok(Vec::new()), |at| read_labels(text, at))?;
    let subject = Subject::Metric { process: process.into(), name: name.into(), labels };
    Ok((subject, Form::Plain))
}

/// `{a="b",c="d"}`
fn read_labels(text: &str, at: Range<usize>) -> Result<Vec<(String, String)>, Malformed> {
    let wrong = |at: Range<usize>| {
        let help =
            "write labels as {name=\"value\"}, with commas between them; a value holds no quotation mark";
        Malformed::new(at, "these are not labels", help)
    };
    let inner = text[at.clone()].strip_prefix('{').and_then(|t| t.strip_suffix('}'));
    let mut rest = inner.ok_or_else(|| wrong(at.clone()))?.trim();
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(|| wrong(at.clone()))?;
        let after = after.trim_start().strip_prefix('"').ok_or_else(|| wrong(at.clone()))?;
        let (value, after) = after.split_once('"').ok_or_else(|| wrong(at.clone()))?;
        let name = name.trim();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(wrong(at.clone()));
        }
        labels.push((name.to_owned(), value.to_owned()));
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return Err(wrong(at.clone())),
        };
    }
    Ok(labels)
}

/// The value in the subject's own unit, and whether it was written as a share.
fn read_value(text: &str, at: Range<usize>, unit: Form) -> Result<(f64, bool), Malformed> {
    let words = &text[at.clone()];
    let number = words.parse::<f64>().ok().filter(|n| n.is_finite());
    let wrong = |message: String, help: String| Malformed::new(at.clone(), message, help);
    // The errors of the units are "what is wrong; what to write".
    let of_unit = |error: String| {
        let (message, help) = error.split_once("; ").unwrap_or((&error, ""));
        wrong(message.to_owned(), help.to_owned())
    };
    let share = || words.parse::<Percent>().map(|p| (p.0, true)).map_err(of_unit);
    match unit {
        Form::Duration => {
            words.parse::<Span>().map(|s| (s.0.as_nanos() as f64 / 1000.0, false)).map_err(of_unit)
        }
        Form::Rate => words.parse::<Rate>().map(|r| (r.0, false)).map_err(of_unit),
        Form::Share => share(),
        Form::CountOrShare if words.ends_with('%') => share(),
        Form::CountOrShare if number.is_some_and(|n| n > 0.0 && n < 1.0) => share(),
        Form::Plain if words.ends_with('%') => share(),
        Form::Count | Form::CountOrShare => match number {
            Some(n) if n >= 0.0 && n.fract() == 0.0 => Ok((n, false)),
            _ if words.ends_with("/s") => Err(wrong(
                format!("`{words}` is a rate, and this is a count"),
                "compare `LOAD.throughput` with a rate, or write a whole number".into(),
            )),
            _ if unit == Form::CountOrShare => {
                Err(wrong(format!("`{words}` is neither a count nor a share"), "write `0` or `0.1%`".into()))
            }
            _ => Err(wrong(format!("`{words}` is not a count"), "write a whole number, such as `0`".into())),
        },
        Form::Plain => number.map(|n| (n, false)).ok_or_else(|| {
            wrong(
                format!("`{words}` is not a plain number"),
                "a metric is compared in the unit that it is exported in (Prometheus counts time in seconds)"
                    .into(),
            )
        }),
    }
}

/// The statistics of a load, as a message lists them.
fn statistics() -> String {
    Statistic::names().collect::<Vec<_>>().join(", ")
}

fn unknown<'a>(
    at: Range<usize>,
    what: &str,
    word: &str,
    names: impl Iterator<Item = &'a str> + Clone,
    there_are: &str,
) -> Malformed {
    let hint = closest(word, names.clone()).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
    let list = names.collect::<Vec<_>>().join(", ");
    let help = match list.is_empty() {
        true => format!("the file has no {what}"),
        false => format!("{hint}{there_are} {list}"),
    };
    Malformed::new(at, format!("unknown {what} `{word}`"), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Condition, Malformed> {
        let loads = ["checkout".to_owned(), "pay".to_owned()];
        let processes = ["orders-0/app", "orders-0/sidecar", "orders-1/app", "web/sidecar"].map(String::from);
        parse(text, ConditionNames { loads: &loads, processes: &processes, evidence: None })
    }

    fn evidence(text: &str) -> Result<Condition, Malformed> {
        parse(text, ConditionNames { loads: &[], processes: &[], evidence: Some(&["killed", "restarted"]) })
    }

    #[test]
    fn a_subject_may_be_divided_by_another_of_its_kind() {
        let ratio = read("orders-*/app.app_requests_total / pay.requests <= 1.2").unwrap();
        let Subject::Ratio { of, to } = ratio.subject else { panic!("{:?}", ratio.subject) };
        assert_eq!(*to, load("requests", 1));
        assert!(matches!(&*of, Subject::Metric { process, .. } if process == "orders-*/app"));
        assert_eq!(ratio.value, 1.2);
        assert_eq!(read("pay.errors / checkout.requests < 1%").unwrap().value, 0.01);
        assert!(read("pay.latency.p99 / checkout.latency.p99 < 2").is_ok());
        let error = read("pay.latency.p99 / checkout.requests < 2").unwrap_err();
        assert_eq!(error.at, 18..35);
        assert!(read("pay.requests / < 2").is_err());
    }

    fn load(stat: &str, load: usize) -> Subject {
        Subject::Load { load, stat: stat.parse().unwrap() }
    }

    #[test]
    fn every_statistic_of_a_load_is_read_in_its_own_unit() {
        for (text, stat, op, value) in [
            ("pay.latency.p50 < 20ms", "latency.p50", Op::Lt, 20_000.0),
            ("pay.latency.p90<=1.5ms", "latency.p90", Op::Le, 1_500.0),
            ("pay.latency.p99 > 1us", "latency.p99", Op::Gt, 1.0),
            ("pay.latency.p999 < 1s", "latency.p999", Op::Lt, 1_000_000.0),
            ("pay.latency.max < 250ns", "latency.max", Op::Lt, 0.25),
            ("pay.latency.mean < 20ms", "latency.mean", Op::Lt, 20_000.0),
            ("pay.errors == 0", "errors", Op::Eq, 0.0),
            ("pay.errors < 0.1%", "errors.share", Op::Lt, 0.001),
            ("pay.success >= 99.9%", "success", Op::Ge, 0.999),
            ("pay.requests != 7", "requests", Op::Ne, 7.0),
            ("pay.ok > 7", "ok", Op::Gt, 7.0),
            ("  pay.throughput   >   390/s ", "throughput", Op::Gt, 390.0),
            ("pay.dropped == 0", "dropped", Op::Eq, 0.0),
        ] {
            let condition = read(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            assert_eq!(condition.subject, load(stat, 1), "{text}");
            assert_eq!(condition.op, op, "{text}");
            assert!((condition.value - value).abs() < 1e-9, "{text}: {}", condition.value);
            assert_eq!(condition.text, text.trim());
        }
    }

    #[test]
    fn metrics_have_a_process_pattern_a_name_and_labels() {
        let condition = read("orders-*/app.requests_total{code=\"5.x/<\", side = \"in\"} > 3").unwrap();
        let labels = vec![("code".into(), "5.x/<".into()), ("side".into(), "in".into())];
        let subject =
            Subject::Metric { process: "orders-*/app".into(), name: "requests_total".into(), labels };
        assert_eq!((condition.subject, condition.op, condition.value), (subject, Op::Gt, 3.0));
        assert!(
            matches!(read("fabric.packets_total >= 1").unwrap().subject, Subject::Metric { process, .. } if process == "fabric")
        );
        assert_eq!(read("web/sidecar.retry_ratio < 25%").unwrap().value, 0.25);
    }

    #[test]
    fn evidence_is_a_bare_name_under_a_fault_only() {
        assert_eq!(evidence("killed >= 2").unwrap().subject, Subject::Evidence { name: "killed".into() });
        assert!(evidence("lost_packets > 0").unwrap_err().help.contains("killed, restarted"));
        assert!(read("killed >= 2").unwrap_err().help.contains("fault = "));
    }

    #[test]
    fn a_mistake_is_pointed_at_and_answered() {
        for (text, words, message, help) in [
            ("chekout.errors == 0", "chekout", "unknown load", "did you mean `checkout`?"),
            ("checkout.latency.p0 < 1s", "latency.p0", "no statistic", "statistics: latency.p50"),
            ("checkout.p99 < 1s", "p99", "no statistic", "did you mean `checkout.latency.p99`?"),
            ("checkout < 1s", "checkout", "nothing is said", "checkout.errors"),
            ("checkout.errors = 0", "=", "not an operator", "did you mean `==`?"),
            ("checkout.latency.p99 =< 1s", "=<", "not an operator", "did you mean `<=`?"),
            ("checkout.errors", "checkout.errors", "compares something", "checkout.errors == 0"),
            ("checkout.errors ==", "==", "nothing stands after", "checkout.errors == 0"),
            ("== 0", "==", "nothing stands before", "checkout.errors == 0"),
            ("checkout.latency.p99 < 20", "20", "has no unit", "write it with a unit"),
            ("checkout.latency.p99 < 20 milli", "20 milli", "not a unit of time", "the units are"),
            ("checkout.success >= 0.999", "0.999", "no percent sign", "did you mean \"99.9%\"?"),
            ("checkout.success >= 99.9", "99.9", "no percent sign", "did you mean \"99.9%\"?"),
            ("checkout.errors < 0.01", "0.01", "no percent sign", "did you mean \"1%\"?"),
            ("checkout.errors < few", "few", "neither a count nor a share", "`0.1%`"),
            ("checkout.requests > 3/s", "3/s", "is a rate", "throughput"),
            ("checkout.dropped == 0.5", "0.5", "not a count", "whole number"),
            ("checkout.throughput > 390", "390", "has no unit", "\"390/s\""),
            ("web/sidecr.x > 0", "web/sidecr", "unknown process", "did you mean `web/sidecar`?"),
            ("orders/app.x > 0", "orders/app", "several", "did you mean `orders-*/app`"),
            ("orders-0.x > 0", "orders-0", "is an instance", "orders-0/app"),
            ("web/sidecar > 0", "web/sidecar", "no metric", "web/sidecar.NAME"),
            ("web/sidecar.a-b > 0", "a-b", "not the name of a metric", "underscores"),
            ("web/sidecar.a{b} > 0", "{b}", "not labels", "{name=\"value\"}"),
            ("web/sidecar.a > 1s", "1s", "not a plain number", "seconds"),
        ] {
            let error = read(text).expect_err(text);
            assert_eq!(&text[error.at.clone()], words, "{text}");
            assert!(error.message.contains(message), "{text}: {}", error.message);
            assert!(error.help.contains(help), "{text}: {}", error.help);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z/.{}<>=!\"0-9%é ]{0,24}") {
            if let Err(error) = read(&text) {
                proptest::prop_assert!(text.get(error.at.clone()).is_some(), "{:?}", error);
            }
        }
    }
}
