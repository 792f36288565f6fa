//! Expectations, judged: pass or fail, with the number that decided.
//!
//! [`evaluate`] compares what was measured with the conditions of the plan, [`statistics`] says what a load's numbers
//! mean, and [`fidelity`] says whether the run was good enough to judge anything by it.

use serde::Serialize;

pub mod evaluate;
pub mod fidelity;
pub mod statistics;

pub use evaluate::{Evidence, Judged, JudgedCondition, judge};
pub use fidelity::trustworthy;
pub use statistics::{STATISTICS, Summary, summary};

/// `subject.statistic op value`, parsed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Condition {
    /// The words of the file.
    pub text: String,
    /// What is measured.
    pub subject: Subject,
    /// How it is compared.
    pub op: Op,
    /// With what, in the subject's own unit: microseconds, a count, a fraction, a rate per second.
    pub value: f64,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Of a load generator: `latency.p99`, `errors`, `success`, ...
    Load {
        /// Position in the plan.
        load: usize,
        /// Which statistic.
        stat: String,
    },
    /// A metric of some processes, summed: its increase over the window for counters, its last value for gauges.
    Metric {
        /// `web/sidecar`, `orders-*/app`.
        process: String,
        /// `proxy_retries_total`.
        name: String,
        /// `{reason="connect"}`.
        labels: Vec<(String, String)>,
    },
    /// Of a fault's evidence.
    Evidence {
        /// `killed`, `dropped_packets`, ...
        name: String,
    },
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Op {
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `==`
    Eq,
    /// `!=`
    Ne,
}
