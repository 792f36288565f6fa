//! What a run tells: to people on a terminal, to programs as JSON, and as a comparison of two runs.

pub(crate) mod compare;
pub mod results;
pub mod terminal;

use std::io;
use std::path::Path;

use crate::run::Report;

/// File of a run directory that holds the report.
pub const RESULTS: &str = "results.json";

/// Writes the report to the run directory, whole or not at all.
///
/// # Errors
/// If the directory cannot be written.
pub fn save(report: &Report, run_dir: &Path) -> io::Result<()> {
    let text = serde_json::to_string_pretty(&results::of(report)).map_err(io::Error::other)?;
    let unfinished = run_dir.join(format!("{RESULTS}.part"));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, run_dir.join(RESULTS))
}
