//! The quick form: what can be counted, on any machine, however busy.
//!
//! Kernels run alone under callgrind, and give the same count every time. Whole sidecars run under
//! callgrind too, with real sockets between a client and an app that take turns: each waits until
//! the sidecars have nothing left to do. Then what a request takes is nearly the same every time,
//! although threads, timers and the kernel have their part in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::panic::resume_unwind;
use std::path::Path as File;
use std::process::Command;
use std::thread;
use std::time::Duration;

use benches::lane::{self, Lane};
use benches::load::sliced;
use benches::options::{Path, Protocol};
use benches::roles;

use crate::callgrind::{self, Counts};
use crate::deadline::Deadline;
use crate::finding::{Finding, Unit};
use crate::programs::Programs;
use crate::report;
use crate::scheduling;
use crate::settings::Settings;
use crate::statistics::{Interval, Verdict, median};

/// Runs of a kernel.
const TIMES: u64 = 200;
/// How long the two runs of a whole sidecar carry requests: what the second took more, its further
/// requests took. So neither its start nor its end is in the count.
const LENGTHS: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(2300));
/// How long the app waits with its answer: sidecars that cannot come first on their processor
/// (see [`scheduling`]) still have become silent by then.
const PAUSE: Duration = Duration::from_millis(1);
/// How long sidecars may take to end.
const END_WITHIN: Duration = Duration::from_secs(30);
/// Measurements of each sidecar, if the first leaves doubts; and at most, if they go on doing so.
const REPEATS: (usize, usize) = (3, 6);

/// Something that whole sidecars carry.
struct Traffic {
    /// As in the names of measures.
    name: &'static str,
    protocol: Protocol,
    /// Requests a second: the next comes when the sidecars have become silent.
    rate: f64,
}

impl Traffic {
    /// How many requests there are in `length`.
    fn requests(&self, length: Duration) -> u32 {
        (length.as_secs_f64() * self.rate).round() as u32
    }
}

/// A round trip over TCP takes so little that there must be many of them, or what a sidecar does
/// from time to time would be a share of it.
const TRAFFIC: [Traffic; 4] = [
    Traffic { name: "http1", protocol: Protocol::Http1, rate: 100.0 },
    Traffic { name: "http2", protocol: Protocol::Http2, rate: 100.0 },
    Traffic { name: "grpc", protocol: Protocol::Grpc, rate: 100.0 },
    Traffic { name: "tcp", protocol: Protocol::TcpPingpong, rate: 300.0 },
];

/// What is counted.
const COUNTS: [&str; 3] = ["instructions", "allocations", "system-calls"];
/// What is counted in kernels.
const OF_KERNELS: [&str; 2] = ["instructions", "allocations"];
/// Where a sidecar stands: beside the client, and beside the app.
const SIDES: [&str; 2] = ["outbound", "inbound"];

/// The programs that are compared, and what to say meanwhile.
pub struct Comparison<'a> {
    /// What it was.
    pub base: &'a Programs,
    /// What it is.
    pub head: &'a Programs,
    /// This program, which is app and load generator too.
    pub gate: &'a File,
    /// Which change is too much.
    pub settings: &'a Settings,
    /// When nothing new is begun.
    pub deadline: Deadline,
    /// Hears of progress.
    pub tell: &'a dyn Fn(&str),
}

/// Counts everything that is `wanted`, in both, as long as there is time.
///
/// # Errors
/// If valgrind is missing or a program fails.
pub fn run(
    compared: &Comparison<'_>,
    wanted: impl Fn(&str) -> bool,
    into: &mut report::Comparison,
) -> io::Result<()> {
    (compared.tell)("counting in kernels");
    kernels(compared, &wanted, into)?;
    for traffic in &TRAFFIC {
        let measures: Vec<String> =
            names_of_sidecar(traffic.name).filter(|measure| wanted(measure)).collect();
        if measures.is_empty() {
            continue;
        }
        if compared.deadline.is_over()? {
            into.no_time_for.extend(measures);
            continue;
        }
        (compared.tell)(&format!("counting in whole sidecars: {}", traffic.name));
        into.findings.extend(sidecars(compared, traffic)?);
    }
    into.findings.retain(|finding| wanted(&finding.measure));
    Ok(())
}

fn kernels(
    compared: &Comparison<'_>,
    wanted: impl Fn(&str) -> bool,
    into: &mut report::Comparison,
) -> io::Result<()> {
    let (Some(base), Some(head)) = (&compared.base.kernels, &compared.head.kernels) else {
        return Ok(());
    };
    let (old, new) = (names(base)?, names(head)?);
    for kernel in new.iter().filter(|kernel| old.contains(kernel)) {
        let measures = OF_KERNELS.map(|what| format!("{what}/kernel/{kernel}"));
        if !measures.iter().any(|measure| wanted(measure)) {
            continue;
        }
        if compared.deadline.is_over()? {
            into.no_time_for.extend(measures.into_iter().filter(|measure| wanted(measure)));
            continue;
        }
        let (base, head) = (count(base, kernel)?, count(head, kernel)?);
        let [instructions, allocations] = measures;
        let each = |total: u64| total as f64 / TIMES as f64;
        for (measure, unit, base, head) in [
            (instructions, Unit::Instructions, base.instructions, head.instructions),
            (allocations, Unit::Calls, base.allocations, head.allocations),
        ] {
            into.findings.push(Finding::counted(measure, unit, each(base), each(head), compared.settings)?);
        }
    }
    Ok(())
}

