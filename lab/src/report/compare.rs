//! What the sidecars cost: the same load with and without them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::RESULTS;
use super::results::Results;
use crate::plan::SidecarKind;
use crate::run::{BUILD, Report, Verdict};
use crate::verdict::Summary;

/// The latency of one load in one run, microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
}

impl Latency {
    fn of(summary: &Summary) -> Self {
        Latency { p50_us: summary.p50_us, p99_us: summary.p99_us }
    }
}

/// The latencies of a run, by load.
pub type LatencyTable = BTreeMap<String, Latency>;

/// The latencies of a report, of the loads that sent anything.
pub fn latencies(report: &Report) -> LatencyTable {
    let loads = report.plan.loads.iter().zip(&report.loads).filter(|(_, summary)| summary.requests > 0);
    loads.map(|(load, summary)| (load.name.clone(), Latency::of(summary))).collect()
}

/// The newest earlier run of a scenario with the other kind of sidecar, to compare with: its
/// directory and latencies. Runs that were interrupted or made by another build do not count, nor
/// does a scenario that says anything else but for its `sidecar` line.
pub fn earlier(runs: &Path, scenario: &str, sidecar: SidecarKind) -> Option<(PathBuf, LatencyTable)> {
    let mut newest: Option<(SystemTime, PathBuf, LatencyTable)> = None;
    let scenario = but_for_sidecar(scenario)?;
    for entry in std::fs::read_dir(runs).ok()?.flatten() {
        let dir = entry.path();
        let theirs = std::fs::read_to_string(dir.join("scenario.toml")).ok();
        if theirs.and_then(|text| but_for_sidecar(&text)).as_ref() != Some(&scenario) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(dir.join(RESULTS)) else { continue };
        let Ok(Some(results)) = Results::read(&text) else { continue };
        // What a debug build costs says nothing of a release build.
        if results.sidecar != sidecar || results.verdict == Verdict::Interrupted || results.build != BUILD {
            continue;
        }
        let Ok(written) = std::fs::metadata(dir.join(RESULTS)).and_then(|m| m.modified()) else { continue };
        if newest.as_ref().is_some_and(|(than, ..)| *than >= written) {
            continue;
        }
        let loads = results.loads.iter().map(|(name, summary)| (name.to_string(), Latency::of(summary)));
        newest = Some((written, dir, loads.collect()));
    }
    newest.map(|(_, dir, latencies)| (dir, latencies))
}

/// A scenario file without the line that says the kind of sidecar.
fn but_for_sidecar(text: &str) -> Option<toml::Table> {
    let mut file: toml::Table = text.parse().ok()?;
    file.get_mut("scenario")?.as_table_mut()?.remove("sidecar");
    Some(file)
}

/// A table: with sidecars, without, and the difference, which is what two sidecars cost. `None` if
/// no load was measured both ways.
pub fn table(with: &LatencyTable, without: &LatencyTable) -> Option<String> {
    if !with.keys().any(|load| without.contains_key(load)) {
        return None;
    }
    let mut text = format!(
        "the sidecars' cost\n  {:<14} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
        "load", "p50 with", "without", "cost", "p99 with", "without", "cost"
    );
    for (load, with) in with {
        let Some(without) = without.get(load) else { continue };
        text += &format!("  {load:<14}");
        for (with, without) in [(with.p50_us, without.p50_us), (with.p99_us, without.p99_us)] {
            for value in [with, without, with - without] {
                text += &format!(" {:>10}", super::terminal::time(value));
            }
        }
        text.push('\n');
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::page::Sources;
    use crate::report::terminal::tests::passing;

    #[test]
    fn there_is_no_table_of_nothing_and_no_comparison_with_another_build() {
        assert_eq!(table(&LatencyTable::new(), &LatencyTable::new()), None);
        let runs = tempfile::tempdir().expect("a folder");
        let scenario = "[scenario]\nname = \"x\"\nduration = \"1s\"\n";
        let run = |name: &str, build: &'static str| {
            let dir = runs.path().join(name);
            std::fs::create_dir(&dir).expect("a folder");
            std::fs::write(dir.join("scenario.toml"), scenario).expect("a file");
            crate::report::save(&Report { build, ..passing() }, &Sources::default(), &dir).expect("a file");
        };
        run("other", if BUILD == "debug" { "release" } else { "debug" });
        assert_eq!(earlier(runs.path(), scenario, SidecarKind::Ours), None);
        run("same", BUILD);
        let (dir, latencies) = earlier(runs.path(), scenario, SidecarKind::Ours).expect("a run");
        assert!(dir.ends_with("same"));
        assert_eq!(latencies, super::latencies(&passing()));
    }

    #[test]
    fn the_cost_is_the_difference() {
        let run = |p50_us, p99_us| LatencyTable::from([("checkout".to_owned(), Latency { p50_us, p99_us })]);
        let table = table(&run(900.0, 4000.0), &run(300.0, 1500.0)).expect("a load");
        let row = table.lines().last().unwrap();
        let words: Vec<_> = row.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
        assert_eq!(words, ["checkout", "900 us", "300 us", "600 us", "4.00 ms", "1.50 ms", "2.50 ms"]);
    }
}
