//! `crash = { .. }`: machines lose their power.

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Lasts, Primitives, Resource, holds_processes};
use crate::fabric::LinkProfile;
use crate::mesh::{Link, ProcessId, Role};
use crate::syntax::diagnose::Mistake;
use crate::syntax::one_or_many::OneOrMany;
use crate::syntax::units::Span;

/// Machines lose power: their processes end and their links carry nothing, not even the news of it.
/// The revert starts them again, and they know nothing of their connections.
#[derive(Debug, Clone, Serialize)]
pub struct Crash {
    /// All of the machines' processes.
    pub processes: Vec<ProcessId>,
    /// Both directions between the machines and all others, cut.
    pub links: Vec<Link>,
}

/// `crash = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrashTable {
    /// `"orders-2"`, or a list of such; each instance is a machine of its own.
    pub instance: Spanned<OneOrMany>,
    /// How long afterwards the machine is back and its processes are started. Without it, it stays
    /// away.
    pub restart: Option<Spanned<Span>>,
}

impl Fault for Crash {
    type Table = CrashTable;

    const TIMES: &'static [&'static str] = &["restart"];

    const EVIDENCE: &'static [&'static str] = &["killed", "restarted", "packets", "lost_packets"];

    const EVIDENCE_OF_REVERT: &'static [&'static str] = &["restarted"];

    fn resolve(table: &Spanned<CrashTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let names = context.names;
        let machines = context.instances(&table.get_ref().instance, mistakes);
        let processes = machines.iter().flat_map(|&instance| {
            let of = |role, is_there: bool| is_there.then_some(ProcessId { instance, role });
            let has_sidecar = context.has_sidecars && !names.is_authority(instance);
            [of(Role::App, names.has_program(instance)), of(Role::Sidecar, has_sidecar)].into_iter().flatten()
        });
        let all = 0..names.instances.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        let cut = pairs.filter(|(from, to)| from != to && (machines.contains(from) || machines.contains(to)));
        let links = cut.map(|(from, to)| Link { from, to, profile: LinkProfile::CUT }).collect();
        Crash { processes: processes.collect(), links }
    }

    fn lasts(table: &CrashTable) -> Lasts<'_> {
        Lasts::Restart(table.restart.as_ref())
    }

    holds_processes!(processes);

    fn links(&self) -> &[Link] {
        &self.links
    }

    fn holds(&self) -> Vec<Resource> {
        let links = self.links.iter().map(|link| Resource::DeadLink(link.from, link.to));
        links.chain(self.processes.iter().copied().map(Resource::Process)).collect()
    }

    fn ends_processes(&self) -> bool {
        true
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        // The links first, so that no peer is told of the end of the processes.
        world.impair(fault, &self.links).await?;
        world.power_off(&self.processes).await?;
        world.end(fault, &self.processes, true).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.power_on(&self.processes).await?;
        world.heal(fault, &self.links).await?;
        world.start_again(fault, &self.processes).await
    }
}
