//! `ci/regression.toml`: which change of which measure is too much, why, and which changes are
//! meant.

use std::io;

use lab::glob::glob;
use serde::Deserialize;
use toml::Spanned;

use crate::failure::Failure;
use crate::names;

/// The largest `at_least`: larger than any measure's value.
const LARGEST: f64 = 1e6;
/// The largest `change`: eleven times the base's value.
const WIDEST: f64 = 10.0;

/// The file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Of a measure, the first that describes it counts.
    thresholds: Vec<Limit>,
    /// Changes that are meant to cost.
    accepted: Vec<Limit>,
}

/// When a change is too much, or how much of it is accepted.
#[derive(Debug, Clone, PartialEq)]
struct Limit {
    /// Names of measures, with `*` for any part of a segment.
    measures: Vec<String>,
    /// Share of the base's value: 0.01 is one percent.
    change: f64,
    /// In the measure's unit: less than that is never too much, however small the base's value is.
    /// The larger of both counts.
    at_least: f64,
    /// Why it is this number, or what is gained.
    reason: String,
}

/// The file, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "threshold")]
    thresholds: Vec<Entry>,
    #[serde(default, rename = "accept")]
    accepted: Vec<Entry>,
}

/// A limit, with where its parts are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    measures: Spanned<Vec<Spanned<String>>>,
    change: Spanned<f64>,
    at_least: Option<Spanned<f64>>,
    reason: Spanned<String>,
}

impl Entry {
    /// Tells `wrong` where in the file something is wrong, and what.
    fn check(&self, wrong: &mut impl FnMut(usize, String)) {
        let change = *self.change.get_ref();
        if !(0.0..=WIDEST).contains(&change) {
            let words = format!("`change = {change}` is no share from 0 to {WIDEST}: 0.01 is one percent");
            wrong(self.change.span().start, words);
        }
        if let Some(at_least) = &self.at_least
            && !(0.0..=LARGEST).contains(at_least.get_ref())
        {
            let words = format!("`at_least = {}` is no number from 0 to {LARGEST}", at_least.get_ref());
            wrong(at_least.span().start, words);
        }
        if self.reason.get_ref().trim().is_empty() {
            wrong(self.reason.span().start, "`reason` is empty: say why".into());
        }
        if self.measures.get_ref().is_empty() {
            wrong(self.measures.span().start, "`measures` is empty: it describes no measure".into());
        }
        for pattern in self.measures.get_ref() {
            if names::described(pattern.get_ref()).is_empty() {
                wrong(pattern.span().start, format!("no measure is called `{}`", pattern.get_ref()));
            }
        }
    }

    fn limit(self) -> Limit {
        Limit {
            measures: self.measures.into_inner().into_iter().map(Spanned::into_inner).collect(),
            change: self.change.into_inner(),
            at_least: self.at_least.map_or(0.0, Spanned::into_inner),
            reason: self.reason.into_inner(),
        }
    }
}

