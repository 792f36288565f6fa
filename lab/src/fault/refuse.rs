//! `refuse = { .. }`: processes accept no new connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Primitives, holds_processes};
use crate::mesh::ProcessId;
use crate::syntax::diagnose::Mistake;
use crate::syntax::one_or_many::OneOrMany;

/// New connections to processes are refused with a reset; those that are open stay. The revert
/// accepts new ones again.
#[derive(Debug, Clone, Serialize)]
pub struct Refuse {
    /// Which.
    pub processes: Vec<ProcessId>,
}

/// `refuse = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefuseTable {
    /// As in [`KillTable::process`](super::kill::KillTable::process). An app refuses its sidecar, a
    /// sidecar refuses other instances.
    pub process: Spanned<OneOrMany>,
}

impl Fault for Refuse {
    type Table = RefuseTable;

    const EVIDENCE: &'static [&'static str] = &["refused"];

    fn resolve(table: &Spanned<RefuseTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        Refuse { processes: context.processes(&table.get_ref().process, mistakes) }
    }

    holds_processes!(processes);

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.refuse(fault, &self.processes).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.accept(fault, &self.processes).await
    }

    async fn evidence<W: Primitives>(&self, fault: &str, world: &W) -> BTreeMap<String, f64> {
        let now = world.refusals(&self.processes).await;
        let mut counted = world.counted(fault).await;
        if now > 0 {
            *counted.entry("refused".into()).or_default() += now as f64;
        }
        counted
    }
}
