//! Keys of the sidecar's own configuration that a scenario passes on: `[service.NAME.policy]` and
//! `[service.NAME.sidecar]`.
//!
//! The lab does not know what they mean, and need not: `check` lets the sidecar read the very file
//! that it would be given and tells its complaints in the scenario's own words, at the scenario's
//! own lines. So a key that the sidecar learns tomorrow can be used without a change here.

use std::ops::Range;

use miette::Diagnostic;
use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::model::File;
use crate::fault::{Action, Configure};
use crate::plan::Plan;
use crate::sidecar;
use crate::syntax::diagnose::Mistake;
use crate::syntax::settings::{PathStep, Settings, refuse, reserved_of_cluster};

/// Keys of a sidecar that follow from the scenario.
const OURS_OF_SIDECAR: [&str; 4] = ["service", "instance", "seed", "listen"];

/// Refuses keys that are the lab's to decide.
pub(super) fn reserved(service: &super::model::Service, mistakes: &mut Vec<Mistake>) {
    service.policy.iter().for_each(|given| reserved_of_cluster(given, mistakes));
    service.sidecar.iter().for_each(|given| refuse(given, &OURS_OF_SIDECAR, mistakes));
}

/// Refuses what a service says twice: by a key of its own, and in the words of the sidecar. One
/// would silently replace the other.
fn said_twice(file: &File, plan: &Plan) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let Some(program) = sidecar::program(plan.sidecar) else { return mistakes };
    for ((name, service), planned) in file.service.iter().zip(&plan.services) {
        if let (Some(given), Some(&first)) = (&service.sidecar, planned.instances.first()) {
            let given = given.get_ref();
            let mut said = program.said(plan, first);
            if let Some(mode) = disabled(service) {
                let tls = toml::Table::from_iter([("mode".to_owned(), mode.into())]);
                said.extend([("tls".to_owned(), tls.into()), ("identity".to_owned(), false.into())]);
            }
            let mut twice = Vec::new();
            both(&said, &given.plain(), &mut Vec::new(), &mut twice);
            twice.extend(protocols_of_the_app(service, &given.plain()));
            for path in twice {
                let at = given.place(&path, true).unwrap_or(name.span());
                mistakes.push(twice_said(at, &path, own_words(name, service, &path)));
            }
        }
        if let Some(policy) = &service.policy {
            let own = [
                ("protocol", service.protocol.as_ref().map(Spanned::span)),
                ("bridge", service.bridge.as_ref().map(Spanned::span)),
            ];
            for (key, own) in own {
                let path = [PathStep::Key(key.to_owned())];
                if let (Some(at), Some(own)) = (policy.get_ref().place(&path, true), own) {
                    mistakes.push(twice_said(at, &path, own));
                }
            }
        }
    }
    mistakes
}

/// The mode of a service that has said that it has no identity, of which the sidecar is not told.
fn disabled(service: &super::model::Service) -> Option<&str> {
    let mode = service.tls.as_ref()?.get_ref().mode.as_ref()?.get_ref();
    (mode == "disabled").then_some(mode)
}

/// The paths of values that both have, in the latter's order.
fn both(said: &toml::Table, given: &toml::Table, path: &mut Vec<PathStep>, found: &mut Vec<Vec<PathStep>>) {
    for (key, value) in given {
        path.push(PathStep::Key(key.clone()));
        match (said.get(key), value) {
            (Some(toml::Value::Table(said)), toml::Value::Table(given)) => both(said, given, path, found),
            (Some(_), _) => found.push(path.clone()),
            (None, _) => {}
        }
        path.pop();
    }
}

/// The protocols of the app's own port in `sidecar.inbound`, if the service has said it already.
fn protocols_of_the_app(service: &super::model::Service, given: &toml::Table) -> Vec<Vec<PathStep>> {
    let (Some(port), Some(_)) = (&service.port, &service.protocol) else { return Vec::new() };
    let items = given.get("inbound").and_then(toml::Value::as_array);
    let is_apps = |item: &toml::Value| {
        let number = item.get("port").and_then(toml::Value::as_integer);
        number == Some((*port.get_ref()).into()) && item.get("protocol").is_some()
    };
    let found = items.into_iter().flatten().enumerate().filter(|(_, item)| is_apps(item));
    let key = |key: &str| PathStep::Key(key.to_owned());
    found.map(|(item, _)| vec![key("inbound"), PathStep::Item(item), key("protocol")]).collect()
}

