//! The access log.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::config::LogFormat;

/// What the access log says, and where.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccessLog {
    /// Where lines are written.
    pub target: LogTarget,
    /// How.
    pub format: LogFormat,
    /// For what there are lines.
    pub filter: LogFilter,
    /// How many lines may wait to be written.
    pub queue: usize,
}

/// Where lines are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// To the standard output of the process.
    Stdout,
    /// To the end of a file.
    File(PathBuf),
}

/// For what there are lines: for whatever one of these asks for, or for everything if none asks.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct LogFilter {
    /// Whatever fails.
    pub errors: bool,
    /// Whatever takes longer.
    pub slower_than: Option<Duration>,
    /// A share of all, by chance.
    pub share: Option<f64>,
}

impl LogFilter {
    /// Whether it asks for everything.
    pub fn is_everything(&self) -> bool {
        *self == LogFilter::default()
    }
}
