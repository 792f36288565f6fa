//! What a scenario file says, and every way in which it can be wrong.
//!
//! `model` mirrors the file key for key, `parse` turns text into it with the place of every word
//! kept, `validate` (with `load`, `timeline` and `expect` for the larger tables) resolves every
//! name and collects all mistakes at once, each pointing at its words and suggesting the fix. What
//! comes out is a [`Scenario`]: checked, without names or texts left to resolve. `settings` lets
//! the sidecar itself check what is meant for it. `compile` adds what the file does not choose
//! (addresses, seeds, sidecar configurations) and makes a [`Plan`](crate::plan::Plan) of it.
//!
//! It leaves out all I/O: the caller of [`parse`] reads the file.

pub mod builder;
mod compile;
mod condition;
mod context;
mod expect;
mod identity;
mod load;
pub(crate) mod model;
mod parse;
mod settings;
mod timeline;
mod validate;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::syntax::diagnose::ScenarioErrors;

use crate::app::AppKind;
use crate::fault::Entry;
use crate::load::{Part, Target};
use crate::mesh::Link;
use crate::plan::{Certificate, Expectation, Protocol, ServiceLimits, SidecarKind};

/// A scenario in which everything that is named exists. Instances, loads and entries are known by
/// their position.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// One line for people.
    pub name: String,
    /// Seed of every random choice. Free to change: nothing else in here depends on it.
    pub seed: u64,
    /// Load runs but is not judged.
    pub warmup: Duration,
    /// The measured part.
    pub duration: Duration,
    sidecars: Vec<SidecarKind>,
    services: Vec<Service>,
    authorities: Vec<identity::Authority>,
    certificates: Vec<Certificate>,
    captures: Vec<usize>,
    links: Vec<Link>,
    loads: Vec<Load>,
    /// Kills and pauses of a whole instance name its sidecar whether or not one will stand there.
    timeline: Vec<Entry>,
    expectations: Vec<Expectation>,
}

#[derive(Debug, Clone)]
struct Service {
    name: String,
    replicas: u32,
    port: Option<u16>,
    protocol: Protocol,
    bridge: bool,
    /// Position of its registry's service.
    registry: Option<usize>,
    policy: toml::Table,
    settings: toml::Table,
    authorization: toml::Table,
    tls: identity::ServiceTls,
    limits: ServiceLimits,
    zones: Vec<String>,
    weights: Vec<u32>,
    labels: Vec<BTreeMap<String, String>>,
    app: Option<AppKind>,
}

#[derive(Debug, Clone)]
struct Load {
    name: String,
    from: usize,
    target: Target,
    rate: f64,
    timeout: Duration,
    part: Option<Part>,
}

/// Reads and checks a scenario. `file_name` is used in messages only.
///
/// # Errors
/// Everything that is wrong with it: all mistakes of shape if there are any, otherwise all mistakes
/// of meaning.
pub fn parse(file_name: &str, text: &str) -> Result<Scenario, ScenarioErrors> {
    let scenario = |file: model::File| {
        let scenario = validate::validate(&file, text)?;
        let never_judged = expect::never_judged(&file, &scenario);
        if !never_judged.is_empty() {
            return Err(never_judged);
        }
        settings::check(&file, &scenario.plan(SidecarKind::Ours))?;
        Ok(scenario)
    };
    parse::parse(text).and_then(scenario).map_err(|mistakes| ScenarioErrors::new(file_name, text, mistakes))
}

impl Scenario {
    /// What shall stand in the sidecar's place, one run each: the header's `sidecar`, ours by
    /// default.
    pub fn sidecars(&self) -> Vec<SidecarKind> {
        self.sidecars.clone()
    }
}
