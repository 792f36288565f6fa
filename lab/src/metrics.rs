//! Measured values by name, in Prometheus' terms: the text that processes show, and what became of
//! it over a run.
//!
//! A counter is a name that ends in `_total`, `_count`, `_sum` or `_bucket`; everything else is a
//! gauge. When a counter of a process goes down, the process was restarted: all its counters began
//! again at 0, and what they had reached before is kept. A restart between two scrapes after which
//! every counter has already passed its old value is not noticed; the counts then lack what
//! happened before it. The world itself (a name without `/`) is many things at once, so there a
//! counter that goes down speaks for itself alone.
//!
//! A scrape takes time: what it shows happened before its end and perhaps after its beginning. So a
//! window counts from the first scrape that begins in it to the last that ends in it. What happened
//! outside never counts; what happened between an edge and its scrape is missed.
//!
//! Left out: exemplars, timestamps of samples, and metric names in quotes.

mod changed;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use proxy::mutant::Mutant;
use tokio::time::Instant;

pub use changed::ChangedRequests;

use crate::glob::glob;

/// One value of one process at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// `orders-1/app`, `web/sidecar`, or `fabric` for the world itself.
    pub process: Arc<str>,
    /// Metric name, such as `proxy_requests_total`.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Value.
    pub value: f64,
}

/// The labels of a sample as scrapes write them, `name="value",...`: there are thousands in one
/// scrape, and hardly one is ever asked for its parts. A process writes a label set in the same
/// order each time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

impl Labels {
    /// Whether there is a label of this name with this value.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|found| found == value)
    }

    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        Pairs(&self.0).find(|(found, _)| *found == name).map(|(_, raw)| unescaped(raw))
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut text = String::new();
        for (name, value) in pairs {
            if !text.is_empty() {
                text.push(',');
            }
            let value = value.as_ref().replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            text.extend([name.as_ref(), "=\"", &value, "\""]);
        }
        Labels(text.into())
    }
}

/// Names and values, these still escaped, from the text between braces; ends early at what is no
/// label.
struct Pairs<'a>(&'a str);

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.trim_start_matches([' ', ',']).split_once('=')?;
        let inside = rest.trim_start().strip_prefix('"')?;
        let mut escaped = false;
        let end = inside.bytes().position(|b| {
            let ends = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            ends
        })?;
        self.0 = &inside[end + 1..];
        Some((name.trim_end(), &inside[..end]))
    }
}

/// A value as it is meant.
fn unescaped(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return raw.into();
    }
    let (mut value, mut rest) = (String::with_capacity(raw.len()), raw);
    while let Some((before, after)) = rest.split_once('\\') {
        let (meant, taken) = match after.bytes().next() {
            Some(b'n') => ('\n', 1),
            Some(b'"') => ('"', 1),
            Some(b'\\') => ('\\', 1),
            _ => ('\\', 0),
        };
        value += before;
        value.push(meant);
        rest = &after[taken..];
    }
    value += rest;
    value.into()
}

/// The process name of the world's own samples, in conditions too.
pub const FABRIC: &str = "fabric";

/// The world's metric of the CPU that each process has used; on the kernel.
pub(crate) const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// The world's metric of the memory that each process holds; on the kernel.
pub(crate) const RESIDENT_BYTES: &str = "process_resident_memory_bytes";

/// With what the world's metrics of captured packets begin. A pair of instances has them from its
/// first packet on.
pub const CAPTURED: &str = "capture_";

/// Whether a metric only ever grows while its process lives.
pub fn is_counter(name: &str) -> bool {
    ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end))
}

/// Reads a scrape in Prometheus' or OpenMetrics' text format. Lines that are neither are passed
/// over.
///
/// A counter that is announced (`# TYPE`) and has no sample yet is reported as 0 without labels:
/// libraries show a labelled counter only from its first increment, and "none so far" is not "no
/// such metric".
pub fn parse(process: &str, text: &str) -> Vec<Sample> {
    let process: Arc<str> = process.into();
    let mut samples: Vec<Sample> = Vec::new();
    let mut announced = Vec::new();
    let mut seen = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            if let (Some("TYPE"), Some(name), Some("counter")) = (words.next(), words.next(), words.next()) {
                // OpenMetrics announces the name without its `_total`.
                announced.push(format!("{}_total", name.strip_suffix("_total").unwrap_or(name)));
            }
        } else if let Some((name, labels, value)) = sample(line) {
            // Those of one name stand together.
            let name = match samples.last() {
                Some(last) if *last.name == *name => last.name.clone(),
                _ => {
                    seen.insert(name);
                    name.into()
                }
            };
            samples.push(Sample { process: process.clone(), name, labels, value });
        }
    }
    for name in announced {
        if !seen.contains(name.as_str()) {
            let (process, name) = (process.clone(), name.into());
            samples.push(Sample { process, name, labels: Labels::default(), value: 0.0 });
        }
    }
    samples
}

