//! The judgement: each expectation's conditions over its window of time.
//!
//! Rules: a window without a single sample fails, whatever is asked, because silence proves
//! nothing. A request belongs to the window in which it was due. A counter counts by its increase
//! over the window, a gauge by its last value in it; what lies outside the window never counts
//! ([`crate::metrics`]). A window that comes from the scenario's clock is judged by that clock, and
//! a note says where a fault was off it; a recovery is counted from when the fault really began or
//! ended, because "2 s after it" means the event.
//!
//! A recovery window tries every start from the event on in steps of 100 ms, up to its limit, and
//! passes with the first stretch in which all conditions hold; that start is the time to recover.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::statistics::measure;
use crate::fault::Entry;
use crate::load::Record;
use crate::metrics::{CAPTURED, Series, is_counter};
use crate::plan::{Condition, Expectation, Op, Plan, Subject, TimePoint, Window};
use crate::statistic::{Statistic, number};

/// How far apart the starts of a recovery's stretches are.
pub const STEP: Duration = Duration::from_millis(100);
/// A fault that is off the scenario's clock by more than this is worth a note, microseconds.
const OFF_US: i64 = 100_000;

/// Everything that was measured. Times are microseconds from the start of the measured part.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// What was asked for.
    pub plan: &'a Plan,
    /// The records of each load of the plan, in any order.
    pub loads: &'a [Vec<Record>],
    /// The metrics of all processes.
    pub series: &'a Series,
    /// What proves that each timeline entry bit.
    pub faults: &'a [BTreeMap<String, f64>],
    /// When each timeline entry began and ended to bite; `None` if it never did. One that is never
    /// reverted ends with the measured part.
    pub actual: &'a [Option<(i64, i64)>],
}

/// An expectation, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The expectation's name.
    pub name: String,
    /// Its window, for people: `10s..20s`.
    pub window: String,
    /// The stretch of time that the values below were measured over, microseconds from the start of
    /// the measured part.
    pub span: (i64, i64),
    /// Whether all of it holds.
    pub passed: bool,
    /// Each of its conditions.
    pub conditions: Vec<JudgedCondition>,
    /// For a recovery that passed: how long after the event the good stretch began, microseconds.
    pub recovered_after_us: Option<i64>,
    /// What else the reader should know.
    pub note: Option<String>,
}

/// A condition, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedCondition {
    /// The words of the file.
    pub text: String,
    /// Whether it holds.
    pub passed: bool,
    /// The measured value in the unit of the condition; NaN (`null` in JSON) if there is none.
    #[serde(deserialize_with = "number_or_nan")]
    pub actual: f64,
    /// The measured value for people: `p99 = 12.3 ms`, or why there is none.
    pub shown: String,
    /// How many requests, scrapes or counters the value comes from; none is a failure.
    pub samples: u64,
}

/// JSON has no NaN.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Judges every expectation of the plan, in order.
pub fn judge(evidence: &Evidence<'_>) -> Vec<Judged> {
    let index = EvidenceIndex::new(*evidence);
    evidence.plan.expectations.iter().map(|expectation| index.judge(expectation)).collect()
}

/// The evidence, prepared: records in the order of their due times.
struct EvidenceIndex<'a> {
    evidence: Evidence<'a>,
    loads: Vec<Vec<&'a Record>>,
}