/// The names of all measures of the kernels that two programs have in common.
///
/// # Errors
/// If one cannot be started.
pub fn names_of_kernels(base: &File, head: &File) -> io::Result<Vec<String>> {
    let (old, new) = (names(base)?, names(head)?);
    let both: Vec<String> = new.into_iter().filter(|kernel| old.contains(kernel)).collect();
    Ok(measures_of_kernels(&both))
}

/// The names of all measures of `kernels`.
pub fn measures_of_kernels(kernels: &[String]) -> Vec<String> {
    let of = |kernel: &String| OF_KERNELS.map(|what| format!("{what}/kernel/{kernel}"));
    kernels.iter().flat_map(of).collect()
}

fn names(kernels: &File) -> io::Result<Vec<String>> {
    let said = Command::new(kernels).output()?.stdout;
    Ok(String::from_utf8_lossy(&said).lines().map(str::to_owned).collect())
}

fn count(kernels: &File, name: &str) -> io::Result<Counts> {
    callgrind::count(kernels, &[name, &TIMES.to_string()], "kernels::measured")
}

/// The names of all measures of whole sidecars.
pub fn names_of_sidecars() -> Vec<String> {
    TRAFFIC.iter().flat_map(|traffic| names_of_sidecar(traffic.name)).collect()
}

fn names_of_sidecar(protocol: &str) -> impl Iterator<Item = String> {
    SIDES.iter().flat_map(move |side| COUNTS.map(|what| format!("{what}/{protocol}/{side}")))
}

/// Each measurement of one sidecar: instructions, allocations and system calls for one request.
type Measured = [Vec<f64>; 3];

fn sidecars(compared: &Comparison<'_>, traffic: &Traffic) -> io::Result<Vec<Finding>> {
    let mut all: BTreeMap<(&str, bool), Measured> = BTreeMap::new();
    let requests = traffic.requests(LENGTHS.1) - traffic.requests(LENGTHS.0);
    for repeat in 1.. {
        for is_head in [false, true] {
            let programs = if is_head { compared.head } else { compared.base };
            let counted = one(compared, &programs.proxy, traffic)?;
            for (side, counts) in SIDES.into_iter().zip(counted) {
                let each = [counts.instructions, counts.allocations, counts.system_calls];
                let measured = all.entry((side, is_head)).or_default();
                for (values, total) in measured.iter_mut().zip(each) {
                    values.push(total as f64 / f64::from(requests));
                }
            }
        }
        let findings = compare(&all, traffic.name, compared.settings)?;
        // One measurement cannot tell how far off it is, but what is within the threshold by far
        // needs no second.
        let close = |f: &Finding| (f.ratio - 1.0).abs() < (f.threshold - 1.0) / 2.0;
        let decided = findings.iter().all(|f| f.verdict != Verdict::NotEnoughEvidence);
        let enough = match repeat {
            1 => findings.iter().all(close),
            _ => repeat >= REPEATS.1 || repeat >= REPEATS.0 && decided || compared.deadline.is_over()?,
        };
        if enough {
            return Ok(findings);
        }
    }
    unreachable!("the last measurement is enough")
}

fn compare(
    all: &BTreeMap<(&str, bool), Measured>,
    name: &str,
    settings: &Settings,
) -> io::Result<Vec<Finding>> {
    let units = [Unit::Instructions, Unit::Calls, Unit::Calls];
    let mut findings = Vec::new();
    for side in SIDES {
        let (base, head) = (&all[&(side, false)], &all[&(side, true)]);
        for (((what, unit), base), head) in COUNTS.into_iter().zip(units).zip(base).zip(head) {
            let values = (median(base.clone()), median(head.clone()));
            let ratio = (between(base, head), base.len());
            findings.push(Finding::new(format!("{what}/{name}/{side}"), unit, values, ratio, settings)?);
        }
    }
    Ok(findings)
}

/// From the least that the two may differ by to the most, given all measurements but the farthest
/// off of each.
fn between(base: &[f64], head: &[f64]) -> Interval {
    let ratio = |head: f64, base: f64| if base > 0.0 { head / base } else { 1.0 + head };
    let (old, new) = (median(base.to_vec()), median(head.to_vec()));
    let nearest = |values: &[f64], middle: f64| {
        let mut off: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
        off.sort_by(f64::total_cmp);
        off[off.len() / 2]
    };
    let (doubt_old, doubt_new) = (nearest(base, old), nearest(head, new));
    Interval {
        low: ratio(new - doubt_new, old + doubt_old),
        estimate: ratio(new, old),
        high: ratio(new + doubt_new, (old - doubt_old).max(0.0)),
    }
}