/// `name{label="value",...} number [timestamp] [# exemplar]`
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.bytes().position(|b| !b.is_ascii_alphanumeric() && b != b'_' && b != b':')?;
    let (name, mut rest) = line.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    rest = rest.trim_start();
    let mut labels = Labels::default();
    if let Some(inside) = rest.strip_prefix('{') {
        (labels, rest) = read_labels(inside)?;
    }
    let number = rest.split_ascii_whitespace().next()?;
    Some((name, labels, number.parse().ok()?))
}

/// The labels after a `{`, and what follows their `}`.
fn read_labels(text: &str) -> Option<(Labels, &str)> {
    if let Some(end) = plain_end(text.as_bytes()) {
        return Some((Labels(text[..end].into()), &text[end + 1..]));
    }
    let mut pairs = Pairs(text);
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = pairs.0.trim_start_matches([' ', ',']).strip_prefix('}') {
            return Some((labels.into_iter().collect(), rest));
        }
        let (name, raw) = pairs.next()?;
        labels.push((name, unescaped(raw)));
    }
}

/// Where the `}` is of labels as nearly everybody writes them: one comma between two, no spaces,
/// nothing escaped.
fn plain_end(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += text[at..].iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_')?;
        at += text[at..].starts_with(b"=\"").then_some(2)?;
        at += text[at..].iter().position(|b| matches!(b, b'"' | b'\\'))?;
        match text[at..] {
            [b'"', b',', ..] => at += 2,
            [b'"', b'}', ..] => return Some(at + 1),
            _ => return None,
        }
    }
}

/// One look at one process.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// As [`Sample::process`].
    pub process: Arc<str>,
    /// When it was asked.
    pub asked: Instant,
    /// When it had answered.
    pub answered: Instant,
    /// What it showed; nothing if it did not run or did not answer.
    pub samples: Vec<Sample>,
}

/// All that scrapes show.
pub fn samples(scrapes: Vec<Scrape>) -> Vec<Sample> {
    scrapes.into_iter().flat_map(|scrape| scrape.samples).collect()
}

/// What a counter grew by from one scrape to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth<'a> {
    /// Its labels.
    pub labels: &'a Labels,
    /// From when to when.
    pub span_us: (i64, i64),
    /// By how much.
    pub by: f64,
}

/// Samples over time. Times are microseconds from the start of the measured part.
#[derive(Debug, Clone, Default)]
pub struct Series {
    processes: BTreeMap<Arc<str>, Process>,
}

#[derive(Debug, Clone, Default)]
struct Process {
    scrapes: Vec<Look>,
    /// Grows by one whenever a counter goes down.
    incarnation: u32,
    metrics: BTreeMap<Arc<str>, Metric>,
}

/// A scrape without what it showed.
#[derive(Debug, Clone, Copy)]
struct Look {
    asked_us: i64,
    answered_us: i64,
    incarnation: u32,
    /// Whether it showed anything.
    shown: bool,
}

/// One name: its label sets, in the order in which they showed up, each with its points.
#[derive(Debug, Clone, Default)]
struct Metric {
    sets: Vec<(Labels, Vec<Point>)>,
    /// Where the next set is likely to be: scrapes show them in the same order.
    next: usize,
}

impl Metric {
    /// Adds a label set that is new. Where its points are.
    fn add(&mut self, labels: Labels) -> usize {
        self.sets.push((labels, Vec::with_capacity(1)));
        self.sets.len() - 1
    }

    /// Where the points of a label set are; they are made if it is new.
    fn position(&mut self, labels: &Labels) -> usize {
        let likely = self.next..self.sets.len();
        let mut order = likely.chain(0..self.next);
        let found = order.find(|&p| self.sets[p].0 == *labels);
        let position = found.unwrap_or_else(|| self.add(labels.clone()));
        self.next = if position + 1 < self.sets.len() { position + 1 } else { 0 };
        position
    }
}

