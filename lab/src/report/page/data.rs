//! What the page shows, as the data that its script reads.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Sources;
use super::distribution::{self, Distribution};
use super::logs::Log;
use crate::events::Event;
use crate::fabric::LinkProfile;
use crate::load;
use crate::metrics::{CPU_SECONDS, FABRIC, RESIDENT_BYTES};
use crate::plan::{Plan, SidecarKind, Window};
use crate::readable;
use crate::report::series::{Axis, Line, LoadSeries, rounded};
use crate::report::terminal;
use crate::run::{AppliedFault, Report, UnexpectedExit, Verdict};
use crate::verdict::{Judged, Summary};
use crate::world::{Fidelity, WorldKind};

/// Events that are shown at most.
const MOST_EVENTS: usize = 400;

/// Lines of a chart that has one for each process, at most: those that use most.
const MOST_LINES: usize = 12;

/// Connections between services that are drawn, at most.
const MOST_EDGES: usize = 200;

/// Counters of the sidecars that are drawn, summed over all of them: what it takes beside the
/// requests themselves.
const EFFORTS: [(&str, &str); 5] = [
    ("proxy_connects_total", "connects"),
    ("proxy_retries_total", "retries"),
    ("proxy_errors_total", "failed attempts"),
    ("proxy_connect_failures_total", "failed connects"),
    ("proxy_ejections_total", "ejections"),
];

/// All of it.
#[derive(Serialize)]
pub(super) struct Page<'a> {
    scenario: &'a str,
    verdict: Verdict,
    reasons: &'a [String],
    world: WorldKind,
    sidecar: SidecarKind,
    seed: u64,
    build: &'a str,
    lab: &'a str,
    started: Option<String>,
    duration_us: i64,
    warmup: String,
    command: &'a str,
    file: &'a str,
    expectations: Vec<Expectation<'a>>,
    left_out: usize,
    summaries: Vec<Load<'a>>,
    faults: Vec<Fault<'a>>,
    topology: Topology<'a>,
    axis: Axis,
    loads: Vec<NamedSeries<'a>>,
    efforts: Vec<Line>,
    cpu: Usage,
    memory: Usage,
    distributions: Vec<Distribution>,
    processes: Vec<Process<'a>>,
    exits: &'a [UnexpectedExit],
    logs: &'a BTreeMap<String, Log>,
    events: &'a [Event],
    events_left_out: usize,
    fidelity: &'a Fidelity,
}

#[derive(Serialize)]
struct NamedSeries<'a> {
    name: &'a str,
    #[serde(flatten)]
    series: LoadSeries,
}

/// An expectation with what it is about in time.
#[derive(Serialize)]
struct Expectation<'a> {
    #[serde(flatten)]
    judged: &'a Judged,
    /// Whether it is about time at all.
    has_window: bool,
}

#[derive(Serialize)]
struct Load<'a> {
    name: &'a str,
    from: &'a str,
    to: String,
    rate: f64,
    #[serde(flatten)]
    summary: &'a Summary,
}

#[derive(Serialize)]
struct Fault<'a> {
    #[serde(flatten)]
    applied: &'a AppliedFault,
    /// What it does.
    kind: &'static str,
    /// The instances that it is about.
    instances: Vec<&'a str>,
}

#[derive(Serialize)]
struct Topology<'a> {
    services: Vec<Service<'a>>,
    edges: Vec<Edge<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    /// How many calls away from a load it is.
    column: usize,
    instances: Vec<Instance<'a>>,
}

#[derive(Serialize)]
struct Instance<'a> {
    name: &'a str,
    zone: Option<&'a str>,
    has_app: bool,
    has_sidecar: bool,
    /// Positions of the faults that are about it.
    faults: Vec<usize>,
    has_ended: bool,
}

/// Which service calls which.
#[derive(Serialize)]
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    /// What impairs the way all the time.
    links: Vec<String>,
    /// Packets, if they were counted.
    packets: Option<f64>,
}

/// What processes use, a line each.
#[derive(Serialize)]
struct Usage {
    lines: Vec<Line>,
    /// How many processes have none.
    left_out: usize,
}

#[derive(Serialize)]
struct Process<'a> {
    name: &'a str,
    told: Vec<String>,
}

