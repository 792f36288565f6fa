//! Every scenario in both worlds: the simulator and the kernel must come to the same verdict, and what became of requests must be
//! alike, as histograms and not as traces: how many ended how, and how many tries failed, were made again, and led to an ejection.
//!
//! The kernel runs once and the simulator with several seeds. What the kernel counts must lie among what the seeds count,
//! give or take what chance and a busy machine do ([`Tolerance`]). docs/fidelity.md has the reasons of what remains.

mod sim_kit;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;

use lab::plan::SidecarKind;
use lab::report::results;
use lab::sim::SimWorld;
use serde_json::Value;
use sim_kit::*;
use tests::bench::Bench;

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");
/// Seeds of each scenario in the simulator.
const SEEDS: u64 = 10;

/// Counters of sidecars that tell what became of tries, summed over all of a run's.
const COUNTERS: [&str; 4] =
    ["proxy_errors_total", "proxy_retries_total", "proxy_ejections_total", "proxy_retries_denied_total"];

/// How far the kernel may lie outside of what the seeds span.
struct Tolerance {
    /// Of the larger end.
    share: f64,
    /// In any case.
    count: f64,
}

/// How requests ended: a share of a percent of all is chance.
const OUTCOMES: Tolerance = Tolerance { share: 0.3, count: 5.0 };
/// What sidecars did about it: a few requests more or less in flight when a fault strikes make half as many retries more.
const TRIES: Tolerance = Tolerance { share: 0.5, count: 5.0 };

impl Tolerance {
    fn covers(&self, seeds: &RangeInclusive<f64>, kernel: f64, requests: f64) -> bool {
        let room = (seeds.end() * self.share).max(self.count).max(requests * 0.005);
        (seeds.start() - room..=seeds.end() + room).contains(&kernel)
    }
}

/// What is counted of a run, by name.
type Counts = BTreeMap<String, f64>;

#[test]
fn both_worlds_agree_on_every_scenario() {
    let Some(bench) = Bench::new(EXE) else { return };
    let mut differences = Vec::new();
    println!("{:<20} {:<32} {:>17} {:>9}", "scenario", "what", "simulator", "kernel");
    for path in files() {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        let ended = bench.run_conclusive(&path, &[]);
        ended.expect(0);
        let results = ended.results(0);
        let kernel = counts(&results);
        let Some(simulated) = simulated(&path) else {
            println!("{name:<20} passed, on the kernel only");
            continue;
        };
        let requests: f64 =
            kernel.iter().filter(|(what, _)| what.ends_with(" requests")).map(|(_, n)| n).sum();
        let whats: BTreeSet<&String> = simulated.keys().chain(kernel.keys()).collect();
        for what in whats {
            let seeds = simulated.get(what).cloned().unwrap_or(0.0..=0.0);
            let counted = kernel.get(what).copied().unwrap_or_default();
            let tolerance = if COUNTERS.contains(&what.as_str()) { TRIES } else { OUTCOMES };
            let note = if tolerance.covers(&seeds, counted, requests) { "" } else { "DIFFERS" };
            let span = format!("{} to {}", seeds.start(), seeds.end());
            println!("{name:<20} {what:<32} {span:>17} {counted:>9}  {note}");
            if !note.is_empty() {
                differences.push(format!("{name}: {what}: {counted} on the kernel, {span} simulated"));
            }
        }
    }
    assert!(differences.is_empty(), "the worlds disagree:\n{}", differences.join("\n"));
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
