//! A file's meaning: the header and the services; the other tables have modules of their own.
//!
//! Nothing stops at the first mistake. Where a value is wrong, a harmless one takes its place, so
//! that one mistake does not breed others.

use std::collections::BTreeMap;

use serde_spanned::Spanned;

use super::context::{Context, sidecar_kind};
use super::model::{self, File};
use super::settings;
use super::{Load, Scenario, Service, expect, identity, load, timeline};
use crate::app::{self, APP_METRICS_PORT, AppKind};
use crate::mesh::Link;
use crate::metrics::FABRIC;
use crate::plan::{Certificate, Protocol, ResourceLimits, ServiceLimits, SidecarKind};
use crate::syntax::diagnose::Mistake;
use crate::syntax::links;
use crate::syntax::names::{Names, instance_name};
use crate::syntax::settings::Settings;

/// Instances of one service, and services: the address plan numbers them in one byte each.
const MOST: usize = 250;
/// Ports that belong to sidecars.
const SIDECAR_PORTS: std::ops::RangeInclusive<u16> = 15000..=15099;

/// Resolves a file, or tells everything that is wrong with it.
pub(super) fn validate(file: &File, text: &str) -> Result<Scenario, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let m = &mut mistakes;
    let header = &file.scenario;
    if header.name.get_ref().trim().is_empty() {
        m.push(
            Mistake::new(header.name.span(), "the scenario has no name", "empty")
                .help("say what it is about"),
        );
    }
    let duration = header.duration.get_ref().0;
    if duration.is_zero() {
        let mistake =
            Mistake::new(header.duration.span(), "a run of no length measures nothing", "this long");
        m.push(mistake.help("a few seconds, such as \"5s\", are enough for most questions"));
    }
    let sidecars = sidecars(header, m);
    let identities = (identity::authorities(file, m), identity::certificates(file, m));
    let (services, mut names) = services(file, (&identities.0, &identities.1), m);
    for name in file.ca.keys() {
        service_name(name, m);
        names.add_authority(name);
    }
    let (authorities, certificates) = identities;
    let context = Context {
        text,
        names,
        authorities: authorities.iter().map(|authority| authority.name.clone()).collect(),
        certificates: certificates.iter().map(|certificate| certificate.name.clone()).collect(),
        duration,
        has_sidecars: sidecars.iter().any(|kind| *kind != SidecarKind::None),
    };
    let base = links::base(&file.link, &context.names, m);
    let loads: Vec<Load> =
        file.load.iter().filter_map(|(name, l)| load::load(name, l, &services, &context, m)).collect();
    let timeline = timeline::timeline(&file.timeline, &base, &context, m);
    let expectations = expect::expectations(file, &timeline, &context, m);
    let captures = expect::captures(file, &context, m);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(Scenario {
        name: header.name.get_ref().trim().to_owned(),
        seed: header.seed.unwrap_or(1),
        warmup: header.warmup.as_ref().map_or(model::WARMUP, |w| w.get_ref().0),
        duration,
        sidecars,
        services,
        authorities,
        certificates,
        captures,
        links: base.into_iter().map(|((from, to), profile)| Link { from, to, profile }).collect(),
        loads,
        timeline,
        expectations,
    })
}

fn sidecars(header: &model::Header, mistakes: &mut Vec<Mistake>) -> Vec<SidecarKind> {
    let Some(asked) = &header.sidecar else { return vec![SidecarKind::Ours] };
    let words = asked.get_ref().words(asked.span());
    if words.is_empty() {
        let mistake = Mistake::new(asked.span(), "no sidecar is named, so nothing would run", "empty");
        mistakes.push(mistake.help("known: ours, none; without this line it is \"ours\""));
    }
    let mut kinds = Vec::new();
    for word in &words {
        let Some(kind) = sidecar_kind(word, mistakes) else { continue };
        if kinds.contains(&kind) {
            let mistake = Mistake::new(word.span(), format!("sidecar `{word}` is named twice"), "again");
            mistakes.push(mistake.help("each is run once; leave one out"));
        } else {
            kinds.push(kind);
        }
    }
    kinds
}