impl<'a> Page<'a> {
    pub fn of(report: &'a Report, sources: &'a Sources<'a>) -> Self {
        let plan = &report.plan;
        let duration_us = plan.duration.as_micros() as i64;
        let axis = Axis::of(duration_us);
        let measured = &report.measurements;
        let records: Vec<_> = plan
            .loads
            .iter()
            .enumerate()
            .map(|(at, load)| (load.name.as_str(), measured.records.get(at).map_or(&[][..], Vec::as_slice)))
            .collect();
        let shown = sources.events.len().min(MOST_EVENTS);
        Page {
            scenario: &plan.name,
            verdict: report.verdict,
            reasons: &report.reasons,
            world: report.world,
            sidecar: plan.sidecar,
            seed: plan.seed,
            build: report.build,
            lab: env!("CARGO_PKG_VERSION"),
            started: (report.world == WorldKind::Kernel).then(|| readable::utc(report.started)),
            duration_us,
            warmup: readable::text(plan.warmup),
            command: sources.command,
            file: sources.scenario,
            expectations: expectations(report),
            left_out: plan.left_out,
            summaries: summaries(report),
            faults: faults(report),
            topology: topology(report),
            axis,
            loads: records
                .iter()
                .map(|(name, records)| NamedSeries { name, series: axis.load(records) })
                .collect(),
            efforts: efforts(report, axis),
            cpu: cpu(report, axis),
            memory: memory(report, axis),
            distributions: distribution::of(&report.faults, &records),
            processes: terminal::told(report).map(|(name, told)| Process { name, told }).collect(),
            exits: &report.unexpected_exits,
            logs: &sources.logs,
            events: &sources.events[..shown],
            events_left_out: sources.events.len() - shown,
            fidelity: &report.fidelity,
        }
    }
}

fn expectations(report: &Report) -> Vec<Expectation<'_>> {
    let windows = report.plan.expectations.iter().map(|e| !matches!(e.window, Window::Evidence { .. }));
    // The lab's own check of its counts comes last, and is about the whole run.
    let with_windows = report.expectations.iter().zip(windows.chain(std::iter::repeat(true)));
    with_windows.map(|(judged, has_window)| Expectation { judged, has_window }).collect()
}

fn summaries<'a>(report: &'a Report) -> Vec<Load<'a>> {
    let plan = &report.plan;
    let of = |(load, summary): (&'a load::Load, &'a Summary)| Load {
        name: &load.name,
        from: &plan.instances[load.from].name,
        to: format!("{}:{}", load.target.host, load.target.port),
        rate: load.rate,
        summary,
    };
    plan.loads.iter().zip(&report.loads).map(of).collect()
}

fn faults(report: &Report) -> Vec<Fault<'_>> {
    let plan = &report.plan;
    let of = |(entry, applied): (&crate::fault::Entry, _)| {
        let touched = (0..plan.instances.len()).filter(|instance| entry.action.touches(*instance));
        let instances = touched.map(|instance| plan.instances[instance].name.as_str()).collect();
        Fault { applied, kind: entry.action.kind().key, instances }
    };
    plan.timeline.iter().zip(&report.faults).map(of).collect()
}

fn topology(report: &Report) -> Topology<'_> {
    let plan = &report.plan;
    let edges = edges(report);
    let columns = columns(plan, &edges);
    let ended =
        |name: &str| report.unexpected_exits.iter().any(|e| e.process.split('/').next() == Some(name));
    let instance = |at: usize| {
        let instance = &plan.instances[at];
        let faults = plan.timeline.iter().enumerate().filter(|(_, e)| e.action.touches(at));
        Instance {
            name: &instance.name,
            zone: instance.zone.as_deref(),
            has_app: instance.app.is_some() || plan.authority(at).is_some(),
            has_sidecar: instance.sidecar.is_some(),
            faults: faults.map(|(position, _)| position).collect(),
            has_ended: ended(&instance.name),
        }
    };
    let services = plan.services.iter().zip(columns).map(|(service, column)| Service {
        name: &service.name,
        column,
        instances: service.instances.iter().map(|at| instance(*at)).collect(),
    });
    Topology { services: services.collect(), edges }
}

