//! `ci/regression.toml`: which change of which measure is too much, why, and which changes are
//! meant.

use std::io;

use lab::glob::glob;
use serde::Deserialize;

/// The file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Of a measure, the first that describes it counts.
    #[serde(rename = "threshold")]
    thresholds: Vec<Threshold>,
    /// Changes that are meant to cost.
    #[serde(default, rename = "accept")]
    accepted: Vec<Accepted>,
}

/// When a change is too much.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Threshold {
    /// Names of measures, with `*` for any part of a segment.
    measures: Vec<String>,
    /// Share of the base's value: 0.01 is one percent.
    change: f64,
    /// In the measure's unit: less than that is never too much, however small the base's value is.
    #[serde(default)]
    at_least: f64,
    /// Why it is this number.
    reason: String,
}

/// A change that costs, and is worth it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Names of measures, with `*` for any part of a segment.
    pub measures: Vec<String>,
    /// What it may cost, as a share of the base's value: 0.05 is five percent.
    pub change: f64,
    /// In the measure's unit; the larger of both counts.
    #[serde(default)]
    pub at_least: f64,
    /// What is gained.
    pub reason: String,
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// Says where, and what is wrong.
    pub fn parse(text: &str) -> io::Result<Settings> {
        let settings: Settings = toml::from_str(text).map_err(io::Error::other)?;
        let thresholds = settings.thresholds.iter().map(|t| (t.change, t.at_least, &t.reason));
        let accepted = settings.accepted.iter().map(|a| (a.change, a.at_least, &a.reason));
        for (change, at_least, reason) in thresholds.chain(accepted) {
            if !(0.0..=10.0).contains(&change) || at_least.is_nan() || at_least < 0.0 {
                return Err(io::Error::other(format!(
                    "`change = {change}` is no share: write 0.01 for one percent"
                )));
            }
            if reason.trim().is_empty() {
                return Err(io::Error::other("a threshold or an accepted change has no `reason`"));
            }
        }
        Ok(settings)
    }

    /// What `base` has accepted too is no longer new: it is in what is compared with.
    pub fn without(mut self, base: &Settings) -> Settings {
        self.accepted.retain(|accepted| !base.accepted.contains(accepted));
        self
    }

    /// How many times the base's value is too much, if that is `base`.
    ///
    /// # Errors
    /// If no threshold describes the measure.
    pub fn threshold(&self, measure: &str, base: f64) -> io::Result<f64> {
        let found = self.thresholds.iter().find(|threshold| describes(&threshold.measures, measure));
        let found = found.ok_or_else(|| {
            io::Error::other(format!("ci/regression.toml has no threshold for `{measure}`"))
        })?;
        Ok(limit(found.change, found.at_least, base))
    }

    /// The change that was accepted for a measure, with how many times the base's value it may
    /// cost.
    pub fn accepted(&self, measure: &str, base: f64) -> Option<(f64, &str)> {
        let of_measure = self.accepted.iter().filter(|accepted| describes(&accepted.measures, measure));
        let limits = of_measure.map(|a| (limit(a.change, a.at_least, base), &*a.reason));
        limits.max_by(|a, b| a.0.total_cmp(&b.0))
    }
}

fn limit(change: f64, at_least: f64, base: f64) -> f64 {
    let least = if base > 0.0 { at_least / base } else { at_least };
    1.0 + change.max(least)
}

fn describes(patterns: &[String], measure: &str) -> bool {
    patterns.iter().any(|pattern| glob(pattern, measure))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[[threshold]]\nmeasures = ['instructions/kernel/*']\nchange = 0.02\nat_least = 10\nreason = 'r'\n\
        [[threshold]]\nmeasures = ['instructions/*/*', 'p99/http1']\nchange = 0.01\nreason = 'r'\n";

    fn with(more: &str) -> Settings {
        Settings::parse(&format!("{FILE}{more}")).unwrap()
    }

    #[test]
    fn the_first_threshold_that_describes_a_measure_counts() {
        let settings = with("");
        for (measure, base, limit) in [
            ("instructions/kernel/head", 10_000.0, 1.02),
            ("instructions/kernel/head", 100.0, 1.1),
            ("instructions/http1/inbound", 100.0, 1.01),
            ("p99/http1", 5.0, 1.01),
        ] {
            assert!((settings.threshold(measure, base).unwrap() - limit).abs() < 1e-9, "{measure}");
        }
        assert!(
            settings
                .threshold("cpu/http1/inbound", 1.0)
                .unwrap_err()
                .to_string()
                .contains("cpu/http1/inbound")
        );
    }

    #[test]
    fn the_projects_file_has_a_threshold_for_each_measure() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/regression.toml");
        let settings = Settings::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
        for measure in crate::full::names().iter().chain(&crate::quick::names_of_sidecars()) {
            assert!(settings.threshold(measure, 1.0).is_ok(), "{measure}");
        }
        for kernel in ["instructions/kernel/head", "allocations/kernel/head"] {
            assert!(settings.threshold(kernel, 1.0).is_ok(), "{kernel}");
        }
    }

    #[test]
    fn an_accepted_change_holds_until_the_base_has_it() {
        let one = "[[accept]]\nmeasures = ['p99/*']\nchange = 0.1\nreason = 'a queue'\n";
        let two = "[[accept]]\nmeasures = ['p99/*']\nchange = 0.3\nreason = 'another'\n";
        let (base, head) = (with(one), with(&format!("{one}{two}")));
        assert_eq!(head.clone().without(&base).accepted("p99/http1", 1.0), Some((1.3, "another")));
        assert_eq!(head.clone().without(&head).accepted("p99/http1", 1.0), None);
        assert_eq!(head.accepted("cpu/http1", 1.0), None);
    }

    #[test]
    fn a_mistake_in_the_file_is_an_error_that_shows_it() {
        for (more, words) in [
            ("[[accept]]\nmeasures = ['a']\nchange = 5\n", "missing field `reason`"),
            ("[[accept]]\nmeasures = ['a']\nchange = 50\nreason = 'x'\n", "is no share"),
            ("[[accept]]\nmeasures = ['a']\nchange = 0.1\nreason = ' '\n", "no `reason`"),
            ("[[accept]]\nmeasure = ['a']\n", "unknown field `measure`"),
        ] {
            let error = Settings::parse(&format!("{FILE}{more}")).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
