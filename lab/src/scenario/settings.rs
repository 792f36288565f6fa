//! Keys of the sidecar's own configuration that a scenario passes on: `[service.NAME.policy]` and
//! `[service.NAME.sidecar]`.
//!
//! The lab does not know what they mean, and need not: `check` lets the sidecar read the very file
//! that it would be given and tells its complaints in the scenario's own words, at the scenario's
//! own lines. So a key that the sidecar learns tomorrow can be used without a change here.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use miette::Diagnostic;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnose::Mistake;
use super::model::File;
use crate::plan::{Action, Plan};

/// Keys of a sidecar that follow from the scenario.
const OURS_OF_SIDECAR: [&str; 4] = ["service", "instance", "seed", "listen"];
/// Keys of a cluster that follow from the scenario.
const OURS_OF_CLUSTER: [&str; 2] = ["name", "addresses"];

/// A table of anything, each word with its place.
#[derive(Debug, Clone, Default)]
pub struct Settings(BTreeMap<Spanned<String>, Spanned<Setting>>);

#[derive(Debug, Clone)]
enum Setting {
    Plain(toml::Value),
    List(Vec<Spanned<Setting>>),
    Table(Settings),
}

impl Settings {
    /// The same without places.
    pub(super) fn plain(&self) -> toml::Table {
        self.0.iter().map(|(key, value)| (key.get_ref().clone(), value.get_ref().plain())).collect()
    }

    fn get(&self, key: &str) -> Option<(&Spanned<String>, &Spanned<Setting>)> {
        self.0.iter().find(|(k, _)| k.get_ref() == key)
    }

    /// Where the words of a path stand, or those of as much of it as is written here.
    fn place(&self, path: &[Step], of_key: bool) -> Option<Range<usize>> {
        let [Step::Key(key), rest @ ..] = path else { return None };
        let (key, value) = self.get(key)?;
        match rest {
            [] if of_key => Some(key.span()),
            [] => Some(value.span()),
            _ => Some(value.get_ref().place(rest, of_key).unwrap_or(key.span())),
        }
    }
}

impl Setting {
    fn plain(&self) -> toml::Value {
        match self {
            Setting::Plain(value) => value.clone(),
            Setting::List(items) => {
                items.iter().map(|item| item.get_ref().plain()).collect::<Vec<_>>().into()
            }
            Setting::Table(table) => table.plain().into(),
        }
    }

    fn place(&self, path: &[Step], of_key: bool) -> Option<Range<usize>> {
        match (self, path) {
            (Setting::Table(table), _) => table.place(path, of_key),
            (Setting::List(items), [Step::Item(item), rest @ ..]) => {
                let item = items.get(*item)?;
                Some(item.get_ref().place(rest, of_key).unwrap_or(item.span()))
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Settings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of the sidecar's keys, such as { retry = { attempts = 0 } }")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut settings = Settings::default();
                while let Some((key, value)) = map.next_entry()? {
                    settings.0.insert(key, value);
                }
                Ok(settings)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Setting;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value that the sidecar knows")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Setting, E> {
                Ok(Setting::Plain(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Setting, E> {
                Ok(Setting::Plain(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Setting, E> {
                Ok(Setting::Plain(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Setting, E> {
                Ok(Setting::Plain(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Setting, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Setting::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Setting, A::Error> {
                let mut table = Settings::default();
                while let Some((key, value)) = map.next_entry()? {
                    table.0.insert(key, value);
                }
                Ok(Setting::Table(table))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Puts the keys of a table into another, table by table; what both have is the former's.
pub fn merge(table: &mut toml::Table, more: toml::Table) {
    for (key, value) in more {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(more)) => merge(inner, more),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

/// Refuses keys that are the lab's to decide.
pub(super) fn reserved(service: &super::model::Service, mistakes: &mut Vec<Mistake>) {
    let tables = [(&service.policy, &OURS_OF_CLUSTER[..]), (&service.sidecar, &OURS_OF_SIDECAR[..])];
    for (given, ours) in tables {
        given.iter().for_each(|given| refuse(given, ours, mistakes));
    }
}

/// The same for keys of a cluster alone.
pub(super) fn reserved_of_cluster(policy: &Spanned<Settings>, mistakes: &mut Vec<Mistake>) {
    refuse(policy, &OURS_OF_CLUSTER, mistakes);
}

fn refuse(given: &Spanned<Settings>, ours: &[&str], mistakes: &mut Vec<Mistake>) {
    for (key, _) in ours.iter().filter_map(|key| given.get_ref().get(key)) {
        let message = format!("`{key}` is for the lab to decide");
        let mistake = Mistake::new(key.span(), message, "follows from the scenario");
        mistakes.push(mistake.help("leave it out"));
    }
}

/// Lets the sidecar read what it would be given. `plan` is one with sidecars.
pub(super) fn check(file: &File, plan: &Plan) -> Result<(), Vec<Mistake>> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    let own: Vec<Option<&String>> = plan.instances.iter().map(|instance| instance.sidecar.as_ref()).collect();
    read(file, plan, &own, None, &mut mistakes);
    for (entry, written) in plan.timeline.iter().zip(&file.timeline) {
        if let (Action::Configure { service, configs, .. }, Some(asked)) =
            (&entry.action, &written.get_ref().configure)
        {
            let configs: Vec<_> = configs.iter().map(Some).collect();
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
    configs: &[Option<&String>],
    change: Option<(usize, &Settings)>,
    mistakes: &mut Vec<Mistake>,
) {
    // Replicas of one service have the same keys.
    for (position, service) in plan.services.iter().enumerate() {
        let Some(config) = service.instances.first().and_then(|&i| configs[i]) else { continue };
        let Err(errors) = proxy::config::parse("sidecar.toml", config) else { continue };
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

/// A step from a table or list into it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// A word of a generated file: where it is, by bytes and by keys.
struct Node {
    at: Range<usize>,
    path: Vec<Step>,
    is_key: bool,
}

fn nodes(text: &str) -> Vec<Node> {
    let mut all = Vec::new();
    if let Ok(root) = DeTable::parse(text) {
        table(root.get_ref(), &mut Vec::new(), &mut all);
    }
    all
}

fn table(table: &DeTable<'_>, path: &mut Vec<Step>, all: &mut Vec<Node>) {
    for (key, value) in table {
        path.push(Step::Key(key.get_ref().clone().into_owned()));
        all.push(Node { at: key.span(), path: path.clone(), is_key: true });
        value_of(value, path, all);
        path.pop();
    }
}

fn value_of(value: &Spanned<DeValue<'_>>, path: &mut Vec<Step>, all: &mut Vec<Node>) {
    all.push(Node { at: value.span(), path: path.clone(), is_key: false });
    match value.get_ref() {
        DeValue::Table(inner) => table(inner, path, all),
        DeValue::Array(items) => {
            for (position, item) in items.iter().enumerate() {
                path.push(Step::Item(position));
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
            [Step::Key(key), Step::Item(item), rest @ ..] if key == "cluster" => match callable.get(*item) {
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
                    let more = Step::Item(item - callable.len());
                    [&[Step::Key(key.clone()), more], rest].concat()
                }
            },
            path => path.to_vec(),
        };
        sidecar?.get_ref().place(&path, node.is_key)
    }

    fn name(&self, service: usize) -> &Spanned<String> {
        self.file.service.keys().nth(service).expect("the plan has the file's services, in its order")
    }

    fn model(&self, service: usize) -> &super::model::Service {
        self.file.service.values().nth(service).expect("the plan has the file's services, in its order")
    }
}
