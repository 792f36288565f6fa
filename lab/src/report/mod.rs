//! What a run tells: to people on a terminal and as a page, to programs as JSON, and as a
//! comparison of two runs.

pub(crate) mod compare;
mod histogram;
pub mod junit;
pub mod markdown;
pub mod page;
pub mod results;
pub mod series;
pub mod terminal;

use std::io;
use std::path::{Path, PathBuf};

use crate::plan::SidecarKind;
use crate::run::Report;

/// File of a run directory that holds the report.
pub const RESULTS: &str = "results.json";

/// File of a run directory that shows the report to people.
pub const PAGE: &str = "page.html";

/// A run, and what came of it.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The scenario's file.
    pub scenario: PathBuf,
    /// What stood in the sidecar's place.
    pub kind: SidecarKind,
    /// The report, or why there is none.
    pub result: Result<Report, String>,
}

impl Ran {
    /// What tells it apart from the others: `scenarios/failover.toml, sidecar ours`.
    fn name(&self) -> String {
        format!("{}, sidecar {}", self.scenario.display(), self.kind.name())
    }
}

/// Writes the report to the run directory, for programs and for people. Each file is written whole
/// or not at all.
///
/// # Errors
/// If the directory cannot be written.
pub fn save(report: &Report, sources: &page::Sources<'_>, run_dir: &Path) -> io::Result<()> {
    let text = serde_json::to_string_pretty(&results::of(report)).map_err(io::Error::other)?;
    write_whole(&run_dir.join(RESULTS), &text)?;
    write_whole(&run_dir.join(PAGE), &page::of(report, sources))
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, path)
}
