//! The `proxy` crate: how it is configured for an instance, started and observed.
//!
//! Every sidecar knows every service that can be called, itself included, and one worker serves it:
//! a lab has many sidecars on few cores, and in the simulator a sidecar is one thread anyway. What
//! it leaves out takes the proxy's defaults, so that a scenario measures what a user would get; a
//! protocol that is to be detected is left out too, because the sidecar has its own idea of some
//! ports that nobody declared. Endpoints are IPv4 only; callers may dial either family.
//!
//! A scenario may say more: a service's `policy` goes into its cluster, in every file, and its
//! `sidecar` keys into the files of its own instances. Both replace what the lab would write of its
//! own accord. What the scenario says itself (`said`) they may not replace: the check refuses that.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use proxy::config::ConfigErrors;
use proxy::config::defaults::BUNDLE_REFRESH;
use serde::Serialize;
use toml::{Table, Value};

use super::{Page, SidecarProgram};
use crate::metrics::Sample;
use crate::plan::{
    CA_PORT, HEALTH_PORT, IDENTITY_DIR, Identity, IdentitySource, Instance, METRICS_PORT, Plan, Protocol,
    ROOTS_FILE, Service, TOKEN_FILE,
};
use crate::world::WorldKind;

/// This project's sidecar.
pub(super) struct Ours;

impl SidecarProgram for Ours {
    fn config(&self, plan: &Plan, instance: usize, seed: u64) -> String {
        config(plan, instance, seed)
    }

    fn said(&self, plan: &Plan, instance: usize) -> Table {
        said(plan, instance)
    }

    fn check(&self, config: &str) -> Result<(), ConfigErrors> {
        proxy::config::parse("sidecar.toml", config).map(drop)
    }

    fn argv(&self, exe: &Path, config: &Path) -> Vec<OsString> {
        vec![exe.into(), "__sidecar".into(), "--config".into(), config.into()]
    }

    fn readiness(&self) -> Page {
        Page { port: HEALTH_PORT, path: "/ready" }
    }

    fn metrics(&self) -> Page {
        Page { port: METRICS_PORT, path: "/metrics" }
    }

    fn outbound_connections(&self, samples: &[Sample]) -> f64 {
        sum(samples, "proxy_connections_total", ("side", "outbound"))
    }

    fn reloads(&self, samples: &[Sample]) -> f64 {
        sum(samples, "proxy_config_reloads_total", ("result", "applied"))
    }

    fn supports(&self, world: WorldKind) -> bool {
        matches!(world, WorldKind::Kernel | WorldKind::Simulator)
    }
}

/// The sum of a metric over all label sets with this label.
fn sum(samples: &[Sample], name: &str, (label, value): (&str, &str)) -> f64 {
    let all = samples.iter().filter(|s| &*s.name == name && s.labels.has(label, value));
    all.map(|sample| sample.value).sum()
}

/// The keys that the lab sets, in the order of the file. `proxy::config::model` says what they
/// mean.
#[derive(Serialize)]
struct File<'a> {
    service: &'a str,
    instance: &'a str,
    /// TOML's integers are signed.
    seed: i64,
    #[serde(flatten)]
    settings: Table,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cluster: Vec<Cluster<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inbound: Vec<Value>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Cluster<'a> {
    OfService(OfService<'a>),
    /// What a scenario adds.
    Added(Value),
}

#[derive(Serialize)]
struct OfService<'a> {
    name: &'a str,
    addresses: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<Endpoint<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discovery: Option<Discovery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<bool>,
    #[serde(flatten)]
    policy: Table,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Endpoint<'a> {
    Address(SocketAddr),
    Described {
        address: SocketAddr,
        #[serde(skip_serializing_if = "Option::is_none")]
        zone: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        identity: Option<&'a str>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: &'a BTreeMap<String, String>,
    },
}

#[derive(Serialize)]
struct Discovery {
    etcd: Table,
    /// What the scenario says of it beside the source.
    #[serde(flatten)]
    more: Table,
}

/// How often in the life of a certificate an authority is asked whether roots have changed, at
/// least.
const REFRESHES: u32 = 10;

/// Keys of `discovery` that say where endpoints are learned.
const SOURCES: [&str; 3] = ["file", "etcd", "dns"];

