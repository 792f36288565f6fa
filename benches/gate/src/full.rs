//! The full form: what only a clock can tell, in paired blocks.
//!
//! A *scene* is one kind of load. A block of it starts sidecars of both revisions anew and gives
//! them slices of load in turn, so both see the same minutes of the same machine. Blocks go on in
//! rounds, until each measure of the scene has a verdict, or the last round is over.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use benches::lane::{self, Lane};
use benches::load::sliced::{self, Slice};
use benches::options::{Path, Protocol};
use benches::usage::Memory;
use rand::Rng;

use crate::finding::{Finding, Unit};
use crate::quick::Comparison;
use crate::report;
use crate::scheduling;
use crate::statistics::schedule::{QUAD, Side, quads};
use crate::statistics::verdict::share_of;
use crate::statistics::{Verdict, interval, median, quantile};

/// Blocks after which there is a look at the results.
pub const LOOKS: [usize; 4] = [8, 14, 24, 40];
/// The probability that any of a run's intervals misses the true value.
const ERROR: f64 = 0.05;
/// From the start of the load generators to their first slice.
const LEAD: Duration = Duration::from_millis(250);
/// Between two slices: what is under way ends in it.
const GAP: Duration = Duration::from_millis(4);
/// Connections of the memory scene.
const IDLE: u32 = 2000;

/// How a scene loads its sidecars.
#[derive(Debug, Clone, Copy)]
struct Load {
    protocol: Protocol,
    concurrency: u16,
    fresh: bool,
    /// Requests a second; 0: as many as there can be.
    rate: f64,
    slice: Duration,
    quads: usize,
}

/// One kind of load, and what is read off it.
#[derive(Debug, Clone, Copy)]
struct Scene {
    name: &'static str,
    load: Option<Load>,
    readings: &'static [Reading],
}

/// What can be read off a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    CpuPerRequest,
    CpuPerByte,
    Throughput,
    BulkRate,
    P50,
    P99,
    IdleMemory,
    StartCpu,
    StartTime,
    StartMemory,
}

impl Reading {
    fn name(self) -> &'static str {
        match self {
            Reading::CpuPerRequest | Reading::CpuPerByte | Reading::StartCpu => "cpu",
            Reading::Throughput | Reading::BulkRate => "throughput",
            Reading::P50 => "p50",
            Reading::P99 => "p99",
            Reading::IdleMemory | Reading::StartMemory => "memory",
            Reading::StartTime => "time",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Reading::CpuPerRequest | Reading::P50 | Reading::P99 => Unit::Microseconds,
            Reading::CpuPerByte => Unit::MillisecondsPerGigabyte,
            Reading::Throughput => Unit::Rate,
            Reading::BulkRate => Unit::Gigabits,
            Reading::IdleMemory | Reading::StartMemory => Unit::Kibibytes,
            Reading::StartCpu | Reading::StartTime => Unit::Milliseconds,
        }
    }

    /// Whether each sidecar has its own.
    fn is_of_a_side(self) -> bool {
        !matches!(self, Reading::Throughput | Reading::BulkRate | Reading::P50 | Reading::P99)
    }
}

const fn closed(protocol: Protocol) -> Option<Load> {
    let slice = Duration::from_millis(20);
    Some(Load { protocol, concurrency: 16, fresh: false, rate: 0.0, slice, quads: 25 })
}

const CPU: &[Reading] = &[Reading::CpuPerRequest];
const SCENES: [Scene; 8] = [
    Scene {
        name: "http1",
        load: closed(Protocol::Http1),
        readings: &[Reading::CpuPerRequest, Reading::Throughput],
    },
    Scene { name: "http2", load: closed(Protocol::Http2), readings: CPU },
    Scene { name: "grpc", load: closed(Protocol::Grpc), readings: CPU },
    Scene { name: "tcp", load: closed(Protocol::TcpPingpong), readings: CPU },
    Scene {
        name: "bulk",
        load: closed(Protocol::TcpBulk),
        readings: &[Reading::CpuPerByte, Reading::BulkRate],
    },
    Scene {
        name: "handshake",
        load: Some(Load {
            protocol: Protocol::Http1,
            concurrency: 16,
            fresh: true,
            rate: 0.0,
            slice: Duration::from_millis(20),
            quads: 25,
        }),
        readings: CPU,
    },
    Scene {
        name: "open-loop",
        load: Some(Load {
            protocol: Protocol::Http1,
            concurrency: 64,
            fresh: false,
            rate: 3000.0,
            slice: Duration::from_millis(80),
            quads: 12,
        }),
        readings: &[Reading::P50, Reading::P99],
    },
    Scene {
        name: "idle",
        load: None,
        readings: &[Reading::IdleMemory, Reading::StartCpu, Reading::StartTime, Reading::StartMemory],
    },
];