/// Where a service itself says what `path` says of its sidecars.
fn own_words(name: &Spanned<String>, service: &super::model::Service, path: &[PathStep]) -> Range<usize> {
    let first = match path.first() {
        Some(PathStep::Key(key)) => key.as_str(),
        _ => "",
    };
    let words = match first {
        "authorization" => service.authorization.as_ref().map(|given| {
            let said = given.get_ref().place(&path[1..], true);
            said.unwrap_or(given.span())
        }),
        "tls" => service.tls.as_ref().and_then(|tls| Some(tls.get_ref().mode.as_ref()?.span())),
        "identity" => service.tls.as_ref().map(Spanned::span),
        "inbound" => service.protocol.as_ref().map(Spanned::span),
        "register" => service.registry.as_ref().map(Spanned::span),
        "zone" => service.zones.iter().flatten().next().map(Spanned::span),
        _ => None,
    };
    words.unwrap_or(name.span())
}

fn twice_said(at: Range<usize>, path: &[PathStep], own: Range<usize>) -> Mistake {
    let keys = path.iter().filter_map(|step| match step {
        PathStep::Key(key) => Some(key.as_str()),
        PathStep::Item(_) => None,
    });
    let keys: Vec<&str> = keys.collect();
    let message = format!("`{}` follows from what the service says itself", keys.join("."));
    let mistake = Mistake::new(at, message, "says it once more").also(own, "said here");
    mistake.help("leave one of them out: only one could hold")
}