#[derive(Debug, Clone, Copy)]
struct Point {
    /// Position of its scrape.
    scrape: usize,
    incarnation: u32,
    value: f64,
}

impl Point {
    /// What a counter grew by since an earlier point.
    fn since(&self, before: &Point) -> f64 {
        match before.incarnation == self.incarnation && before.value <= self.value {
            true => self.value - before.value,
            false => self.value,
        }
    }
}

impl Series {
    /// Adds what a process showed to a question that it was asked and had answered at these times.
    /// Calls for one process come in the order of time.
    pub fn push(&mut self, process: &Arc<str>, (asked_us, answered_us): (i64, i64), samples: Vec<Sample>) {
        let one_fate = process.contains('/');
        self.processes.entry(process.clone()).or_default().push((asked_us, answered_us), samples, one_fate);
    }

    /// How often the processes that match showed something from `from` to `to`.
    pub fn scrapes(&self, process_glob: &str, from: i64, to: i64) -> u64 {
        let within =
            |p: &Process| p.scrapes[p.within(from, to)].iter().filter(|scrape| scrape.shown).count() as u64;
        self.matching(process_glob).map(within).sum()
    }

    /// By how much a counter grew from `from` to `to`, summed over every process and every label
    /// set that match (`labels` are those that must be there; others may): from the first scrape
    /// that begins there to the last that ends there.
    ///
    /// A counter that first shows up between the two grew from 0, and so did all of a process that
    /// nobody had looked at before. `None` if no process that matches ever showed the name up to
    /// `to`, or none was looked at twice.
    pub fn increase(
        &self,
        process_glob: &str,
        name: &str,
        labels: &[(String, String)],
        from: i64,
        to: i64,
    ) -> Option<f64> {
        let mut sum = None;
        for process in self.matching(process_glob) {
            let mut within = process.within(from, to);
            if Mutant::CountsFromBeforeTheWindow.is_planted() {
                within.start = within.start.saturating_sub(1);
            }
            if within.len() < 2 && within.start > 0 {
                continue;
            }
            for (found, points) in process.points(name) {
                if points.first().is_none_or(|p| p.scrape >= within.end) {
                    continue;
                }
                let sum = sum.get_or_insert(0.0);
                if has_all(found, labels) {
                    *sum += process.grown(points, within.clone());
                }
            }
        }
        sum
    }

    /// The last value of a gauge from `from` to `to`, summed as in [`Series::increase`]. `None` if
    /// there is none.
    pub fn last(
        &self,
        process_glob: &str,
        name: &str,
        labels: &[(String, String)],
        from: i64,
        to: i64,
    ) -> Option<f64> {
        let mut sum = None;
        for process in self.matching(process_glob) {
            let within = process.within(from, to);
            for (_, points) in process.points(name).filter(|(found, _)| has_all(found, labels)) {
                let until = points.partition_point(|p| p.scrape < within.end);
                if let Some(last) = points[..until].last().filter(|p| p.scrape >= within.start) {
                    *sum.get_or_insert(0.0) += last.value;
                }
            }
        }
        sum
    }

    /// What a counter of the processes that match grew by from each scrape to the next, with the
    /// labels of what grew; only where it grew.
    pub fn growth(&self, process_glob: &str, name: &str) -> Vec<Growth<'_>> {
        let mut all = Vec::new();
        for process in self.matching(process_glob) {
            for (labels, points) in process.points(name) {
                let before = std::iter::once(None).chain(points.iter().map(Some));
                let steps = points.iter().zip(before).filter(|(point, _)| point.scrape > 0);
                all.extend(steps.filter_map(|(point, before)| {
                    // A process that shows a counter for the first time had not counted before.
                    let by = before.map_or(point.value, |before| point.since(before));
                    let last = process.scrapes[..point.scrape].iter().rposition(|scrape| scrape.shown);
                    let answered = |scrape: usize| process.scrapes[scrape].answered_us;
                    let span_us = (answered(last.unwrap_or(point.scrape - 1)), answered(point.scrape));
                    (by > 0.0).then_some(Growth { labels, span_us, by })
                }));
            }
        }
        all
    }

    /// What a gauge of the processes that match showed, by its labels: when, in microseconds, and
    /// what.
    pub fn shown(&self, process_glob: &str, name: &str) -> Vec<(&Labels, Vec<(i64, f64)>)> {
        let of =
            |process: &'_ Process, point: &Point| (process.scrapes[point.scrape].answered_us, point.value);
        let sets = self.matching(process_glob).flat_map(|process| {
            process.points(name).map(move |(labels, points)| {
                (labels, points.iter().map(|point| of(process, point)).collect())
            })
        });
        sets.collect()
    }

    /// What each label set of each counter of a process grew by in all: name, labels as a condition
    /// writes them, growth.
    pub fn totals(&self, process: &str) -> impl Iterator<Item = (&str, &str, f64)> {
        let of = |process: &'_ Process| 0..process.scrapes.len();
        self.processes.get(process).into_iter().flat_map(move |process| {
            let all = of(process);
            process.metrics.iter().flat_map(move |(name, metric)| {
                let all = all.clone();
                let grown = move |points: &[Point]| process.grown(points, all.clone());
                metric.sets.iter().map(move |(labels, points)| (&**name, &*labels.0, grown(points)))
            })
        })
    }

    /// The names of all metrics that the processes which match ever showed.
    pub fn names(&self, process_glob: &str) -> BTreeSet<&str> {
        self.matching(process_glob).flat_map(|p| p.metrics.keys().map(|name| &**name)).collect()
    }

    fn matching(&self, process_glob: &str) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |(name, _)| glob(process_glob, name)).map(|(_, process)| process)
    }
}