/// One measure of a scene.
#[derive(Debug, Clone)]
struct Measure {
    name: String,
    reading: Reading,
    /// Label of the sidecar, or of none.
    label: Option<&'static str>,
    /// Of base and head, for each block, with the logarithm of how many times it costs.
    blocks: Vec<(f64, f64, f64)>,
}

impl Scene {
    fn measures(&self) -> Vec<Measure> {
        let mut measures = Vec::new();
        for &reading in self.readings {
            let start = matches!(reading, Reading::StartCpu | Reading::StartTime | Reading::StartMemory);
            let scene = if start { "start-up" } else { self.name };
            let sides: &[_] = if reading.is_of_a_side() {
                &[(Some("a"), "/outbound"), (Some("b"), "/inbound")]
            } else {
                &[(None, "")]
            };
            for &(label, side) in sides {
                let name = format!("{}/{scene}{side}", reading.name());
                measures.push(Measure { name, reading, label, blocks: Vec::new() });
            }
        }
        measures
    }
}

/// Measures until everything that is `wanted` has a verdict, in [`LOOKS`] rounds at most, as long
/// as there is time.
///
/// # Errors
/// If a path cannot be built, or a request fails.
pub async fn run(
    compared: &Comparison<'_>,
    rng: &mut impl Rng,
    wanted: impl Fn(&str) -> bool,
    into: &mut report::Comparison,
) -> io::Result<()> {
    let (_, last) = scheduling::processors()?;
    scheduling::stay_on(last)?;
    let mut scenes: Vec<(Scene, Vec<Measure>)> =
        SCENES.iter().map(|scene| (*scene, scene.measures())).collect();
    for (_, measures) in &mut scenes {
        measures.retain(|measure| wanted(&measure.name));
    }
    scenes.retain(|(_, measures)| !measures.is_empty());
    let all = scenes.iter().map(|(_, measures)| measures.len()).sum();
    let error = share_of(ERROR, all, LOOKS.len());
    for (scene, mut measures) in scenes {
        if compared.deadline.is_over()? {
            into.no_time_for.extend(measures.into_iter().map(|measure| measure.name));
            continue;
        }
        for (look, blocks) in LOOKS.into_iter().enumerate() {
            (compared.tell)(&format!(
                "{}: blocks to {blocks}, round {} of {}",
                scene.name,
                look + 1,
                LOOKS.len()
            ));
            while measures[0].blocks.len() < blocks {
                block(compared, &scene, &mut measures, rng).await?;
            }
            let found: io::Result<Vec<Finding>> =
                measures.iter().map(|measure| judged(measure, error, compared, rng)).collect();
            let found = found?;
            let undecided = found.iter().any(|f| f.verdict == Verdict::NotEnoughEvidence);
            if !undecided || look + 1 == LOOKS.len() || compared.deadline.is_over()? {
                into.findings.extend(found);
                break;
            }
        }
    }
    Ok(())
}

fn judged(
    measure: &Measure,
    error: f64,
    compared: &Comparison<'_>,
    rng: &mut impl Rng,
) -> io::Result<Finding> {
    let logarithms: Vec<f64> = measure.blocks.iter().map(|block| block.2).collect();
    let ratio = interval(&logarithms, error, rng).map(f64::exp);
    let middle = |of: fn(&(f64, f64, f64)) -> f64| median(measure.blocks.iter().map(of).collect());
    let values = (middle(|block| block.0), middle(|block| block.1));
    let blocks = measure.blocks.len();
    Finding::new(measure.name.clone(), measure.reading.unit(), values, (ratio, blocks), compared.settings)
}

