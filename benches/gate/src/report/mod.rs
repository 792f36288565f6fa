//! What a comparison ends with, for each kind of reader.

pub mod html;
pub mod markdown;
pub mod terminal;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
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
    /// Measures that nothing is known of, because the time was up before.
    #[serde(default)]
    pub no_time_for: Vec<String>,
}

/// A revision, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// All digits.
    pub id: String,
    /// Its title, or what it stands for.
    pub title: String,
}

/// Digits of a commit by which it is found again.
const SHORT: usize = 10;

impl Named {
    /// As many digits as are shown.
    pub fn short(&self) -> &str {
        &self.id[..SHORT]
    }
}

impl Comparison {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match exit_code(&self.findings) {
            0 if !self.no_time_for.is_empty() => 4,
            code => code,
        }
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
        if !self.no_time_for.is_empty() {
            parts.push(format!("{} for which there was no time", self.no_time_for.len()));
        }
        let word = match self.exit_code() {
            1 => "FAILED",
            4 => "INCONCLUSIVE",
            _ => "PASSED",
        };
        if parts.is_empty() {
            return format!("{word}: there is nothing to compare");
        }
        let measures = self.findings.len() + self.no_time_for.len();
        format!("{word}: {measures} measures, {}", parts.join(", "))
    }

    /// Sorts the findings, so that the reader sees first what matters.
    pub fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            (!a.is_alarm(), a.verdict).cmp(&(!b.is_alarm(), b.verdict)).then(b.ratio.total_cmp(&a.ratio))
        });
    }

    /// Keeps it for the trend, in a file of its own in `folder`. Nobody ever sees half of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        let name = format!("{}-{}-{}-{}", self.at, self.base.short(), self.head.short(), self.form);
        for nth in 1.. {
            let again = if nth == 1 { String::new() } else { format!("-{nth}") };
            match file.persist_noclobber(folder.join(format!("{name}{again}.json"))) {
                Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => file = taken.file,
                kept => return kept.map(drop).map_err(|failed| failed.error),
            }
        }
        unreachable!("some number is free")
    }

    /// All that were kept in `folder`, oldest first. `tell` hears of those that cannot be read;
    /// they are left out.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn kept(folder: &Path, tell: impl Fn(&str)) -> io::Result<Vec<Comparison>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                match Comparison::read(&path) {
                    Ok(read) => all.push(read),
                    Err(e) => tell(&format!("warning: {} is left out of the trend: {e}", path.display())),
                }
            }
        }
        all.sort_by_key(|comparison| comparison.at);
        Ok(all)
    }

    fn read(path: &Path) -> io::Result<Comparison> {
        let read: Comparison = serde_json::from_slice(&fs::read(path)?)?;
        let is_id = |id: &str| id.len() >= SHORT && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        for id in [&read.base.id, &read.head.id] {
            if !is_id(id) {
                return Err(io::Error::other(format!("`{id}` is no commit")));
            }
        }
        Ok(read)
    }
}

/// Measures for which there was no time, those of both sides in one word.
fn no_time_for(comparison: &Comparison) -> Option<String> {
    let without_side = |name: &String| match name.rsplit_once('/') {
        Some((measure, "outbound" | "inbound")) => measure.to_owned(),
        _ => name.clone(),
    };
    let names: BTreeSet<String> = comparison.no_time_for.iter().map(without_side).collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join(", "))
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
            no_time_for: Vec::new(),
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
    fn what_there_was_no_time_for_is_named_and_hides_no_regression() {
        let late = ["cpu/http2/outbound", "cpu/http2/inbound", "p99/open-loop", "cpu/tcp/outbound"];
        let mut comparison = examples::comparison();
        comparison.no_time_for = late.map(str::to_owned).to_vec();
        assert_eq!(comparison.exit_code(), 1);
        assert!(comparison.verdict().ends_with("1 unchanged, 4 for which there was no time"));
        let said = "no time for: cpu/http2, cpu/tcp, p99/open-loop";
        assert!(terminal::text(&comparison, false).contains(said));
        assert!(markdown::text(&comparison).contains("No time for: cpu/http2, cpu/tcp, p99/open-loop"));
        comparison.findings.retain(|finding| finding.verdict == Verdict::NoChange);
        assert_eq!(comparison.exit_code(), 4);
    }

    #[test]
    fn what_is_kept_is_read_again_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let late = examples::comparison();
        let early = Comparison { at: late.at - 1, ..late.clone() };
        late.keep(folder.path()).unwrap();
        early.keep(folder.path()).unwrap();
        let kept = Comparison::kept(folder.path(), |said| panic!("{said}")).unwrap();
        assert_eq!(kept.iter().map(|c| c.at).collect::<Vec<_>>(), [early.at, late.at]);
        // Bounds that are infinite are none, and come back as none. The last digit of a number may
        // not.
        for (kept, given) in kept.iter().zip([early, late]) {
            assert_eq!(markdown::text(kept), markdown::text(&given));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_left_out_and_none_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("empty.json", ""), ("half.json", "{"), ("other", "no comparison")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut foreign = examples::comparison();
        foreign.base.id = "é".into();
        fs::write(folder.path().join("foreign.json"), serde_json::to_vec(&foreign).unwrap()).unwrap();
        for _ in 0..3 {
            examples::comparison().keep(folder.path()).unwrap();
        }
        let said = std::cell::RefCell::new(Vec::new());
        let kept = Comparison::kept(folder.path(), |words| said.borrow_mut().push(words.to_owned()));
        assert_eq!(kept.unwrap().len(), 3);
        let said = said.into_inner();
        assert_eq!(said.len(), 3, "{said:?}");
        for name in ["empty.json", "half.json", "foreign.json"] {
            assert!(said.iter().any(|words| words.contains(name)), "{said:?}");
        }
    }

    #[test]
    fn nothing_to_compare_is_a_verdict_too() {
        let comparison = Comparison { findings: Vec::new(), ..examples::comparison() };
        assert_eq!(
            (comparison.exit_code(), &*comparison.verdict()),
            (0, "PASSED: there is nothing to compare")
        );
    }
}
