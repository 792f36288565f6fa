//! What the sidecars cost: the same load with and without them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::RESULTS;
use crate::run::Report;

/// The latency of one load in one run, microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
}

/// The latencies of a run, by load.
pub type Latencies = BTreeMap<String, Latency>;

/// The latencies of a report.
pub fn latencies(report: &Report) -> Latencies {
    let of = |(load, summary): (&crate::plan::Load, &crate::verdict::Summary)| {
        (load.name.clone(), Latency { p50_us: summary.p50_us, p99_us: summary.p99_us })
    };
    report.plan.loads.iter().zip(&report.loads).map(of).collect()
}

/// The newest earlier run of a scenario with the other kind of sidecar, to compare with: its directory and latencies.
/// Runs that were interrupted do not count, nor does a scenario that says anything else but for its `sidecar` line.
pub fn earlier(runs: &Path, scenario: &str, sidecar: &str) -> Option<(PathBuf, Latencies)> {
    let mut newest: Option<(SystemTime, PathBuf, Latencies)> = None;
    let scenario = but_for_sidecar(scenario)?;
    for entry in std::fs::read_dir(runs).ok()?.flatten() {
        let dir = entry.path();
        let theirs = std::fs::read_to_string(dir.join("scenario.toml")).ok();
        if theirs.and_then(|text| but_for_sidecar(&text)).as_ref() != Some(&scenario) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(dir.join(RESULTS)) else { continue };
        let Ok(results) = serde_json::from_str::<Value>(&text) else { continue };
        if results["format"] != super::results::FORMAT
            || results["sidecar"] != sidecar
            || results["verdict"] == "interrupted"
        {
            continue;
        }
        let Ok(written) = std::fs::metadata(dir.join(RESULTS)).and_then(|m| m.modified()) else { continue };
        if newest.as_ref().is_some_and(|(than, ..)| *than >= written) {
            continue;
        }
        let loads = results["loads"].as_object().into_iter().flatten();
        let latency = |(name, summary): (&String, &Value)| {
            let latency =
                Latency { p50_us: summary["p50_us"].as_f64()?, p99_us: summary["p99_us"].as_f64()? };
            Some((name.clone(), latency))
        };
        newest = Some((written, dir, loads.filter_map(latency).collect()));
    }
    newest.map(|(_, dir, latencies)| (dir, latencies))
}

/// A scenario file without the line that says what stands in the sidecar's place.
fn but_for_sidecar(text: &str) -> Option<toml::Table> {
    let mut file: toml::Table = text.parse().ok()?;
    file.get_mut("scenario")?.as_table_mut()?.remove("sidecar");
    Some(file)
}

/// A table: with sidecars, without, and the difference, which is what two sidecars cost.
pub fn table(with: &Latencies, without: &Latencies) -> String {
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
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_the_difference() {
        let run = |p50_us, p99_us| Latencies::from([("checkout".to_owned(), Latency { p50_us, p99_us })]);
        let table = table(&run(900.0, 4000.0), &run(300.0, 1500.0));
        let row = table.lines().last().unwrap();
        let words: Vec<_> = row.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
        assert_eq!(words, ["checkout", "900 us", "300 us", "600 us", "4.00 ms", "1.50 ms", "2.50 ms"]);
    }
}
