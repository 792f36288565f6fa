//! What a comparison ends with, for each kind of reader.

pub mod html;
pub mod markdown;
pub mod terminal;

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Unit, exit_code};
use crate::statistics::Verdict;

/// Two revisions, compared. This is what `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// `quick` or `full`.
    pub form: String,
    /// Seconds since 1970.
    pub at: u64,
    /// What it was.
    pub base: Named,
    /// What it is.
    pub head: Named,
    /// Each measure, worst first.
    pub findings: Vec<Finding>,
    /// What could not be compared, a sentence each.
    pub left_out: Vec<String>,
}

/// A revision, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// All digits.
    pub id: String,
    /// Its title, or what it stands for.
    pub title: String,
}

impl Comparison {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        exit_code(&self.findings)
    }

    /// How many findings have each verdict.
    fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// One line with the verdict of all of it.
    pub fn verdict(&self) -> String {
        let alarms = self.findings.iter().filter(|finding| finding.is_alarm()).count();
        let accepted = self.findings.iter().filter(|finding| finding.accepted.is_some()).count();
        let mut parts = Vec::new();
        for (count, words) in [
            (alarms, "too much"),
            (accepted, "worse, as accepted"),
            (self.count(Verdict::NotEnoughEvidence), "without enough evidence"),
            (self.count(Verdict::Improvement), "better"),
            (self.count(Verdict::NoChange), "unchanged"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {words}"));
            }
        }
        let word = match self.exit_code() {
            1 => "FAILED",
            4 => "INCONCLUSIVE",
            _ => "PASSED",
        };
        format!(
            "{word}: {} measures, {}",
            self.findings.len(),
            if parts.is_empty() { "nothing compared".into() } else { parts.join(", ") }
        )
    }

    /// Sorts the findings, so that the reader sees first what matters.
    pub fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            (!a.is_alarm(), a.verdict).cmp(&(!b.is_alarm(), b.verdict)).then(b.ratio.total_cmp(&a.ratio))
        });
    }

    /// Keeps it for the trend, in `folder`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let name = format!("{}-{}-{}.json", self.at, &self.head.id[..10], self.form);
        fs::write(folder.join(name), serde_json::to_vec_pretty(self)?)
    }

    /// All that were kept in `folder`, oldest first.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn kept(folder: &Path) -> io::Result<Vec<Comparison>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let read = serde_json::from_slice(&fs::read(&path)?);
                let read: Comparison =
                    read.map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
                all.push(read);
            }
        }
        all.sort_by_key(|comparison| comparison.at);
        Ok(all)
    }
}

/// The columns that each table of findings begins with: measure, base, head, unit, change, interval
/// and threshold.
fn columns(finding: &Finding) -> [String; 7] {
    [
        finding.measure.clone(),
        value(finding.base, finding.unit),
        value(finding.head, finding.unit),
        finding.unit.word().to_owned(),
        percent(finding.ratio),
        bounds(finding),
        percent(finding.threshold),
    ]
}

/// A value with as many digits as it has meaning.
fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Instructions | Unit::Rate => format!("{value:.0}"),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A ratio of costs as a change, in percent.
fn percent(ratio: f64) -> String {
    format!("{:+.2} %", (ratio - 1.0) * 100.0)
}

/// Bounds of a ratio, if it has some that differ from it.
fn bounds(finding: &Finding) -> String {
    match (finding.low, finding.high) {
        (Some(low), Some(high)) if low == high => "exact".into(),
        (Some(low), Some(high)) => format!("{} to {}", percent(low), percent(high)),
        _ => "no bounds".into(),
    }
}

/// Findings for tests of each format.
#[cfg(test)]
pub mod examples {
    use super::*;
    use crate::settings::Settings;
    use crate::statistics::Interval;

    /// One of each verdict.
    pub fn comparison() -> Comparison {
        let settings = Settings::parse(
            "[[threshold]]\nmeasures = ['*/*/*', '*/*']\nchange = 0.01\nreason = 'r'\n\
             [[accept]]\nmeasures = ['cpu/grpc/*']\nchange = 0.1\nreason = 'calls <b>are</b> signed'\n",
        );
        let settings = settings.unwrap();
        let one = |measure: &str, unit, base: f64, low: f64, high: f64| {
            let estimate = if low.is_finite() { f64::midpoint(low, high) } else { 1.0 };
            let ratio = Interval { low, estimate, high };
            let head = base * ratio.estimate;
            Finding::new(measure.into(), unit, (base, head), (ratio, 14), &settings).unwrap()
        };
        let mut comparison = Comparison {
            form: "full".into(),
            at: 1_796_000_000,
            base: Named { id: "b".repeat(40), title: "where the branch left main".into() },
            head: Named { id: "a".repeat(40), title: "proxy: <one> | two".into() },
            findings: vec![
                one("memory/idle/inbound", Unit::Kibibytes, 2.5, 0.999, 1.002),
                one("cpu/http1/outbound", Unit::Microseconds, 20.25, 1.015, 1.03),
                one("cpu/grpc/outbound", Unit::Microseconds, 30.0, 1.04, 1.06),
                one("throughput/bulk", Unit::Gigabits, 8.0, 0.9, 1.1),
                one("instructions/kernel/head", Unit::Instructions, 8567.0, 0.9, 0.9),
                one("p99/open-loop", Unit::Microseconds, 400.0, f64::NEG_INFINITY, f64::INFINITY),
            ],
            left_out: vec!["kernels: the base has none".into()],
        };
        comparison.sort();
        comparison
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_comes_first_and_the_verdict_counts_all() {
        let comparison = examples::comparison();
        let order: Vec<&str> = comparison.findings.iter().map(|f| &*f.measure).collect();
        assert_eq!(order[..2], ["cpu/http1/outbound", "cpu/grpc/outbound"]);
        assert_eq!(
            comparison.verdict(),
            "FAILED: 6 measures, 1 too much, 1 worse, as accepted, 2 without enough evidence, 1 better, 1 unchanged"
        );
    }

    #[test]
    fn what_is_kept_is_read_again_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let late = examples::comparison();
        let early = Comparison { at: late.at - 1, ..late.clone() };
        late.keep(folder.path()).unwrap();
        early.keep(folder.path()).unwrap();
        let kept = Comparison::kept(folder.path()).unwrap();
        assert_eq!(kept.iter().map(|c| c.at).collect::<Vec<_>>(), [early.at, late.at]);
        // Bounds that are infinite are none, and come back as none. The last digit of a number may
        // not.
        for (kept, given) in kept.iter().zip([early, late]) {
            assert_eq!(markdown::text(kept), markdown::text(&given));
        }
    }
}