/// Which services exchange packets, or where nobody has counted them, which is called by a load.
fn edges(report: &Report) -> Vec<Edge<'_>> {
    let plan = &report.plan;
    let service = |instance: usize| plan.instances[instance].service;
    let mut pairs: BTreeMap<(usize, usize), Option<f64>> = BTreeMap::new();
    for load in &plan.loads {
        if let Some(to) = plan.services.iter().position(|s| s.name == load.target.host) {
            pairs.insert((service(load.from), to), None);
        }
    }
    let positions: BTreeMap<&str, usize> =
        plan.instances.iter().enumerate().map(|(at, instance)| (instance.name.as_str(), at)).collect();
    for grown in report.measurements.series.growth(FABRIC, "link_packets_total") {
        let at = |label| positions.get(grown.labels.get(label)?.as_ref()).map(|at| service(*at));
        let (Some(from), Some(to)) = (at("from"), at("to")) else { continue };
        // An answer is no call.
        let pair = if pairs.contains_key(&(to, from)) { (to, from) } else { (from, to) };
        *pairs.entry(pair).or_default().get_or_insert(0.0) += grown.by;
    }
    let links = |(from, to): (usize, usize)| -> Vec<String> {
        let own = plan.links.iter().filter(|l| (service(l.from), service(l.to)) == (from, to));
        let texts: BTreeSet<String> = own.map(|link| in_words(&link.profile)).collect();
        texts.into_iter().collect()
    };
    let edge = |(pair, packets): ((usize, usize), Option<f64>)| {
        let name = |at: usize| plan.services[at].name.as_str();
        Edge { from: name(pair.0), to: name(pair.1), links: links(pair), packets }
    };
    pairs.into_iter().filter(|((from, to), _)| from != to).take(MOST_EDGES).map(edge).collect()
}

/// `20ms ± 5ms, 1 % lost, 8 Mbit/s`
fn in_words(profile: &LinkProfile) -> String {
    let LinkProfile { delay, jitter, loss, bandwidth } = *profile;
    let mut words = Vec::new();
    match (delay.is_zero(), jitter.is_zero()) {
        (true, true) => {}
        (_, true) => words.push(readable::text(delay)),
        _ => words.push(format!("{} ± {}", readable::text(delay), readable::text(jitter))),
    }
    if loss > 0.0 {
        words.push(format!("{} % lost", rounded(loss * 100.0)));
    }
    if bandwidth > 0 {
        words.push(format!("{} Mbit/s", rounded(bandwidth as f64 / 1e6)));
    }
    words.join(", ")
}

/// How many calls each service is away from a load.
fn columns(plan: &Plan, edges: &[Edge<'_>]) -> Vec<usize> {
    let sends = |at: usize| plan.loads.iter().any(|load| plan.instances[load.from].service == at);
    let mut columns: Vec<Option<usize>> = (0..plan.services.len()).map(|at| sends(at).then_some(0)).collect();
    let position = |name: &str| plan.services.iter().position(|s| s.name == name);
    // A circle of calls has no column that everybody in it could have: each keeps its first.
    for _ in 0..plan.services.len() {
        for edge in edges {
            let (Some(from), Some(to)) = (position(edge.from), position(edge.to)) else { continue };
            if let (Some(column), None) = (columns[from], columns[to]) {
                columns[to] = Some(column + 1);
            }
        }
    }
    let last = columns.iter().flatten().max().map_or(0, |last| last + 1);
    columns.into_iter().map(|column| column.unwrap_or(last)).collect()
}

fn efforts(report: &Report, axis: Axis) -> Vec<Line> {
    let of = |(metric, name): (&str, &str)| {
        let growth = report.measurements.series.growth("*/sidecar", metric);
        (!growth.is_empty()).then(|| Line { name: name.to_owned(), values: axis.rate(&growth) })
    };
    EFFORTS.into_iter().filter_map(of).collect()
}

/// In CPUs.
fn cpu(report: &Report, axis: Axis) -> Usage {
    let mut by_process: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for grown in report.measurements.series.growth(FABRIC, CPU_SECONDS) {
        let process = grown.labels.get("process").unwrap_or_default().into_owned();
        by_process.entry(process).or_default().push(grown);
    }
    let line = |(name, growth): (String, Vec<_>)| Line { name, values: axis.rate(&growth) };
    Usage::of(by_process.into_iter().map(line).collect())
}

/// In bytes.
fn memory(report: &Report, axis: Axis) -> Usage {
    let shown = report.measurements.series.shown(FABRIC, RESIDENT_BYTES);
    let line = |(labels, shown): (&crate::metrics::Labels, Vec<_>)| Line {
        name: labels.get("process").unwrap_or_default().into_owned(),
        values: axis.level(&shown),
    };
    Usage::of(shown.into_iter().map(line).collect())
}

impl Usage {
    /// The lines of those that use most.
    fn of(mut lines: Vec<Line>) -> Self {
        let sum = |line: &Line| line.values.iter().flatten().sum::<f64>();
        lines.sort_by(|one, other| sum(other).total_cmp(&sum(one)));
        let left_out = lines.len().saturating_sub(MOST_LINES);
        lines.truncate(MOST_LINES);
        Usage { lines, left_out }
    }
}