/// Tells `wrong` of patterns that never count, because earlier thresholds have all that they
/// describe.
fn shadowed(thresholds: &[Entry], wrong: &mut impl FnMut(usize, String)) {
    for (nth, threshold) in thresholds.iter().enumerate() {
        let earlier = || thresholds[..nth].iter().flat_map(|entry| entry.measures.get_ref());
        for pattern in threshold.measures.get_ref() {
            let described = names::described(pattern.get_ref());
            let covered = |name: &String| earlier().any(|earlier| glob(earlier.get_ref(), name));
            if !described.is_empty() && described.iter().all(covered) {
                let words = format!(
                    "`{}` never counts: an earlier threshold describes the same measures",
                    pattern.get_ref()
                );
                wrong(pattern.span().start, words);
            }
        }
    }
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// Says in which lines something is wrong, and what.
    pub fn parse(text: &str) -> io::Result<Settings> {
        // A table instead of a list of tables: the parser's words for it help nobody.
        let table = toml::from_str::<toml::Table>(text).unwrap_or_default();
        for name in ["threshold", "accept"] {
            if table.get(name).is_some_and(toml::Value::is_table) {
                let begins = text.lines().position(|line| line.trim_start().starts_with(&format!("[{name}")));
                let line = begins.unwrap_or_default() + 1;
                return Err(io::Error::other(format!(
                    "line {line}: write `[[{name}]]`, because there may be several"
                )));
            }
        }
        let file: File = toml::from_str(text).map_err(io::Error::other)?;
        let mut wrong = Vec::new();
        let mut tell = |at: usize, words: String| wrong.push((line_of(text, at), words));
        for entry in file.thresholds.iter().chain(&file.accepted) {
            entry.check(&mut tell);
        }
        shadowed(&file.thresholds, &mut tell);
        if wrong.is_empty() {
            let limits = |entries: Vec<Entry>| entries.into_iter().map(Entry::limit).collect();
            return Ok(Settings { thresholds: limits(file.thresholds), accepted: limits(file.accepted) });
        }
        wrong.sort();
        let lines: Vec<String> = wrong.iter().map(|(line, words)| format!("line {line}: {words}")).collect();
        Err(io::Error::other(lines.join("\n")))
    }

    /// Whether both judge alike, apart from what is accepted.
    pub fn has_thresholds_of(&self, other: &Settings) -> bool {
        self.thresholds == other.thresholds
    }

    /// Checks that each of `measures` has a threshold.
    ///
    /// # Errors
    /// Names those that have none.
    pub fn cover<'m>(&self, measures: impl Iterator<Item = &'m String>) -> Result<(), Failure> {
        let missing: Vec<String> =
            measures.filter_map(|name| self.threshold(name, 1.0).err()).map(|e| e.to_string()).collect();
        if missing.is_empty() { Ok(()) } else { Err(Failure::invalid(missing.join("\n"))) }
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

/// The number of the line in which the byte `at` of `text` is.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn describes(patterns: &[String], measure: &str) -> bool {
    patterns.iter().any(|pattern| glob(pattern, measure))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[[threshold]]\nmeasures = ['instructions/kernel/*']\nchange = 0.02\nat_least = 10\nreason = 'r'\n\
        [[threshold]]\nmeasures = ['instructions/*/*', 'p99/open-loop']\nchange = 0.01\nreason = 'r'\n";

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
            ("p99/open-loop", 5.0, 1.01),
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
        assert_eq!(head.clone().without(&base).accepted("p99/open-loop", 1.0), Some((1.3, "another")));
        assert_eq!(head.clone().without(&head).accepted("p99/open-loop", 1.0), None);
        assert_eq!(head.accepted("cpu/http1", 1.0), None);
    }

    #[test]
    fn a_mistake_in_the_file_is_an_error_that_shows_where_and_what() {
        let accept = |measures: &str, change: &str, more: &str, reason: &str| {
            format!("[[accept]]\nmeasures = {measures}\nchange = {change}\n{more}\nreason = '{reason}'\n")
        };
        // `FILE` has nine lines.
        for (more, words) in [
            ("[[accept]]\nmeasures = ['p99/*']\nchange = 5\n".into(), "missing field `reason`"),
            ("[[accept]]\nmeasure = ['a']\n".into(), "unknown field `measure`"),
            ("[accept]\nchange = 1\n".into(), "line 10: write `[[accept]]`"),
            (accept("['p99/*']", "50", "", "x"), "line 12: `change = 50` is no share"),
            (accept("['p99/*']", "-0.1", "", "x"), "line 12: `change = -0.1` is no share"),
            (accept("['p99/*']", "nan", "", "x"), "line 12: `change = NaN` is no share"),
            (accept("['p99/*']", "inf", "", "x"), "line 12: `change = inf` is no share"),
            (accept("['p99/*']", "1", "at_least = -12", "x"), "line 13: `at_least = -12` is no number"),
            (accept("['p99/*']", "1", "at_least = nan", "x"), "line 13: `at_least = NaN`"),
            (accept("['p99/*']", "1", "at_least = 1e300", "x"), "line 13: `at_least = 1"),
            (accept("['p99/*']", "1", "", " "), "line 14: `reason` is empty"),
            (accept("[]", "1", "", "x"), "line 11: `measures` is empty"),
            (accept("['']", "1", "", "x"), "line 11: no measure is called ``"),
            (accept("['p99/*', 'p98/*']", "1", "", "x"), "line 11: no measure is called `p98/*`"),
            (
                accept("['instructions/tcp/*']", "1", "", "x").replace("accept", "threshold"),
                "line 11: `instructions/tcp/*` never counts",
            ),
            (
                accept("['instructions/kernel/head']", "1", "", "x").replace("accept", "threshold"),
                "line 11: `instructions/kernel/head` never counts",
            ),
        ] {
            let error = Settings::parse(&format!("{FILE}{more}")).unwrap_err().to_string();
            assert!(error.contains(words), "{words:?} is not in {error}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_and_a_measure_without_threshold_is_one() {
        let both = "[[threshold]]\nmeasures = ['p50/*']\nchange = -1\nreason = ''\n";
        let error = Settings::parse(both).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 2, "{error}");
        let missing = with("").cover(["p99/open-loop".to_owned(), "p50/open-loop".to_owned()].iter());
        assert!(missing.unwrap_err().words.contains("no threshold for `p50/open-loop`"));
    }
}