impl<'a> EvidenceIndex<'a> {
    fn new(evidence: Evidence<'a>) -> Self {
        let sorted = |records: &'a Vec<Record>| {
            let mut sorted: Vec<&Record> = records.iter().collect();
            sorted.sort_by_key(|r| r.due_us);
            sorted
        };
        EvidenceIndex { evidence, loads: evidence.loads.iter().map(sorted).collect() }
    }

    fn judge(&self, expectation: &Expectation) -> Judged {
        let time = |point| self.evidence.plan.time(point);
        let mut judged = match expectation.window {
            Window::During { from, to } => self.during(expectation, us(time(from)), us(time(to))),
            Window::Recovery { start, within, hold } => {
                self.recovery(expectation, start, us(within), us(hold))
            }
            Window::Evidence { entry } => self.evidence(expectation, entry),
        };
        if judged.conditions.is_empty() {
            judged.passed = false;
            judged.note = Some("nothing is expected".into());
        }
        judged
    }

    fn during(&self, expectation: &Expectation, from: i64, to: i64) -> Judged {
        let (passed, conditions) = self.all(expectation, (from, to), None);
        let touched = |entry: &Entry| {
            let end = entry.until.map_or(i64::MAX, us);
            us(entry.at) < to && from < end
        };
        Judged {
            name: expectation.name.clone(),
            window: format!("{}..{}", clock(from), clock(to)),
            span: (from, to),
            passed,
            conditions,
            recovered_after_us: None,
            note: self.off_the_clock(touched),
        }
    }

    fn recovery(&self, expectation: &Expectation, start: TimePoint, within: i64, hold: i64) -> Judged {
        let (from, moved) = self.event(start);
        let planned = us(self.evidence.plan.time(start));
        let mut judged = Judged {
            name: expectation.name.clone(),
            window: format!("within {} of {}, for {}", clock(within), clock(planned), clock(hold)),
            span: (from, from + hold),
            passed: false,
            conditions: Vec::new(),
            recovered_after_us: None,
            note: moved.then(|| format!("counted from {}, when it really happened", clock(from))),
        };
        // A stretch that reaches beyond the measured part would be judged by the part that is
        // there.
        let last = (from + within).min(us(self.evidence.plan.duration) - hold);
        let mut at = from;
        loop {
            judged.span = (at, at + hold);
            (judged.passed, judged.conditions) = self.all(expectation, judged.span, None);
            if at > last {
                judged.passed = false;
                judged.note = Some(format!("no stretch of {} fits before the end of the run", clock(hold)));
                return judged;
            }
            if judged.passed {
                judged.recovered_after_us = Some(at - from);
                return judged;
            }
            if at == last {
                let tried = format!("did not hold in time; the values are those from {} on", clock(at));
                judged.note = Some(judged.note.map_or(tried.clone(), |note| format!("{note}; {tried}")));
                return judged;
            }
            at = (at + us(STEP)).min(last);
        }
    }

    fn evidence(&self, expectation: &Expectation, entry: usize) -> Judged {
        let plan = self.evidence.plan;
        let planned = &plan.timeline[entry];
        let actual = self.evidence.actual.get(entry).copied().flatten();
        let span = actual.unwrap_or((us(planned.at), us(planned.until.unwrap_or(plan.duration))));
        let (passed, conditions) = self.all(expectation, span, Some(entry));
        Judged {
            name: expectation.name.clone(),
            window: format!("evidence of {}", planned.name),
            span,
            passed: passed && actual.is_some(),
            conditions,
            recovered_after_us: None,
            note: self.off_the_clock(|e| std::ptr::eq(e, planned)),
        }
    }

    /// When an event really happened, and whether that is worth a note.
    fn event(&self, point: TimePoint) -> (i64, bool) {
        let actual = |entry: usize| self.evidence.actual.get(entry).copied().flatten();
        let happened = match point {
            TimePoint::At(_) => None,
            TimePoint::Begin(entry) => actual(entry).map(|(began, _)| began),
            TimePoint::End(entry) => actual(entry).map(|(_, ended)| ended),
        };
        let planned = us(self.evidence.plan.time(point));
        let at = happened.unwrap_or(planned);
        (at, (at - planned).abs() > OFF_US)
    }

    /// Which of the entries that `matter` did not keep to the scenario's clock.
    fn off_the_clock(&self, matter: impl Fn(&Entry) -> bool) -> Option<String> {
        let entries = self.evidence.plan.timeline.iter().zip(self.evidence.actual);
        let words: Vec<String> = entries
            .filter(|(entry, _)| matter(entry))
            .filter_map(|(entry, actual)| {
                let name = &entry.name;
                let Some((began, ended)) = *actual else { return Some(format!("{name} never took effect")) };
                let began_off = (began - us(entry.at)).abs() > OFF_US;
                let ended_off = entry.until.is_some_and(|until| (ended - us(until)).abs() > OFF_US);
                (began_off || ended_off)
                    .then(|| format!("{name} was really in force {}..{}", clock(began), clock(ended)))
            })
            .collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    fn all(
        &self,
        expectation: &Expectation,
        span: (i64, i64),
        entry: Option<usize>,
    ) -> (bool, Vec<JudgedCondition>) {
        let conditions: Vec<_> =
            expectation.conditions.iter().map(|c| self.condition(c, span, entry)).collect();
        (conditions.iter().all(|c| c.passed), conditions)
    }

    fn condition(&self, condition: &Condition, span: (i64, i64), entry: Option<usize>) -> JudgedCondition {
        let measured = self.measure(&condition.subject, span, entry);
        let (actual, passed) = match measured.value {
            Some(value) if measured.samples > 0 => (value, holds(value, condition.op, condition.value)),
            _ => (f64::NAN, false),
        };
        JudgedCondition {
            text: condition.text.clone(),
            passed,
            actual,
            shown: measured.shown,
            samples: measured.samples,
        }
    }

    fn measure(&self, subject: &Subject, span: (i64, i64), entry: Option<usize>) -> Measured {
        match subject {
            Subject::Load { load, stat } => self.load(*load, *stat, span),
            Subject::Metric { process, name, labels } => self.metric(process, name, labels, span),
            Subject::Evidence { name } => self.fault(name, entry),
            Subject::Ratio { of, to } => {
                let (of, to) = (self.measure(of, span, entry), self.measure(to, span, entry));
                let (part, whole) = match (of.value, to.value) {
                    (None, _) => return of,
                    (_, None) => return to,
                    (Some(part), Some(whole)) => (part, whole),
                };
                if whole == 0.0 {
                    return Measured::nothing(format!("nothing can be divided by {}", to.shown));
                }
                let shown = format!("ratio = {} ({} / {})", number(part / whole), of.shown, to.shown);
                Measured { value: Some(part / whole), shown, samples: of.samples.min(to.samples) }
            }
        }
    }

    fn load(&self, load: usize, stat: Statistic, (from, to): (i64, i64)) -> Measured {
        let Some(records) = self.loads.get(load) else { return Measured::nothing("no such load".into()) };
        let first = records.partition_point(|r| r.due_us < from);
        let records = &records[first..first.max(records.partition_point(|r| r.due_us < to))];
        if records.is_empty() {
            return Measured::nothing("no requests in this window".into());
        }
        let seconds = (to - from) as f64 / 1e6;
        let Some(value) = measure(stat, records.iter().copied(), seconds) else {
            return Measured::nothing(format!("`{stat}` cannot be measured here"));
        };
        let samples = records.len() as u64;
        let mut shown = stat.show(value);
        if stat.is_the_worst_of(samples) {
            shown += &format!(" (the worst of only {samples})");
        }
        Measured { value: Some(value), shown, samples }
    }

    fn metric(
        &self,
        process: &str,
        name: &str,
        labels: &[(String, String)],
        (from, to): (i64, i64),
    ) -> Measured {
        let series = self.evidence.series;
        let samples = series.scrapes(process, from, to);
        if samples == 0 {
            return Measured::nothing(format!("{process} showed no metrics in this window"));
        }
        if is_counter(name) && samples == 1 {
            return Measured::nothing(format!("{process} showed its metrics only once in this window"));
        }
        let value = if is_counter(name) {
            series.increase(process, name, labels, from, to)
        } else {
            series.last(process, name, labels, from, to)
        };
        let Some(value) = value else {
            let names = series.names(process);
            let is_captured = |name: &str| name.starts_with(CAPTURED);
            if is_captured(name) && (names.contains(name) || !names.iter().any(|name| is_captured(name))) {
                return Measured::nothing(no_packet(labels));
            }
            let like = alike(name, names.into_iter());
            return Measured::nothing(format!("{process} has no metric `{name}`{like}"));
        };
        Measured { value: Some(value), shown: format!("{name} = {}", number(value)), samples }
    }

    fn fault(&self, name: &str, entry: Option<usize>) -> Measured {
        let Some(found) = entry.and_then(|entry| self.evidence.faults.get(entry)) else {
            return Measured::nothing("only `fault = \"...\"` has evidence".into());
        };
        let Some(value) = found.get(name).copied() else {
            let like = alike(name, found.keys().map(String::as_str));
            return Measured::nothing(format!("no evidence `{name}`{like}"));
        };
        Measured { value: Some(value), shown: format!("{name} = {}", number(value)), samples: 1 }
    }
}