impl Process {
    fn points(&self, name: &str) -> impl Iterator<Item = (&Labels, &[Point])> {
        let sets = self.metrics.get(name).into_iter().flat_map(|metric| &metric.sets);
        sets.map(|(labels, points)| (labels, points.as_slice()))
    }

    /// The scrapes that begin and end from `from` to `to`.
    fn within(&self, from: i64, to: i64) -> Range<usize> {
        let first = self.scrapes.partition_point(|scrape| scrape.asked_us < from);
        first..self.scrapes.partition_point(|scrape| scrape.answered_us <= to).max(first)
    }

    /// What a counter grew by from the first to the last of these scrapes.
    fn grown(&self, points: &[Point], within: Range<usize>) -> f64 {
        let (first, until) = (
            points.partition_point(|p| p.scrape < within.start),
            points.partition_point(|p| p.scrape < within.end),
        );
        let mut before: Option<&Point> = None;
        let mut sum = 0.0;
        for point in &points[first..until] {
            sum += match before {
                Some(before) => point.since(before),
                None if self.may_be_older(point, &within) => 0.0,
                None => point.value,
            };
            before = Some(point);
        }
        sum
    }

    /// Whether some of the first value in a window may be from before it: the process was there
    /// then, and has not shown in the window that it had not begun to count.
    fn may_be_older(&self, point: &Point, within: &Range<usize>) -> bool {
        let earlier = self.scrapes[..point.scrape].iter().rposition(|scrape| scrape.shown);
        within.start > 0
            && (point.scrape == within.start
                || earlier.is_some_and(|earlier| {
                    earlier < within.start && self.scrapes[earlier].incarnation == point.incarnation
                }))
    }

    fn push(&mut self, (asked_us, answered_us): (i64, i64), samples: Vec<Sample>, one_fate: bool) {
        if one_fate && samples.iter().any(|s| self.went_down(s)) {
            self.incarnation += 1;
        }
        let (incarnation, scrape) = (self.incarnation, self.scrapes.len());
        self.scrapes.push(Look { asked_us, answered_us, incarnation, shown: !samples.is_empty() });
        // Then all label sets are new, and looking for each among those before it would take the
        // square of their number.
        let is_first = self.metrics.is_empty();
        for Sample { name, labels, value, .. } in samples {
            let metric = self.metrics.entry(name).or_default();
            let position = if is_first { metric.add(labels) } else { metric.position(&labels) };
            metric.sets[position].1.push(Point { scrape, incarnation, value });
        }
    }

    fn went_down(&mut self, sample: &Sample) -> bool {
        // A sum of observations may fall without a restart: observations may be negative.
        if !is_counter(&sample.name) || sample.name.ends_with("_sum") {
            return false;
        }
        let incarnation = self.incarnation;
        self.metrics.get_mut(&sample.name).is_some_and(|metric| {
            let position = metric.position(&sample.labels);
            let last = metric.sets[position].1.last();
            last.is_some_and(|last| last.incarnation == incarnation && sample.value < last.value)
        })
    }
}

fn has_all(found: &Labels, asked: &[(String, String)]) -> bool {
    asked.iter().all(|(name, value)| found.has(name, value))
}

#[cfg(test)]
mod tests;
