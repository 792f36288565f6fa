//! `app = { .. }` of a timeline entry: built-in HTTP apps answer otherwise for a while.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_spanned::Spanned;

use super::{Context, Fault, Primitives, holds_processes};
use crate::app::http::behaviour::{BehaviourChange, CONTROL, behaviour_table};
use crate::mesh::{ProcessId, Role};
use crate::syntax::diagnose::Mistake;
use crate::syntax::one_or_many::OneOrMany;

/// Changes how built-in apps answer; the revert puts back what the scenario says of them.
#[derive(Debug, Clone, Serialize)]
pub struct Behave {
    /// Which.
    pub processes: Vec<ProcessId>,
    /// What changes.
    pub change: BehaviourChange,
}

behaviour_table! {
    /// `app = { .. }` of a timeline entry.
    pub struct BehaveTable {
        /// As in [`KillTable::process`](super::kill::KillTable::process); the role is always `app`.
        pub process: Spanned<OneOrMany>,
        ..behaviour,
    }
}

impl Fault for Behave {
    type Table = BehaveTable;

    const EVIDENCE: &'static [&'static str] = &["changed_requests"];

    fn resolve(table: &Spanned<BehaveTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let asked = table.get_ref();
        let processes = apps(asked, context, mistakes);
        let change = asked.change(mistakes);
        if (BehaviourChange { status: None, ..change }) == BehaviourChange::default() {
            let missing =
                "no `work`, `fail`, `malformed`, `unhealthy`, `refuse_streams`, `goaway` or `reset_streams`";
            let mistake = Mistake::new(table.span(), "nothing changes", missing);
            mistakes.push(mistake.help("add work = \"200ms\", or one of the others = \"30%\""));
        }
        Behave { processes, change }
    }

    holds_processes!(processes);

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.note_changed_requests(fault, &self.processes).await;
        world.control_apps(&self.processes, &self.change.query()).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.control_apps(&self.processes, CONTROL).await?;
        world.note_changed_requests(fault, &self.processes).await;
        Ok(())
    }

    async fn evidence<W: Primitives>(&self, fault: &str, world: &W) -> BTreeMap<String, f64> {
        world.note_changed_requests(fault, &self.processes).await;
        world.counted(fault).await
    }
}

/// The apps that a table names, all of which must be built-in HTTP apps.
fn apps(asked: &BehaveTable, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Vec<ProcessId> {
    let before = mistakes.len();
    let mut processes = context.processes(&asked.process, mistakes);
    let found_some = !processes.is_empty();
    processes.retain(|p| p.role == Role::App);
    let instance = |p: &ProcessId| &context.names.instances[p.instance];
    let stranger = processes.iter().find(|p| !context.names.services[instance(p).service].is_controlled);
    if let Some(stranger) = stranger {
        let message = format!("the app of `{}` cannot be told how to answer", instance(stranger).name);
        let mistake = Mistake::new(asked.process.span(), message, "not a built-in HTTP app");
        mistakes.push(mistake.help("only `app = { http = { .. } }` can; others can be killed or paused"));
    } else if processes.is_empty() && found_some && mistakes.len() == before {
        let mistake = Mistake::new(asked.process.span(), "a sidecar is no app", "names no app");
        mistakes.push(mistake.help("name an app, such as \"orders-1/app\""));
    }
    processes
}
