//! Every scenario in both worlds: the simulator and the kernel must come to the same verdict, and
//! what became of requests must be alike, as histograms and not as traces: how many ended how, and
//! how many attempts failed, were retried, and led to an ejection.
//!
//! The kernel runs once and the simulator with several seeds. What the kernel counts must lie among
//! what the seeds count, give or take what chance and a busy machine do ([`SHARE`]). One run is one
//! sample, so a difference is one only if it is there in each of several runs of the kernel. The
//! first has company, for runs mostly wait; if it leaves a doubt, the others have the machine to
//! themselves. docs/fidelity.md has the reasons of what remains.

mod sim_kit;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::{panic, thread};

use lab::plan::SidecarKind;
use lab::report::results;
use lab::sim::SimWorld;
use serde_json::Value;
use sim_kit::*;
use tests::testbed::Testbed;

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");
/// Seeds of each scenario in the simulator.
const SEEDS: u64 = 6;
/// Runs of the kernel in which a difference must be to be believed. A machine that stalls for a
/// moment moves one run.
const SAMPLES: usize = 3;

/// Counters of sidecars that tell what became of attempts, summed over all of a run's.
const COUNTERS: [&str; 4] =
    ["proxy_errors_total", "proxy_retries_total", "proxy_ejections_total", "proxy_retries_denied_total"];

/// How far the kernel may lie outside of what the seeds span: this share of the larger end, for a
/// few requests more or less in flight when a fault begins make half as many retries more, and an
/// app whose timers are late turns away half as many more ...
const SHARE: f64 = 0.5;
/// ... so many in any case ...
const COUNT: f64 = 5.0;
/// ... and this share of all requests, which is chance ...
const OF_ALL: f64 = 0.005;
/// ... or this one where requests race with closes. How many meet one depends on how long a request
/// is on its way, which is no time in the simulator and longer on a machine that is busy.
const OF_ALL_IN_A_RACE: f64 = 0.03;
/// The scenarios in which they do.
const RACES: [&str; 1] = ["stale"];

/// What is counted of a run, by name.
type Counts = BTreeMap<String, f64>;

#[test]
fn both_worlds_agree_on_every_scenario() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    // The kernel mostly waits, so the simulator takes the time that is left.
    let (tell, told) = mpsc::channel();
    let simulating = thread::spawn(move || {
        yield_to_everybody();
        // Whoever listens has failed if nobody does any more.
        files().iter().map(|path| simulated(path)).try_for_each(|simulated| tell.send(simulated)).ok()
    });
    let mut doubtful = Vec::new();
    println!("{:<20} {:<32} {:>17} {:>9}", "scenario", "what", "simulator", "kernel");
    let first = |testbed: &Testbed, path: &PathBuf| {
        let ended = testbed.run(path, &[]);
        (ended.code() == 0).then(|| counts(&ended.results(0)))
    };
    testbed.side_by_side(&files(), first, |path, counted| {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        // The channel is closed if the other thread has failed; it says why when it is joined.
        let Ok(simulated) = told.recv() else { return };
        let differs = counted.map(|counted| compare(&name, simulated.as_ref(), &counted));
        if differs.as_ref().is_none_or(|differs| !differs.is_empty()) {
            doubtful.push((path.clone(), name, simulated, differs));
        }
    });
    simulating.join().unwrap_or_else(|why| panic::resume_unwind(why));
    let mut differences = Vec::new();
    for (path, name, simulated, mut differs) in doubtful {
        for _ in usize::from(differs.is_some())..SAMPLES {
            if differs.as_ref().is_some_and(BTreeSet::is_empty) {
                break;
            }
            let ended = testbed.run_conclusive(&path, &[]);
            ended.expect(0);
            let again = compare(&name, simulated.as_ref(), &counts(&ended.results(0)));
            differs = Some(differs.map_or(again.clone(), |differs| &differs & &again));
        }
        differences.extend(differs.iter().flatten().map(|what| format!("{name}: {what}")));
    }
    assert!(differences.is_empty(), "the worlds disagree each time:\n{}", differences.join("\n"));
}

/// From now on this thread, and those that it starts, get only what nobody else wants.
fn yield_to_everybody() {
    let thread = nix::unistd::gettid().to_string();
    let done = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status();
    assert!(done.as_ref().is_ok_and(ExitStatus::success), "chrt, of util-linux: {done:?}");
}

/// What the kernel counted that the simulator does not cover. Prints the table's lines.
fn compare(
    name: &str,
    simulated: Option<&BTreeMap<String, RangeInclusive<f64>>>,
    kernel: &Counts,
) -> BTreeSet<String> {
    let Some(simulated) = simulated else {
        println!("{name:<20} passed, on the kernel only");
        return BTreeSet::new();
    };
    let requests: f64 = kernel.iter().filter(|(what, _)| what.ends_with(" requests")).map(|(_, n)| n).sum();
    let of_all = if RACES.contains(&name) { OF_ALL_IN_A_RACE } else { OF_ALL };
    let whats: BTreeSet<&String> = simulated.keys().chain(kernel.keys()).collect();
    let differs = whats.into_iter().filter(|what| {
        let seeds = simulated.get(*what).cloned().unwrap_or(0.0..=0.0);
        let counted = kernel.get(*what).copied().unwrap_or_default();
        let room = (seeds.end() * SHARE).max(COUNT).max(requests * of_all);
        let is_covered = (seeds.start() - room..=seeds.end() + room).contains(&counted);
        let span = format!("{} to {}", seeds.start(), seeds.end());
        let note = if is_covered { "" } else { "DIFFERS" };
        println!("{name:<20} {what:<32} {span:>17} {counted:>9}  {note}");
        !is_covered
    });
    differs.cloned().collect()
}

/// What the seeds count, least to most; `None` if only the kernel can run it.
fn simulated(path: &Path) -> Option<BTreeMap<String, RangeInclusive<f64>>> {
    let scenario = read(path);
    SimWorld::supports(&scenario.plan(SidecarKind::Ours)).ok()?;
    let mut all: Vec<Counts> = Vec::new();
    for_seeds(path, &scenario, scenario.sidecars()[0], SEEDS, |history| {
        passed(history)?;
        let report = history.result.as_ref().map_err(Clone::clone)?;
        all.push(counts(&serde_json::to_value(results::of(report)).expect("plain data")));
        Ok(())
    });
    let whats: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let span = |what: &&String| {
        let of = || all.iter().map(|counts| counts.get(*what).copied().unwrap_or_default());
        ((*what).clone(), of().fold(f64::MAX, f64::min)..=of().fold(0.0, f64::max))
    };
    Some(whats.iter().map(span).collect())
}

/// Reads them off the results.
fn counts(results: &Value) -> Counts {
    let mut counts = Counts::new();
    for (load, summary) in results["loads"].as_object().expect("loads") {
        let mut note = |what: &str, n: &Value| {
            counts.insert(format!("{load} {what}"), n.as_f64().expect("a count"));
        };
        note("requests", &summary["requests"]);
        note("ok", &summary["ok"]);
        for (outcome, n) in summary["errors"].as_object().expect("errors") {
            note(outcome, n);
        }
    }
    for counter in COUNTERS {
        let processes = results["totals"].as_object().expect("totals").values();
        let sum = processes.filter_map(|of| of.get(counter)?.as_f64()).sum();
        counts.insert(counter.to_owned(), sum);
    }
    counts
}