fn services(
    file: &File,
    identities: (&[identity::Authority], &[Certificate]),
    mistakes: &mut Vec<Mistake>,
) -> (Vec<Service>, Names) {
    let mut services = Vec::new();
    let mut names = Names::default();
    let mut owner: BTreeMap<String, std::ops::Range<usize>> = BTreeMap::new();
    for (name, service) in &file.service {
        service_name(name, mistakes);
        let replicas = service.replicas.as_ref().map_or(1, |r| *r.get_ref());
        let replicas = if (1..=MOST as u32).contains(&replicas) {
            replicas
        } else {
            let at = service.replicas.as_ref().map_or(name.span(), Spanned::span);
            let message = format!("a service cannot have {replicas} replicas");
            let help = format!(
                "between 1 and {MOST}; to take a replica away for a while use a `kill` in the timeline"
            );
            mistakes.push(Mistake::new(at, message, "this many").help(help));
            1
        };
        for index in 0..replicas {
            let instance = instance_name(name.get_ref(), index, replicas);
            if let Some(other) = owner.insert(instance.clone(), name.span()) {
                let message = format!("two services have an instance `{instance}`");
                let mistake = Mistake::new(name.span(), message, "this one").also(other, "and this one");
                mistakes
                    .push(mistake.help("replicas are named SERVICE-0, SERVICE-1, ...: rename one service"));
            }
        }
        let is_controlled = service.app.as_ref().is_some_and(|app| app.get_ref().is_controlled());
        names.add(name, replicas, (service.app.is_some(), is_controlled));
        let app = service.app.as_ref().and_then(|app| app::resolve(app, mistakes));
        settings::reserved(service, mistakes);
        let plain =
            |keys: &Option<Spanned<Settings>>| keys.as_ref().map(|k| k.get_ref().plain()).unwrap_or_default();
        services.push(Service {
            name: name.get_ref().clone(),
            replicas,
            port: port(name, service, mistakes),
            protocol: protocol(service, app.as_ref(), mistakes),
            bridge: bridge(service, mistakes),
            registry: registry(file, name, service, mistakes),
            policy: plain(&service.policy),
            settings: plain(&service.sidecar),
            authorization: plain(&service.authorization),
            tls: identity::tls(file, name, service, identities, mistakes),
            limits: limits(service, mistakes),
            zones: dealt("zones", &service.zones, replicas, mistakes),
            weights: weights(service, replicas, mistakes),
            labels: dealt("labels", &service.labels, replicas, mistakes),
            app,
        });
    }
    let all = services.len() + file.ca.len();
    if let Some(name) = file.service.keys().chain(file.ca.keys()).nth(MOST) {
        let message = format!("there are {all} services, and a network of one machine has room for {MOST}");
        mistakes.push(Mistake::new(name.span(), message, "one too many"));
    }
    (services, names)
}

fn service_name(name: &Spanned<String>, mistakes: &mut Vec<Mistake>) {
    let word = &name.get_ref()[..];
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = word.len() <= 40
        && word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.ends_with(letter)
        && word.chars().all(|c| letter(c) || c == '-');
    if !fits {
        let mistake =
            Mistake::new(name.span(), format!("`{word}` cannot be the name of a service"), "not a host name");
        mistakes.push(mistake.help(
            "callers dial it, so it is a host name: lower-case letters, digits and hyphens, a letter first, at most 40",
        ));
    } else if word == FABRIC || word == "localhost" {
        let message = format!("`{word}` is taken, so a service cannot be called so");
        mistakes.push(Mistake::new(name.span(), message, "a reserved name").help("choose another name"));
    }
}

fn port(name: &Spanned<String>, service: &model::Service, mistakes: &mut Vec<Mistake>) -> Option<u16> {
    match (&service.port, &service.app) {
        (None, Some(app)) => {
            let message = format!("service `{name}` has an app but no port");
            let mistake =
                Mistake::new(name.span(), message, "this service").also(app.span(), "this app must listen");
            mistakes.push(mistake.help("add a line such as port = 8080"));
            None
        }
        (Some(port), None) => {
            let message = format!("service `{name}` has a port but no app");
            let mistake = Mistake::new(port.span(), message, "nobody would listen here");
            mistakes.push(mistake.help("add an app, such as app = { http = {} }, or leave the port out"));
            None
        }
        (Some(port), Some(_)) => {
            let number = *port.get_ref();
            let taken = match number {
                0 => Some("the operating system would choose a port for 0, and callers could not know it"),
                _ if SIDECAR_PORTS.contains(&number) => Some("ports 15000 to 15099 belong to the sidecar"),
                APP_METRICS_PORT => Some("port 9100 belongs to the metrics of the built-in apps"),
                _ => None,
            };
            if let Some(why) = taken {
                let message = format!("an app cannot listen on port {number}");
                mistakes.push(
                    Mistake::new(port.span(), message, "this port")
                        .help(format!("{why}; take another, such as 8080")),
                );
            }
            Some(number)
        }
        (None, None) => None,
    }
}

fn protocol(service: &model::Service, app: Option<&AppKind>, mistakes: &mut Vec<Mistake>) -> Protocol {
    let Some(word) = &service.protocol else { return Protocol::Detect };
    let protocol = match &word.get_ref()[..] {
        "http" => Protocol::Http,
        "tcp" => Protocol::Tcp,
        "detect" => Protocol::Detect,
        _ => {
            mistakes.push(Mistake::unknown("protocol", word, ["http", "tcp", "detect"]));
            return Protocol::Detect;
        }
    };
    let greets = app.filter(|app| app.speaks_first()).zip(service.app.as_ref());
    if let (Protocol::Http, Some((kind, app))) = (protocol, greets) {
        let message = format!("the {} app does not speak HTTP", kind.key());
        let mistake = Mistake::new(word.span(), message, "the sidecar is told to expect HTTP");
        mistakes.push(mistake.also(app.span(), "but this app greets first").help("write protocol = \"tcp\""));
    }
    protocol
}

