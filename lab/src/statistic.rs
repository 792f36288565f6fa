//! Statistics of the requests of one load generator: name, unit and formula, in one table.
//!
//! To add a statistic, add a row to `TABLE`. A scenario can name it from then on
//! (`LOAD.NAME op value`), and verdicts and reports show it in its unit. Percentiles have no row
//! each: any `latency.pN` is one.
//!
//! Percentiles are exact (nearest rank), not read from a histogram: all records of a run are in
//! memory anyway. They cover every request that was sent, and a failed one counts with the time at
//! which it failed. Leaving failures out would make a mesh look quicker the more it fails; counting
//! them in still flatters one that fails fast, so a condition on latency belongs beside one on
//! success. A dropped request was never sent: it is an error with no latency.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// What is counted of the requests that were due in a window.
pub struct Requests<'a> {
    /// Requests that were due.
    pub due: f64,
    /// Answered as they should be.
    pub ok: f64,
    /// Never sent, because too many were in flight.
    pub dropped: f64,
    /// The length of the window.
    pub seconds: f64,
    /// How long those that were sent took; sorted only for a statistic that asks.
    pub latencies: &'a dyn Fn() -> Latencies,
}

/// A statistic: a percentile of latency, or a row of the table.
#[derive(Clone, Copy)]
pub enum Statistic {
    /// The latency that this share of the requests that were sent does not exceed, 0 to 1.
    Percentile(f64),
    /// Any other.
    Row(&'static Row),
}

/// A row of the table.
pub struct Row {
    /// As a scenario writes it.
    pub name: &'static str,
    /// The unit of its value.
    pub unit: Unit,
    /// Its value; `None` if there is nothing to take it from.
    formula: fn(&Requests<'_>) -> Option<f64>,
}

/// The unit of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds; written as a duration.
    Latency,
    /// A whole number.
    Count,
    /// A fraction, 0 to 1; written as a percentage.
    Share,
    /// Per second.
    Rate,
}

/// Every statistic but the percentiles.
static TABLE: [Row; 9] = [
    Row { name: "latency.max", unit: Unit::Latency, formula: |r| (r.latencies)().quantile(1.0) },
    Row { name: "latency.mean", unit: Unit::Latency, formula: |r| (r.latencies)().mean() },
    Row { name: "errors", unit: Unit::Count, formula: |r| Some(r.due - r.ok) },
    Row { name: "success", unit: Unit::Share, formula: |r| Some(r.ok / r.due) },
    Row { name: "requests", unit: Unit::Count, formula: |r| Some(r.due) },
    Row { name: "ok", unit: Unit::Count, formula: |r| Some(r.ok) },
    Row { name: "throughput", unit: Unit::Rate, formula: |r| Some(r.ok / r.seconds) },
    Row { name: "dropped", unit: Unit::Count, formula: |r| Some(r.dropped) },
    Row { name: ERROR_SHARE, unit: Unit::Share, formula: |r| Some((r.due - r.ok) / r.due) },
];

/// What `errors` becomes when it is compared with a percentage.
const ERROR_SHARE: &str = "errors.share";

/// Percentiles that are offered by name; any other may be written too.
const USUAL_PERCENTILES: [&str; 5] =
    ["latency.p50", "latency.p90", "latency.p95", "latency.p99", "latency.p99.9"];

impl Statistic {
    /// The names that a message offers.
    pub fn names() -> impl Iterator<Item = &'static str> + Clone {
        let rows = TABLE.iter().map(|row| row.name).filter(|name| *name != ERROR_SHARE);
        USUAL_PERCENTILES.into_iter().chain(rows)
    }

    /// The unit of its value.
    pub fn unit(self) -> Unit {
        match self {
            Statistic::Percentile(_) => Unit::Latency,
            Statistic::Row(row) => row.unit,
        }
    }

    /// The share of all requests that this counts, if it is a count that may be asked for so.
    pub fn as_share(self) -> Option<Statistic> {
        matches!(self, Statistic::Row(row) if row.name == "errors").then(|| row(ERROR_SHARE)).flatten()
    }

    /// Its value; `None` if there is nothing to take it from.
    pub fn of(self, requests: &Requests<'_>) -> Option<f64> {
        match self {
            _ if requests.due == 0.0 => None,
            Statistic::Percentile(share) => (requests.latencies)().quantile(share),
            Statistic::Row(row) => (row.formula)(requests),
        }
    }

    /// Whether so few requests are all that there is above a percentile: then it is the worst one.
    pub fn is_the_worst_of(self, requests: u64) -> bool {
        matches!(self, Statistic::Percentile(share) if requests as f64 * (1.0 - share) < 1.0)
    }

    /// A value with its name: `p99 = 12.3 ms`.
    pub fn show(self, value: f64) -> String {
        let name = self.to_string();
        format!("{} = {}", name.strip_prefix("latency.").unwrap_or(&name), self.unit().show(value))
    }
}

