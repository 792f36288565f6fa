//! `configure = { .. }`: sidecars get another configuration while they run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Primitives, Resource};
use crate::syntax::diagnose::Mistake;
use crate::syntax::settings::{self, Settings};

/// Gives sidecars another configuration while they run; the revert gives them their own back.
#[derive(Debug, Clone, Serialize)]
pub struct Configure {
    /// Position of the service that is called otherwise.
    pub service: usize,
    /// Keys for its cluster, on top of the service's own policy.
    pub policy: toml::Table,
    /// The whole file of each instance's sidecar, by position; empty if there are no sidecars.
    /// Filled in when the plan is made.
    pub configs: Vec<String>,
}

/// `configure = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigureTable {
    /// The service that is called.
    pub service: Spanned<String>,
    /// Keys for its cluster in every sidecar's configuration, on top of the service's own `policy`.
    pub policy: Spanned<Settings>,
}

impl Fault for Configure {
    type Table = ConfigureTable;

    const EVIDENCE: &'static [&'static str] = &["reloaded"];

    fn resolve(table: &Spanned<ConfigureTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let table = table.get_ref();
        settings::reserved_of_cluster(&table.policy, mistakes);
        let services = &context.names.services;
        let service = services.iter().position(|service| service.name == *table.service.get_ref());
        if service.is_none() {
            let known = services.iter().map(|service| service.name.as_str());
            mistakes.push(Mistake::unknown("service", &table.service, known));
        }
        let policy = table.policy.get_ref().plain();
        Configure { service: service.unwrap_or_default(), policy, configs: Vec::new() }
    }

    fn holds(&self) -> Vec<Resource> {
        vec![Resource::Configuration]
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.configure(fault, &self.configs).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.configure_as_planned(fault).await
    }

    async fn evidence<W: Primitives>(&self, fault: &str, world: &W) -> BTreeMap<String, f64> {
        world.note_reloads().await;
        world.counted(fault).await
    }
}
