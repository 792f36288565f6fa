//! Keys of the sidecar's own configuration that a scenario passes on, each word with its place.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_spanned::Spanned;

use super::diagnose::Mistake;

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
    pub fn plain(&self) -> toml::Table {
        self.0.iter().map(|(key, value)| (key.get_ref().clone(), value.get_ref().plain())).collect()
    }

    fn get(&self, key: &str) -> Option<(&Spanned<String>, &Spanned<Setting>)> {
        self.0.iter().find(|(k, _)| k.get_ref() == key)
    }

    /// Where the words of a path stand, or those of as much of it as is written here.
    pub(crate) fn place(&self, path: &[PathStep], of_key: bool) -> Option<Range<usize>> {
        let [PathStep::Key(key), rest @ ..] = path else { return None };
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

    fn place(&self, path: &[PathStep], of_key: bool) -> Option<Range<usize>> {
        match (self, path) {
            (Setting::Table(table), _) => table.place(path, of_key),
            (Setting::List(items), [PathStep::Item(item), rest @ ..]) => {
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

/// Refuses keys of a cluster that are the lab's to decide.
pub fn reserved_of_cluster(policy: &Spanned<Settings>, mistakes: &mut Vec<Mistake>) {
    refuse(policy, &OURS_OF_CLUSTER, mistakes);
}

/// Refuses `ours`, which are the lab's to decide.
pub fn refuse(given: &Spanned<Settings>, ours: &[&str], mistakes: &mut Vec<Mistake>) {
    for (key, _) in ours.iter().filter_map(|key| given.get_ref().get(key)) {
        let message = format!("`{key}` is for the lab to decide");
        let mistake = Mistake::new(key.span(), message, "follows from the scenario");
        mistakes.push(mistake.help("leave it out"));
    }
}

/// A step from a table or list into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathStep {
    /// By key.
    Key(String),
    /// By position.
    Item(usize),
}