/// A value and where it comes from.
struct Measured {
    value: Option<f64>,
    shown: String,
    samples: u64,
}

impl Measured {
    fn nothing(why: String) -> Self {
        Measured { value: None, shown: why, samples: 0 }
    }
}

fn holds(value: f64, op: Op, limit: f64) -> bool {
    match op {
        Op::Lt => value < limit,
        Op::Le => value <= limit,
        Op::Gt => value > limit,
        Op::Ge => value >= limit,
        Op::Eq => value == limit,
        Op::Ne => value != limit,
    }
}

/// `; there is x, y`: the names most like `name`, three at most.
fn alike<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<_> = there.map(|other| (strsim::damerau_levenshtein(name, other), other)).collect();
    names.sort_unstable();
    let names: Vec<_> = names.into_iter().take(3).map(|(_, other)| other).collect();
    if names.is_empty() { String::new() } else { format!("; there is {}", names.join(", ")) }
}

/// Why there is no count of the packets between the sides that labels name.
fn no_packet(labels: &[(String, String)]) -> String {
    let side = |direction: &str| {
        let mut found = labels.iter().filter(|(name, _)| name.split('_').next() == Some(direction));
        found.next().map_or_else(String::new, |(_, side)| format!(" {direction} {side}"))
    };
    format!("no packet passed{}{}", side("from"), side("to"))
}

fn us(duration: Duration) -> i64 {
    duration.as_micros() as i64
}

/// A point of the scenario's clock: `10s`, `2.5s`, `250ms`.
fn clock(us: i64) -> String {
    let ms = (us as f64 / 1e3).round();
    if ms.abs() < 1_000.0 && ms != 0.0 { format!("{ms}ms") } else { format!("{}s", ms / 1e3) }
}

#[cfg(test)]
pub(super) mod tests;