/// One block: both revisions, in turn, with processes of their own.
async fn block(
    compared: &Comparison<'_>,
    scene: &Scene,
    measures: &mut [Measure],
    rng: &mut impl Rng,
) -> io::Result<()> {
    let order = quads(scene.load.map_or(1, |load| load.quads), rng);
    let protocol = scene.load.map_or(Protocol::Http1, |load| load.protocol);
    let up = async |side| {
        let programs = if side == Side::Base { compared.base } else { compared.head };
        let programs = lane::Programs::new(compared.gate.to_owned(), programs.proxy.clone());
        Lane::up(Path::Two, protocol, &programs).await
    };
    // The first of the order is also the first to be started.
    let first = up(order[0]).await?;
    let second = up(order[1]).await?;
    let (base, head) = if order[0] == Side::Base { (first, second) } else { (second, first) };
    scheduling::come_first(base.processes().into_values().chain(head.processes().into_values()));
    let readings = match scene.load {
        Some(load) => loaded(&base, &head, load, &order, measures).await?,
        None => idle(&base, &head, measures).await?,
    };
    for (measure, (base, head, quads)) in measures.iter_mut().zip(readings) {
        let gain = if measure.reading.unit().is_gain() { -1.0 } else { 1.0 };
        let logarithm = gain * quads;
        if !logarithm.is_finite() {
            return Err(io::Error::other(format!("{}: {base} against {head}", measure.name)));
        }
        measure.blocks.push((base, head, logarithm));
    }
    Ok(())
}

type Readings = Vec<(f64, f64, f64)>;

async fn loaded(
    base: &Lane,
    head: &Lane,
    load: Load,
    order: &[Side],
    measures: &[Measure],
) -> io::Result<Readings> {
    let mut at = sliced::monotonic_ns()? + LEAD.as_nanos() as u64;
    let mut slices: [Vec<(u64, u64)>; 2] = Default::default();
    // Each side begins with a slice that warms it up.
    let warm_up = [order[0], order[1]];
    for &side in warm_up.iter().chain(order) {
        let end = at + load.slice.as_nanos() as u64;
        slices[side as usize].push((at, end));
        at = end + GAP.as_nanos() as u64;
    }
    let [of_base, of_head] = slices;
    let job = |slices| sliced::Job {
        protocol: load.protocol,
        concurrency: load.concurrency,
        fresh: load.fresh,
        rate: load.rate,
        slices,
        warm_up: 1,
        ..sliced::Job::default()
    };
    let mut on_base = base.start_slices(job(of_base))?;
    let mut on_head = head.start_slices(job(of_head))?;
    scheduling::come_first([on_base.pid(), on_head.pid()]);
    let limit = (load.slice + GAP) * order.len() as u32 + LEAD;
    let base = on_base.outcome(limit).await?.slices;
    let head = on_head.outcome(limit).await?.slices;
    // The middle of all quads, also of percentiles: a percentile of all requests together would
    // tell of the few moments in which something else held up the machine.
    let read = |measure: &Measure| {
        let value = |slices: &[Slice]| read(measure, slices);
        let of_quads = base.chunks(QUAD / 2).zip(head.chunks(QUAD / 2));
        let logarithms = of_quads.map(|(base, head)| (value(head) / value(base)).ln());
        let logarithm = median(logarithms.collect());
        (value(&base), value(&head), logarithm)
    };
    Ok(measures.iter().map(read).collect())
}