fn row(name: &str) -> Option<Statistic> {
    TABLE.iter().find(|row| row.name == name).map(Statistic::Row)
}

/// `p95`, `p99.9`, or as is usual without the dot, `p999`.
fn percentile(word: &str) -> Option<f64> {
    let digits = word.strip_prefix('p').filter(|d| d.starts_with(|c: char| c.is_ascii_digit()))?;
    let nines = digits.starts_with('9') && digits.len() > 2 && digits.bytes().all(|b| b.is_ascii_digit());
    let percent = if nines { format!("{}.{}", &digits[..2], &digits[2..]) } else { digits.to_owned() };
    // Not divided by a hundred, which would be a little off.
    let share = format!("{percent}e-2").parse::<f64>().ok()?;
    (share > 0.0 && share < 1.0).then_some(share)
}

impl FromStr for Statistic {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let share = name.strip_prefix("latency.").and_then(percentile);
        share.map(Statistic::Percentile).or_else(|| row(name)).ok_or(())
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statistic::Row(row) => f.write_str(row.name),
            Statistic::Percentile(share) => {
                // Of 0.999 * 100 only so many digits are meant.
                let percent = ((share * 1e8).round() / 1e6).to_string();
                let is_usual = percent.starts_with('9') && percent.find('.') == Some(2);
                write!(f, "latency.p{}", if is_usual { percent.replace('.', "") } else { percent })
            }
        }
    }
}

impl fmt::Debug for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialEq for Statistic {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Statistic {}

impl Serialize for Statistic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Unit {
    /// A value in this unit, for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::Latency => latency(value),
            Unit::Count => number(value),
            Unit::Share => format!("{} %", (value * 100_000.0).round() / 1_000.0),
            Unit::Rate => format!("{}/s", number(value)),
        }
    }

    /// A difference of two values in this unit.
    pub fn show_difference(self, off: f64) -> String {
        match self {
            Unit::Share => format!("{} points", number(off * 100.0)),
            unit => unit.show(off),
        }
    }
}

/// Whole numbers as they are, others with three decimals at most.
pub fn number(value: f64) -> String {
    format!("{}", (value * 1_000.0).round() / 1_000.0)
}

/// A latency of microseconds with three or four digits.
pub fn latency(us: f64) -> String {
    match us {
        _ if us < 1_000.0 => format!("{us:.0} us"),
        _ if us < 100_000.0 => format!("{:.1} ms", us / 1e3),
        _ if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// Times in order, microseconds.
#[derive(Debug, Default)]
pub struct Latencies(Vec<u64>);

impl FromIterator<u64> for Latencies {
    fn from_iter<T: IntoIterator<Item = u64>>(times: T) -> Self {
        let mut times: Vec<u64> = times.into_iter().collect();
        times.sort_unstable();
        Latencies(times)
    }
}

impl Latencies {
    /// The smallest time that at least a share `q` of all does not exceed.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        // 0.999 * 1000 is a little more than 999 in floating point, and must not become 1000.
        let rank = (q * self.0.len() as f64 - 1e-6).ceil().max(1.0) as usize;
        self.0.get(rank - 1).map(|us| *us as f64)
    }

    /// Their mean.
    pub fn mean(&self) -> Option<f64> {
        let sum: u128 = self.0.iter().map(|us| u128::from(*us)).sum();
        (!self.0.is_empty()).then(|| sum as f64 / self.0.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_and_written() {
        for (word, name) in [
            ("latency.p50", "latency.p50"),
            ("latency.p95", "latency.p95"),
            ("latency.p99.9", "latency.p999"),
            ("latency.p999", "latency.p999"),
            ("latency.p9999", "latency.p9999"),
            ("latency.p5", "latency.p5"),
            ("latency.p5.5", "latency.p5.5"),
            ("latency.max", "latency.max"),
            ("errors", "errors"),
        ] {
            assert_eq!(word.parse::<Statistic>().map(|s| s.to_string()), Ok(name.to_owned()));
        }
        for word in [
            "latency",
            "latency.p",
            "latency.p0",
            "latency.p100",
            "latency.p-5",
            "latency.pinf",
            "p99",
            "errors.rate",
            "",
        ] {
            assert_eq!(word.parse::<Statistic>(), Err(()), "{word}");
        }
        assert!(Statistic::names().all(|name| name.parse::<Statistic>().is_ok()));
    }

    #[test]
    fn a_percentile_of_few_values_is_one_of_them() {
        let latencies = |n: u64| (1..=n).rev().collect::<Latencies>();
        for (n, q, expected) in [
            (1, 0.5, 1.0),
            (1, 0.999, 1.0),
            (2, 0.5, 1.0),
            (3, 0.5, 2.0),
            (99, 0.99, 99.0),
            (100, 0.99, 99.0),
        ] {
            assert_eq!(latencies(n).quantile(q), Some(expected), "{q} of {n}");
        }
        assert_eq!(latencies(0).quantile(0.5), None);
    }
}
