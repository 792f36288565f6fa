//! What was found out about one measure.

use std::io;

use serde::{Deserialize, Serialize};

use crate::settings::Settings;
use crate::statistics::{Interval, Verdict, judge};

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Instructions of one request, or of one run of a kernel.
    #[serde(rename = "instructions")]
    Instructions,
    /// Calls of one request.
    #[serde(rename = "calls")]
    Calls,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Milliseconds of CPU for each gigabyte.
    #[serde(rename = "ms/GB")]
    MillisecondsPerGigabyte,
    /// Requests a second.
    #[serde(rename = "requests/s")]
    Rate,
    /// Gigabits a second.
    #[serde(rename = "Gbit/s")]
    Gigabits,
    /// Kibibytes.
    #[serde(rename = "KiB")]
    Kibibytes,
}

impl Unit {
    /// For tables.
    pub fn word(self) -> &'static str {
        match self {
            Unit::Instructions => "instructions",
            Unit::Calls => "calls",
            Unit::Microseconds => "us",
            Unit::Milliseconds => "ms",
            Unit::MillisecondsPerGigabyte => "ms/GB",
            Unit::Rate => "requests/s",
            Unit::Gigabits => "Gbit/s",
            Unit::Kibibytes => "KiB",
        }
    }

    /// Whether more of it is better.
    pub fn is_gain(self) -> bool {
        matches!(self, Unit::Rate | Unit::Gigabits)
    }
}

/// One measure, compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `cpu/http1/outbound`; the file of settings has all of them.
    pub measure: String,
    /// Of `base` and `head`.
    pub unit: Unit,
    /// At the base: the median of all blocks, or what was counted.
    pub base: f64,
    /// At the head.
    pub head: f64,
    /// How many times the base's *cost* the head costs: above 1 is worse, also where more is
    /// better.
    pub ratio: f64,
    /// Between which ratios the true one lies. JSON has no infinity: `null` is no bound.
    pub low: Option<f64>,
    /// See `low`.
    pub high: Option<f64>,
    /// Beyond which ratio it is a regression.
    pub threshold: f64,
    /// Paired blocks; 1 of what was counted.
    pub blocks: usize,
    /// What follows from it.
    pub verdict: Verdict,
    /// Why a regression was accepted, if it was.
    pub accepted: Option<String>,
}

impl Finding {
    /// Judges one measure. `ratio` is of costs.
    ///
    /// # Errors
    /// If there is no threshold for it.
    pub fn new(
        measure: String,
        unit: Unit,
        (base, head): (f64, f64),
        (ratio, blocks): (Interval, usize),
        settings: &Settings,
    ) -> io::Result<Finding> {
        let threshold = settings.threshold(&measure, base)?;
        let verdict = judge(ratio, threshold);
        let accepted = settings
            .accepted(&measure, base)
            .filter(|(limit, _)| verdict == Verdict::Regression && ratio.estimate <= *limit);
        let accepted = accepted.map(|(_, reason)| reason.to_owned());
        let bound = |bound: f64| bound.is_finite().then_some(bound);
        let (low, high) = (bound(ratio.low), bound(ratio.high));
        Ok(Finding {
            measure,
            unit,
            base,
            head,
            ratio: ratio.estimate,
            low,
            high,
            threshold,
            blocks,
            verdict,
            accepted,
        })
    }

    /// Of what was counted, without any doubt.
    ///
    /// # Errors
    /// If there is no threshold for it.
    pub fn counted(
        measure: String,
        unit: Unit,
        base: f64,
        head: f64,
        settings: &Settings,
    ) -> io::Result<Finding> {
        // From nothing to something is judged by the threshold's absolute part.
        let ratio = if base > 0.0 { head / base } else { 1.0 + head };
        Finding::new(measure, unit, (base, head), (Interval::exact(ratio), 1), settings)
    }

    /// Whether the gate must fail for it.
    pub fn is_alarm(&self) -> bool {
        self.verdict == Verdict::Regression && self.accepted.is_none()
    }
}

/// The exit code of all findings together: `docs/exit-codes.md`.
pub fn exit_code(findings: &[Finding]) -> u8 {
    if findings.iter().any(Finding::is_alarm) {
        1
    } else if findings.iter().any(|f| f.verdict == Verdict::NotEnoughEvidence) {
        4
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> Settings {
        let all = "[[threshold]]\nmeasures = ['*/*']\nchange = 0.01\nat_least = 0.5\nreason = 'r'\n";
        Settings::parse(&format!("{all}{more}")).unwrap()
    }

    fn found(base: f64, head: f64, more: &str) -> Finding {
        Finding::counted("p99/open-loop".into(), Unit::Calls, base, head, &settings(more)).unwrap()
    }

    #[test]
    fn a_regression_fails_unless_it_was_accepted_at_that_size() {
        let accept = "[[accept]]\nmeasures = ['p99/*']\nchange = 0.05\nreason = 'worth it'\n";
        for (head, more, code) in
            [(101.0, "", 0), (102.0, "", 1), (99.0, "", 0), (102.0, accept, 0), (106.0, accept, 1)]
        {
            assert_eq!(exit_code(&[found(100.0, head, more)]), code, "{head} {more}");
        }
        assert_eq!(found(100.0, 102.0, accept).accepted.as_deref(), Some("worth it"));
    }

    #[test]
    fn a_small_count_is_judged_by_its_difference() {
        assert_eq!(found(8.0, 8.4, "").verdict, Verdict::NoChange);
        assert_eq!(found(8.0, 9.0, "").verdict, Verdict::Regression);
        assert_eq!(found(0.0, 0.4, "").verdict, Verdict::NoChange);
        assert_eq!(found(0.0, 1.0, "").verdict, Verdict::Regression);
        assert_eq!(found(0.0, 0.0, "").verdict, Verdict::NoChange);
    }

    #[test]
    fn a_regression_outweighs_what_is_not_known_and_that_outweighs_the_rest() {
        let unknown = Interval { low: 0.9, estimate: 1.0, high: 1.1 };
        let unknown =
            Finding::new("p99/open-loop".into(), Unit::Rate, (100.0, 100.0), (unknown, 8), &settings(""))
                .unwrap();
        let (same, worse) = (found(100.0, 100.0, ""), found(100.0, 200.0, ""));
        assert_eq!(exit_code(&[same.clone(), unknown.clone(), worse]), 1);
        assert_eq!(exit_code(&[same.clone(), unknown]), 4);
        assert_eq!(exit_code(&[same]), 0);
        assert_eq!(exit_code(&[]), 0);
    }
}