fn bridge(service: &model::Service, mistakes: &mut Vec<Mistake>) -> bool {
    let Some(bridge) = service.bridge.as_ref().filter(|bridge| *bridge.get_ref()) else { return false };
    if let Some(word) = service.protocol.as_ref().filter(|word| word.get_ref() == "tcp") {
        let mistake = Mistake::new(bridge.span(), "only HTTP can be bridged", "carries HTTP/1 over HTTP/2");
        mistakes.push(mistake.also(word.span(), "opaque bytes").help("leave `bridge` out"));
    }
    true
}

/// The least that a process can live in: the lab's own executable is some megabytes.
const LEAST_MEMORY: u64 = 16 << 20;

/// What the processes of a service may take.
fn limits(service: &model::Service, mistakes: &mut Vec<Mistake>) -> ServiceLimits {
    let mut of = |given: &model::ResourceLimits| {
        if let Some(none) = given.cpu.as_ref().filter(|cpu| cpu.get_ref().0 < 0.01) {
            let mistake = Mistake::new(none.span(), "a process cannot live on so little CPU", "this much");
            mistakes.push(mistake.help("at least \"10m\", a hundredth of a CPU"));
        }
        if let Some(little) = given.memory.as_ref().filter(|size| size.get_ref().0 < LEAST_MEMORY) {
            let mistake =
                Mistake::new(little.span(), "a process cannot live in so little memory", "this much");
            mistakes.push(mistake.help("at least \"16MiB\""));
        }
        ResourceLimits {
            cpu: given.cpu.as_ref().map(|cpu| cpu.get_ref().0),
            memory: given.memory.as_ref().map(|size| size.get_ref().0),
        }
    };
    let given = service.limits.as_ref();
    given.map_or_else(ServiceLimits::default, |given| ServiceLimits {
        sidecar: of(&given.sidecar),
        app: of(&given.app),
    })
}

/// The replicas' shares of the load.
fn weights(service: &model::Service, replicas: u32, mistakes: &mut Vec<Mistake>) -> Vec<u32> {
    let most = proxy::config::defaults::MAX_WEIGHT;
    for wrong in service.weights.iter().flatten().filter(|weight| !(1..=most).contains(weight.get_ref())) {
        let message = format!("a replica cannot have the weight {wrong}");
        let mistake = Mistake::new(wrong.span(), message, "this share of the load");
        mistakes.push(mistake.help(format!("from 1 to {most}; to keep load away from a replica, `kill` it")));
    }
    dealt("weights", &service.weights, replicas, mistakes)
}

/// Values for replicas in turn.
fn dealt<T: Clone>(
    key: &str,
    values: &Option<Vec<Spanned<T>>>,
    replicas: u32,
    mistakes: &mut Vec<Mistake>,
) -> Vec<T> {
    let values = values.as_deref().unwrap_or_default();
    if let Some(spare) = values.get(replicas as usize) {
        let message = format!("`{key}` has {} values for {replicas} replicas", values.len());
        let mistake = Mistake::new(spare.span(), message, "no replica gets this one");
        mistakes.push(mistake.help("leave it out, or raise `replicas`"));
    }
    values.iter().map(|value| value.get_ref().clone()).collect()
}

/// The position of the service that this one registers with.
fn registry(
    file: &File,
    name: &Spanned<String>,
    service: &model::Service,
    mistakes: &mut Vec<Mistake>,
) -> Option<usize> {
    let word = service.registry.as_ref()?;
    let is_registry =
        |service: &model::Service| service.app.as_ref().is_some_and(|app| app.get_ref().registry.is_some());
    if service.app.is_none() || is_registry(service) {
        let mistake = Mistake::new(word.span(), format!("`{name}` has nothing to register"), "with whom");
        mistakes
            .push(mistake.help("a service with an app of its own registers; callers learn it from there"));
        return None;
    }
    let found = file.service.iter().position(|(name, _)| name.get_ref() == word.get_ref());
    let Some(position) = found else {
        let known = file.service.iter().filter(|(_, service)| is_registry(service));
        mistakes.push(Mistake::unknown("registry", word, known.map(|(name, _)| name.get_ref().as_str())));
        return None;
    };
    let (at, other) = file.service.iter().nth(position)?;
    if !is_registry(other) {
        let mistake = Mistake::new(word.span(), format!("service `{word}` is no registry"), "registers here");
        mistakes.push(mistake.also(at.span(), "this service").help("give it app = { registry = {} }"));
    } else if other.replicas.as_ref().is_some_and(|replicas| *replicas.get_ref() > 1) {
        let mistake = Mistake::new(at.span(), "a registry has one instance", "has several");
        mistakes.push(mistake.help("leave `replicas` out: its members would not know each other"));
    }
    Some(position)
}
