//! `restart = { .. }`: a rolling restart, instance after instance.
//!
//! How the instances follow each other in time is driven by `run.rs`: each one in turn is a
//! [`Kill`] that is applied to its processes and reverted.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::kill::is_hard;
use super::{Context, Fault, Kill, Lasts, Primitives, holds_processes};
use crate::mesh::{ProcessId, Role};
use crate::syntax::diagnose::Mistake;
use crate::syntax::one_or_many::OneOrMany;
use crate::syntax::units::Span;

/// Default of [`RestartTable::wait`].
const WAIT: Duration = Duration::from_secs(1);

/// Ends instances one after another, each with its sidecar first, and starts each again.
#[derive(Debug, Clone, Serialize)]
pub struct Restart {
    /// Of all processes, by instance.
    #[serde(flatten)]
    pub kill: Kill,
    /// The time between one instance that is ready again and the next.
    #[serde(with = "crate::readable")]
    pub wait: Duration,
}

/// `restart = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartTable {
    /// As in [`KillTable::process`](super::kill::KillTable::process).
    pub process: Spanned<OneOrMany>,
    /// `"TERM"` (default) or `"KILL"`.
    pub signal: Option<Spanned<String>>,
    /// Time between one instance that is ready again and the next. Default 1 s.
    pub wait: Option<Spanned<Span>>,
}

impl Restart {
    /// The instances, in the order of their turns.
    pub fn instances(&self) -> Vec<usize> {
        let mut instances: Vec<usize> = self.kill.processes.iter().map(|p| p.instance).collect();
        instances.dedup();
        instances
    }

    /// The kill of the processes of one instance that have these roles, in the order of the roles.
    pub fn kill_of(&self, instance: usize, roles: &[Role]) -> Kill {
        let of = |role: &Role| {
            let role = *role;
            self.kill.processes.iter().copied().filter(move |p| p.instance == instance && p.role == role)
        };
        Kill { processes: roles.iter().flat_map(of).collect(), hard: self.kill.hard }
    }
}

impl Fault for Restart {
    type Table = RestartTable;

    const EVIDENCE: &'static [&'static str] = &["killed", "restarted"];

    fn resolve(table: &Spanned<RestartTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let table = table.get_ref();
        let hard = is_hard(table.signal.as_ref(), false, mistakes);
        let kill = Kill { processes: context.processes(&table.process, mistakes), hard };
        Restart { kill, wait: table.wait.as_ref().map_or(WAIT, |wait| wait.get_ref().0) }
    }

    fn lasts(_: &RestartTable) -> Lasts<'_> {
        Lasts::UntilDone("until all are back")
    }

    holds_processes!(kill.processes);

    fn ends_processes(&self) -> bool {
        true
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        self.kill.apply(fault, world).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        self.kill.revert(fault, world).await
    }
}