/// How long an instance that has left the registry still takes requests.
const DRAIN_MIN: &str = "1s";

/// The text of the configuration file of the sidecar of `plan.instances[instance]`.
fn config(plan: &Plan, instance: usize, seed: u64) -> String {
    let this = &plan.instances[instance];
    let service = &plan.services[this.service];
    let mut settings = said(plan, instance);
    settings.insert("workers".into(), 1.into());
    // Callers that were told of their endpoints once for all do not look at readiness, so there is
    // nothing to wait for. Those that learn them take a moment to hear of an end.
    let drain_min = if service.registry.is_some() { DRAIN_MIN } else { "0s" };
    settings.insert("timeouts".into(), Table::from_iter([("drain_min".to_owned(), drain_min.into())]).into());
    if let Some(refresh) = this.identity.as_ref().and_then(|own| refresh(plan, own)) {
        let asked = Table::from_iter([("refresh".to_owned(), refresh.into())]);
        let identity = Table::from_iter([("ca".to_owned(), asked.into())]);
        merge(&mut settings, &Table::from_iter([("identity".to_owned(), identity.into())]));
    }
    if let Some(bytes) = service.limits.sidecar.memory {
        // It would find this out itself, but a namespace does not show it its control group.
        let budget = format!("{}KiB", bytes / 1024 * 4 / 5);
        settings.insert("limits".into(), Table::from_iter([("memory".to_owned(), budget.into())]).into());
    }
    merge(&mut settings, &service.settings);
    let (added, given) = (listed(settings.remove("cluster")), settings.remove("inbound"));
    let callable = plan.services.iter().filter_map(|s| s.port.map(|port| (s, port)));
    let clusters = callable.map(|(service, port)| Cluster::OfService(cluster(plan, service, port)));
    let file = File {
        service: &service.name,
        instance: &this.name,
        seed: (seed >> 1) as i64,
        settings,
        cluster: clusters.chain(added.into_iter().map(Cluster::Added)).collect(),
        inbound: inbound(service, given),
    };
    toml::to_string_pretty(&file).expect("names, numbers and addresses are all TOML")
}

/// The keys that say in the sidecar's words what the scenario says in its own.
fn said(plan: &Plan, instance: usize) -> Table {
    let this = &plan.instances[instance];
    let service = &plan.services[this.service];
    let mut said = Table::new();
    if let Some(zone) = &this.zone {
        said.insert("zone".into(), zone.as_str().into());
    }
    said.extend(this.identity.as_ref().map(|own| ("identity".to_owned(), identity(plan, own).into())));
    if let Some(mode) = service.tls {
        let mode = Value::try_from(mode).expect("a word");
        said.insert("tls".into(), Table::from_iter([("mode".to_owned(), mode)]).into());
    }
    if !service.authorization.is_empty() {
        said.insert("authorization".into(), service.authorization.clone().into());
    }
    if let (Some(etcd), Some(port)) = (registry(plan, service), service.port) {
        let address = SocketAddr::from((this.v4, port)).to_string();
        let mut register =
            Table::from_iter([("address".to_owned(), address.into()), ("etcd".to_owned(), etcd.into())]);
        let told = [("zone", &this.zone), ("identity", &service.identity)];
        let told = told.into_iter().filter_map(|(key, word)| Some((key.to_owned(), word.as_deref()?.into())));
        register.extend(told);
        said.insert("register".into(), register.into());
    }
    said
}

/// The `inbound` tables: what the scenario adds to that of the app's port, and those of other
/// ports.
fn inbound(service: &Service, given: Option<Value>) -> Vec<Value> {
    let mut all = listed(given);
    let Some(port) = service.port else { return all };
    let is_apps = |item: &&mut Value| item.get("port").and_then(Value::as_integer) == Some(port.into());
    let mut own = Table::from_iter([("port".to_owned(), Value::from(i64::from(port)))]);
    let protocol = declared(service.protocol).map(|protocol| Value::try_from(protocol).expect("a word"));
    own.extend(protocol.map(|protocol| ("protocol".to_owned(), protocol)));
    match all.iter_mut().find(is_apps).map(Value::as_table_mut) {
        Some(Some(given)) => {
            merge(&mut own, given);
            *given = own;
        }
        // Behind the others, whose positions stay those of the scenario.
        _ => all.push(own.into()),
    }
    all
}

