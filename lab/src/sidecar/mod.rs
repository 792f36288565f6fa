//! Kinds of sidecar: what the lab must know to run one, one file a kind.
//!
//! To add a kind, write its file (an implementation of [`SidecarProgram`]), give it a name in
//! [`SidecarKind`] and register it in [`program`]. `none` is a kind too, without a program.

mod ours;

use std::ffi::OsString;
use std::path::Path;

use proxy::config::ConfigErrors;

use crate::metrics::Sample;
use crate::plan::{Plan, SidecarKind};
use crate::world::WorldKind;

/// A page of a sidecar's own server, on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Port.
    pub port: u16,
    /// Path.
    pub path: &'static str,
}

/// A kind of sidecar that runs as a process.
pub trait SidecarProgram: Sync {
    /// The text of the configuration file of the sidecar of `plan.instances[instance]`.
    fn config(&self, plan: &Plan, instance: usize, seed: u64) -> String;

    /// The part of it that says in the sidecar's words what the scenario says in its own, so that
    /// nothing else may say it too.
    fn said(&self, plan: &Plan, instance: usize) -> toml::Table;

    /// Reads a configuration as the sidecar would.
    ///
    /// # Errors
    /// Everything that the sidecar would refuse.
    fn check(&self, config: &str) -> Result<(), ConfigErrors>;

    /// The command that starts it. `exe` is the lab's own executable.
    fn argv(&self, exe: &Path, config: &Path) -> Vec<OsString>;

    /// The page that answers 200 when it is ready.
    fn readiness(&self) -> Page;

    /// The page with its metrics, in the text format of Prometheus.
    fn metrics(&self) -> Page;

    /// Connections of its app that it has accepted, by its metrics.
    fn outbound_connections(&self, samples: &[Sample]) -> f64;

    /// How often it has taken a new configuration, by its metrics.
    fn reloads(&self, samples: &[Sample]) -> f64;

    /// Whether it can run in a world.
    fn supports(&self, world: WorldKind) -> bool;
}

/// The program of a kind; `None` if it has no process.
pub fn program(kind: SidecarKind) -> Option<&'static dyn SidecarProgram> {
    match kind {
        SidecarKind::Ours => Some(&ours::Ours),
        SidecarKind::None => None,
    }
}