/// What one request takes, by side.
fn one(compared: &Comparison<'_>, proxy: &File, traffic: &Traffic) -> io::Result<[Counts; 2]> {
    let (first, last) = scheduling::processors()?;
    let on = |processor, length| {
        scheduling::stay_on(processor)?;
        roles::here(threads(compared.gate, proxy, traffic, length))
    };
    // At the same time, each on a processor of its own where there are two.
    let (few, many) = thread::scope(|scope| {
        let few = scope.spawn(|| on(first, LENGTHS.0));
        let many = scope.spawn(|| on(last, LENGTHS.1));
        (few.join(), many.join())
    });
    let counted = |joined: thread::Result<_>| joined.unwrap_or_else(|panic| resume_unwind(panic));
    let (few, many) = (counted(few)?, counted(many)?);
    Ok(std::array::from_fn(|side| difference(&few[side], &many[side])))
}

/// What the thread took more that took most: the one that carries requests. The others look after
/// health, metrics and the configuration, at their own times.
fn difference(few: &Threads, many: &Threads) -> Counts {
    let more = many.iter().filter_map(|(thread, many)| {
        let few = few.get(thread)?;
        Some(Counts {
            instructions: many.instructions.saturating_sub(few.instructions),
            allocations: many.allocations.saturating_sub(few.allocations),
            system_calls: many.system_calls.saturating_sub(few.system_calls),
        })
    });
    more.max_by_key(|counts| counts.instructions).unwrap_or_default()
}

/// Counts of each thread of a process, by its number.
type Threads = BTreeMap<String, Counts>;

/// What sidecars count that carry requests for as long as `length`: outbound, inbound.
async fn threads(gate: &File, proxy: &File, traffic: &Traffic, length: Duration) -> io::Result<[Threads; 2]> {
    let out = tempfile::Builder::new().prefix("sidelab-gate-").tempdir()?;
    // Sidecars have a user of their own.
    fs::set_permissions(out.path(), fs::Permissions::from_mode(0o777))?;
    let under = callgrind::command(&out.path().join("%p"), &["--separate-threads=yes", "--vgdb=no"]);
    let own = lane::Programs::new(gate.to_owned(), proxy.to_owned());
    let lane = Lane::up(Path::Two, traffic.protocol, &lane::Programs { under, pause: PAUSE, ..own }).await?;
    scheduling::come_first(lane.processes().into_values());
    let begin = sliced::monotonic_ns()? + 200_000_000;
    let mut load = lane.start_slices(sliced::Job {
        rate: traffic.rate,
        slices: vec![(begin, begin + length.as_nanos() as u64)],
        ..sliced::Job::default()
    })?;
    scheduling::come_first([load.pid()]);
    let done = load.outcome(length).await?;
    let answered: u64 = done.slices.iter().map(|slice| slice.requests).sum();
    let requests = traffic.requests(length);
    if answered != u64::from(requests) {
        return Err(io::Error::other(format!("{answered} answers to {requests} requests")));
    }
    drop(load);
    let pids = lane.end(END_WITHIN).await?;
    Ok([profiles(out.path(), pids["a"])?, profiles(out.path(), pids["b"])?])
}

/// Reads what callgrind wrote when a process ended: a file for each thread that ran.
fn profiles(folder: &File, pid: i32) -> io::Result<Threads> {
    let mut threads = Threads::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(thread) = name.strip_prefix(&format!("{pid}-"))
            && let Ok(counts) = callgrind::parse(&fs::read_to_string(&path)?)
        {
            threads.insert(thread.to_owned(), counts);
        }
    }
    if threads.is_empty() {
        Err(io::Error::other("callgrind wrote no profile of a sidecar"))
    } else {
        Ok(threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_works_more_with_more_requests_is_the_one_that_counts() {
        let counts = |instructions| Counts { instructions, allocations: instructions / 10, system_calls: 4 };
        let few: Threads = [("01".into(), counts(900_000)), ("03".into(), counts(10_000))].into();
        let many: Threads =
            [("01".into(), counts(900_100)), ("03".into(), counts(50_000)), ("09".into(), counts(9))].into();
        let more = Counts { instructions: 40_000, allocations: 4_000, system_calls: 0 };
        assert_eq!(difference(&few, &many), more);
    }

    #[test]
    fn doubt_is_how_far_half_of_the_measurements_are_off() {
        let same = between(&[100.0], &[102.0]);
        assert_eq!((same.low, same.estimate, same.high), (1.02, 1.02, 1.02));
        let doubtful = between(&[100.0, 100.0, 180.0], &[101.0, 103.0, 102.0]);
        assert_eq!((doubtful.low, doubtful.estimate, doubtful.high), (1.01, 1.02, 1.03));
    }
}