/// The items of a list of tables. What is no list is one item, which the sidecar will complain of.
fn listed(given: Option<Value>) -> Vec<Value> {
    match given {
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
        None => Vec::new(),
    }
}

fn cluster<'a>(plan: &'a Plan, service: &'a Service, port: u16) -> OfService<'a> {
    let mut policy = service.policy.clone();
    let discovery = registry(plan, service).and_then(|etcd| match policy.remove("discovery") {
        None => Some(Discovery { etcd, more: Table::new() }),
        Some(Value::Table(more)) if !SOURCES.iter().any(|source| more.contains_key(*source)) => {
            Some(Discovery { etcd, more })
        }
        // Another source, or no table at all, which the sidecar will complain of.
        Some(other) => {
            policy.insert("discovery".into(), other);
            None
        }
    });
    let unsaid = |key: &str| !service.policy.contains_key(key);
    let identity = service.identity.as_deref();
    let endpoints =
        || service.instances.iter().map(|i| endpoint(&plan.instances[*i], port, identity)).collect();
    OfService {
        name: &service.name,
        addresses: vec![(service.vip4, port).into(), (service.vip6, port).into()],
        protocol: declared(service.protocol).filter(|_| unsaid("protocol")),
        endpoints: (unsaid("endpoints") && unsaid("discovery") && service.registry.is_none()).then(endpoints),
        discovery,
        bridge: (service.bridge && unsaid("bridge")).then_some(true),
        policy,
    }
}

fn endpoint<'a>(instance: &'a Instance, port: u16, identity: Option<&'a str>) -> Endpoint<'a> {
    let Instance { v4, zone, weight, labels, .. } = instance;
    let address = (*v4, port).into();
    match (zone, weight, identity, labels.is_empty()) {
        (None, None, None, true) => Endpoint::Address(address),
        _ => Endpoint::Described { address, zone: zone.as_deref(), weight: *weight, identity, labels },
    }
}

/// `[identity]`
fn identity(plan: &Plan, own: &Identity) -> Table {
    let file = |name: &str| Value::from(format!("{IDENTITY_DIR}/{name}"));
    let source = match own.source {
        IdentitySource::Certificate(_) => ("files".to_owned(), IDENTITY_DIR.into()),
        IdentitySource::Authority(position) => {
            let authority = &plan.authorities[position];
            let address = SocketAddr::from((plan.instances[authority.instance].v4, CA_PORT));
            let asked = Table::from_iter([
                ("addresses".to_owned(), Value::from(vec![address.to_string()])),
                ("roots".to_owned(), file(ROOTS_FILE)),
                ("token".to_owned(), file(TOKEN_FILE)),
            ]);
            ("ca".to_owned(), asked.into())
        }
    };
    Table::from_iter([("id".to_owned(), Value::from(own.id.as_str())), source])
}

/// How often roots are asked for, where that is not by default often enough: where certificates
/// live shortly, so do the reasons to trust them.
fn refresh(plan: &Plan, own: &Identity) -> Option<String> {
    let IdentitySource::Authority(position) = own.source else { return None };
    let refresh = plan.authorities[position].certificate_lifetime / REFRESHES;
    (refresh < BUNDLE_REFRESH).then(|| crate::readable::text(refresh))
}

/// The key of a service in its registry, if it has one.
fn registry(plan: &Plan, service: &Service) -> Option<Table> {
    let registry = &plan.services[service.registry?];
    let at = |i: &usize| Some(Value::from(format!("http://{}:{}", plan.instances[*i].v4, registry.port?)));
    let servers: Vec<Value> = registry.instances.iter().filter_map(at).collect();
    let prefix = format!("/sidelab/services/{}/", service.name);
    Some(Table::from_iter([("endpoints".to_owned(), servers.into()), ("prefix".to_owned(), prefix.into())]))
}

fn declared(protocol: Protocol) -> Option<Protocol> {
    (protocol != Protocol::Detect).then_some(protocol)
}

/// Puts `more` into `table`; where both have a table they become one.
fn merge(table: &mut Table, more: &Table) {
    for (key, value) in more {
        match (table.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(more)) => merge(inner, more),
            _ => drop(table.insert(key.clone(), value.clone())),
        }
    }
}