/// One number of some slices.
fn read(measure: &Measure, slices: &[Slice]) -> f64 {
    let sum = |of: &dyn Fn(&Slice) -> f64| slices.iter().map(of).sum::<f64>();
    let requests = sum(&|slice| slice.requests as f64);
    let bytes = sum(&|slice| slice.bytes as f64);
    let seconds = sum(&|slice| slice.seconds);
    let cpu_ns = sum(&|slice| measure.label.map_or(0.0, |label| slice.cpu_ns[label] as f64));
    let latency = |q| {
        let mut all: Vec<u64> = slices.iter().flat_map(|slice| slice.latencies_ns.iter().copied()).collect();
        all.sort_unstable();
        if all.is_empty() { f64::NAN } else { quantile(&all, q) as f64 / 1e3 }
    };
    match measure.reading {
        Reading::CpuPerRequest => cpu_ns / 1e3 / requests,
        Reading::CpuPerByte => cpu_ns / 1e6 / (bytes / 1e9),
        Reading::Throughput => requests / seconds,
        Reading::BulkRate => bytes * 8.0 / 1e9 / seconds,
        Reading::P50 => latency(0.5),
        Reading::P99 => latency(0.99),
        Reading::IdleMemory | Reading::StartCpu | Reading::StartTime | Reading::StartMemory => f64::NAN,
    }
}

/// What a start took, and what idle connections take.
async fn idle(base: &Lane, head: &Lane, measures: &[Measure]) -> io::Result<Readings> {
    let held = async |lane: &Lane| -> io::Result<BTreeMap<String, f64>> {
        if !measures.iter().any(|measure| measure.reading == Reading::IdleMemory) {
            return Ok(BTreeMap::new());
        }
        let held = lane.hold(IDLE).await?;
        let each = held.into_iter().map(|(label, (before, after))| {
            (label, (after.private as f64 - before.private as f64) / f64::from(IDLE))
        });
        Ok(each.collect())
    };
    // When all are up, so that program text is shared by as many of each.
    let (ready_base, ready_head) = (base.memory()?, head.memory()?);
    let (of_base, of_head) = (held(base).await?, held(head).await?);
    let read =
        |measure: &Measure, lane: &Lane, ready: &BTreeMap<String, Memory>, held: &BTreeMap<String, f64>| {
            let label = measure.label.unwrap_or_default();
            let started = lane.started()[label];
            match measure.reading {
                Reading::StartCpu => started.cpu_ns as f64 / 1e6,
                Reading::StartTime => started.wall.as_secs_f64() * 1e3,
                Reading::StartMemory => ready[label].private as f64,
                _ => held[label],
            }
        };
    let both = measures.iter().map(|measure| {
        let values = (read(measure, base, &ready_base, &of_base), read(measure, head, &ready_head, &of_head));
        (values.0, values.1, (values.1 / values.0).ln())
    });
    Ok(both.collect())
}

/// The names of all measures of this form.
pub fn names() -> Vec<String> {
    SCENES.iter().flat_map(|scene| scene.measures()).map(|measure| measure.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measure_has_a_name_of_its_own() {
        let mut all = names();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        for name in ["cpu/http1/outbound", "p99/open-loop", "memory/start-up/inbound", "throughput/bulk"] {
            assert!(all.iter().any(|n| n == name), "{name} is not among {all:?}");
        }
    }

    #[test]
    fn what_is_read_off_slices_is_their_sum_over_their_requests() {
        let slice = |requests, ns, latencies: &[u64]| Slice {
            requests,
            bytes: requests * 1000,
            seconds: 0.5,
            cpu_ns: [("a".to_owned(), ns), ("b".to_owned(), 2 * ns)].into(),
            latencies_ns: latencies.to_vec(),
            ..Slice::default()
        };
        let slices = [slice(10, 1_000_000, &[1_000, 3_000]), slice(30, 1_000_000, &[2_000, 9_000])];
        let of = |name: &str| {
            let all: Vec<Measure> = SCENES.iter().flat_map(|scene| scene.measures()).collect();
            read(all.iter().find(|measure| measure.name == name).unwrap(), &slices)
        };
        assert_eq!(of("cpu/http1/outbound"), 50.0);
        assert_eq!(of("cpu/http1/inbound"), 100.0);
        assert_eq!(of("throughput/http1"), 40.0);
        assert_eq!(of("cpu/bulk/outbound").round(), 50_000.0);
        assert_eq!((of("p50/open-loop"), of("p99/open-loop")), (2.0, 9.0));
    }
}
