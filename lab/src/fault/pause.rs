//! `pause = { .. }`: processes are stopped for a while.

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Primitives, holds_processes};
use crate::mesh::ProcessId;
use crate::syntax::diagnose::Mistake;
use crate::syntax::one_or_many::OneOrMany;

/// Stops processes; the revert lets them go on.
#[derive(Debug, Clone, Serialize)]
pub struct Pause {
    /// Which.
    pub processes: Vec<ProcessId>,
}

/// `pause = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseTable {
    /// As in [`KillTable::process`](super::kill::KillTable::process).
    pub process: Spanned<OneOrMany>,
}

impl Fault for Pause {
    type Table = PauseTable;

    const EVIDENCE: &'static [&'static str] = &["stopped", "continued"];

    const EVIDENCE_OF_REVERT: &'static [&'static str] = &["continued"];

    fn resolve(table: &Spanned<PauseTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        Pause { processes: context.processes(&table.get_ref().process, mistakes) }
    }

    holds_processes!(processes);

    fn stops_processes(&self) -> bool {
        true
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.stop(fault, &self.processes).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.resume(fault, &self.processes).await
    }
}