/// Lets the sidecar read what it would be given. `plan` is one with sidecars.
pub(super) fn check(file: &File, plan: &Plan) -> Result<(), Vec<Mistake>> {
    let mut mistakes = said_twice(file, plan);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    // Authorities come last, and have none.
    let own: Vec<&String> = plan.instances.iter().filter_map(|instance| instance.sidecar.as_ref()).collect();
    read(file, plan, &own, None, &mut mistakes);
    for (entry, written) in plan.timeline.iter().zip(&file.timeline) {
        if let (Action::Configure(Configure { service, configs, .. }), Some(asked)) =
            (&entry.action, &written.get_ref().configure)
        {
            let configs: Vec<_> = configs.iter().collect();
            if configs == own {
                let policy = &asked.get_ref().policy;
                let message = "the sidecars are told what they know already";
                let mistake = Mistake::new(policy.span(), message, "changes nothing");
                mistakes.push(
                    mistake.help("write what shall be different, such as { retry = { attempts = 0 } }"),
                );
                continue;
            }
            let change = Some((*service, asked.get_ref().policy.get_ref()));
            read(file, plan, &configs, change, &mut mistakes);
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

/// Lets the sidecar of each service read its file, which has a `change` of one service's policy in
/// it.
fn read(
    file: &File,
    plan: &Plan,
    configs: &[&String],
    change: Option<(usize, &Settings)>,
    mistakes: &mut Vec<Mistake>,
) {
    let Some(program) = sidecar::program(plan.sidecar) else { return };
    // Replicas of one service have the same keys.
    for (position, service) in plan.services.iter().enumerate() {
        let Some(config) = service.instances.first().and_then(|&i| configs.get(i)) else { continue };
        let Err(errors) = program.check(config) else { continue };
        let origin = Origin { file, plan, service: position, change, nodes: nodes(config) };
        for mistake in errors.iter().map(|error| origin.mistake(error)) {
            // A policy is part of every caller's file.
            let told = |m: &Mistake| (m.offset(), m.message()) == (mistake.offset(), mistake.message());
            if !mistakes.iter().any(told) {
                mistakes.push(mistake);
            }
        }
    }
}

/// A word of a generated file: where it is, by bytes and by keys.
struct Node {
    at: Range<usize>,
    path: Vec<PathStep>,
    is_key: bool,
}

fn nodes(text: &str) -> Vec<Node> {
    let mut all = Vec::new();
    if let Ok(root) = DeTable::parse(text) {
        table(root.get_ref(), &mut Vec::new(), &mut all);
    }
    all
}

fn table(table: &DeTable<'_>, path: &mut Vec<PathStep>, all: &mut Vec<Node>) {
    for (key, value) in table {
        path.push(PathStep::Key(key.get_ref().clone().into_owned()));
        all.push(Node { at: key.span(), path: path.clone(), is_key: true });
        value_of(value, path, all);
        path.pop();
    }
}

fn value_of(value: &Spanned<DeValue<'_>>, path: &mut Vec<PathStep>, all: &mut Vec<Node>) {
    all.push(Node { at: value.span(), path: path.clone(), is_key: false });
    match value.get_ref() {
        DeValue::Table(inner) => table(inner, path, all),
        DeValue::Array(items) => {
            for (position, item) in items.iter().enumerate() {
                path.push(PathStep::Item(position));
                value_of(item, path, all);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Where the words of a generated file come from.
struct Origin<'a> {
    file: &'a File,
    plan: &'a Plan,
    /// Whose sidecar reads it.
    service: usize,
    /// The service whose policy a timeline entry changes, and how.
    change: Option<(usize, &'a Settings)>,
    nodes: Vec<Node>,
}

impl Origin<'_> {
    /// What the sidecar says, about the scenario's words.
    fn mistake(&self, error: &proxy::config::ConfigError) -> Mistake {
        let labels: Vec<_> = error.labels().into_iter().flatten().collect();
        let words = |label: &miette::LabeledSpan| label.label().unwrap_or("here").to_owned();
        let message = error.message().to_owned();
        let placed = |label: &miette::LabeledSpan| Some((self.place(label.offset())?, words(label)));
        let mut places = labels.iter().filter_map(placed);
        let mistake = match places.next() {
            Some((at, label)) => Mistake::new(at, message, label),
            None => {
                let name = self.name(self.service);
                let message = format!("the sidecar of `{name}` refuses its configuration: {message}");
                Mistake::new(name.span(), message, "this service")
            }
        };
        let mistake = places.fold(mistake, |mistake, (at, label)| mistake.also(at, label));
        match error.help() {
            Some(help) => mistake.help(help.to_string()),
            None => mistake,
        }
    }

    /// Where the word at `offset` of the generated file is written in the scenario, if it is.
    fn place(&self, offset: usize) -> Option<Range<usize>> {
        let around = self.nodes.iter().filter(|node| node.at.contains(&offset));
        let node = around.min_by_key(|node| node.at.len())?;
        let callable: Vec<usize> =
            (0..self.plan.services.len()).filter(|&s| self.plan.services[s].port.is_some()).collect();
        let sidecar = self.model(self.service).sidecar.as_ref();
        let path = match &node.path[..] {
            [PathStep::Key(key), PathStep::Item(item), rest @ ..] if key == "cluster" => {
                match callable.get(*item) {
                    Some(&service) => {
                        let changed = self.change.filter(|(changed, _)| *changed == service);
                        if let Some(at) = changed.and_then(|(_, policy)| policy.place(rest, node.is_key)) {
                            return Some(at);
                        }
                        let policy = self.model(service).policy.as_ref()?;
                        let whole = || self.name(service).span();
                        return Some(policy.get_ref().place(rest, node.is_key).unwrap_or_else(whole));
                    }
                    None => {
                        let more = PathStep::Item(item - callable.len());
                        [&[PathStep::Key(key.clone()), more], rest].concat()
                    }
                }
            }
            path => path.to_vec(),
        };
        let given = sidecar.and_then(|given| given.get_ref().place(&path, node.is_key));
        given.or_else(|| match &path[..] {
            [PathStep::Key(key), rest @ ..] if key == "authorization" => {
                let given = self.model(self.service).authorization.as_ref()?;
                Some(given.get_ref().place(rest, node.is_key).unwrap_or(given.span()))
            }
            _ => None,
        })
    }

    fn name(&self, service: usize) -> &Spanned<String> {
        self.file.service.keys().nth(service).expect("the plan has the file's services, in its order")
    }

    fn model(&self, service: usize) -> &super::model::Service {
        self.file.service.values().nth(service).expect("the plan has the file's services, in its order")
    }
}
