//! Every key of the file, changed by a reload: it is in the snapshot that comes into force, or it
//! is named as one that is only read at start. A key without a row here fails the test.

use std::collections::BTreeSet;

use super::keep_from_start;
use crate::config::{Snapshot, parse};
use access::ACCESS;
use rows::EVERY;

mod access;
mod rows;

const BASE: &str = "service = 'web'
#top
[[inbound]]
port = 8080
#inbound
[[cluster]]
name = 'orders'
addresses = ['10.96.0.10:80']
endpoints = ['10.0.0.11:8080']
#cluster
[[cluster.route]]
#match
#route
[[cluster]]
name = 'next'
addresses = ['10.96.0.20:80']
endpoints = ['10.0.0.21:8080']
";

/// The model's own text, so that no key is forgotten.
const MODEL: [&str; 15] = [
    include_str!("../model/access_log.rs"),
    include_str!("../model/audit.rs"),
    include_str!("../model/mod.rs"),
    include_str!("../model/adaptive.rs"),
    include_str!("../model/authorization.rs"),
    include_str!("../model/balance.rs"),
    include_str!("../model/outlier_detection.rs"),
    include_str!("../model/cluster.rs"),
    include_str!("../model/discovery.rs"),
    include_str!("../model/health.rs"),
    include_str!("../model/identity.rs"),
    include_str!("../model/jwt.rs"),
    include_str!("../model/limits.rs"),
    include_str!("../model/retry.rs"),
    include_str!("../model/route.rs"),
];

/// Keys of a table: what is written for `KEY` and for the value `V`, at which marks of [`BASE`],
/// and one value after the other for each key. What a key needs beside it stands behind its second
/// value.
struct Keys {
    table: &'static str,
    at: &'static [&'static str],
    prefix: &'static str,
    keys: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

const fn keys(
    table: &'static str,
    at: &'static [&'static str],
    prefix: &'static str,
    keys: &'static [(&'static str, &'static str, &'static str, &'static str)],
) -> Keys {
    Keys { table, at, prefix, keys }
}

/// The file in which a key has this value, if it is written at this mark.
fn file(at: &str, key: &str, value: &str, beside: &str) -> String {
    let line = format!("{key} = {value}");
    let own = key.rsplit('.').next().unwrap_or(key);
    let lines = match beside {
        "MATCH" => return BASE.replace("[[cluster.route]]\n", "").replace(at, &line),
        beside if beside.contains("KEY") => beside.replace("KEY", &format!("{own} = {value}")),
        beside => format!("{line}\n{beside}"),
    };
    let endpoints = "endpoints = ['10.0.0.11:8080']";
    match at {
        "INSTEAD" => BASE.replacen(beside, value, 1),
        "ENDPOINT" => {
            BASE.replace(endpoints, &format!("endpoints = [{{ {} }}]", lines.trim().replace('\n', ", ")))
        }
        "DISCOVERY" => {
            BASE.replace(endpoints, &format!("discovery = {{ {} }}", lines.trim().replace('\n', ", ")))
        }
        at => BASE.replacen(at, &lines, 1),
    }
}

/// `Table.key` of every key in the model that is no table itself.
fn keys_of_the_model() -> BTreeSet<String> {
    let lines = || MODEL.into_iter().flat_map(str::lines);
    let tables: Vec<_> = lines().filter_map(|l| l.strip_prefix("pub struct ")?.split(' ').next()).collect();
    let (mut table, mut found) = ("", BTreeSet::new());
    for line in lines() {
        if let Some(name) = line.strip_prefix("pub struct ") {
            table = name.split(' ').next().unwrap_or(name);
        }
        let Some((key, kind)) = line.strip_prefix("    pub ").and_then(|field| field.split_once(": ")) else {
            continue;
        };
        let mut words = kind.split(|c: char| !c.is_alphanumeric());
        let is_table = words.any(|word| tables.contains(&word));
        // The file of endpoints is another one, and it is watched by itself.
        if !is_table && table != "EndpointsFile" {
            found.insert(format!("{table}.{key}"));
        }
    }
    found
}

fn snapshot(text: &str) -> Snapshot {
    parse("sidecar.toml", text).unwrap_or_else(|e| panic!("{text}\n{:?}", miette::Report::new(e)))
}

#[test]
fn every_key_is_in_force_after_a_reload_or_named_as_one_that_is_read_at_start() {
    let mut missing = keys_of_the_model();
    let mut only_at_start = BTreeSet::new();
    for Keys { table, at, prefix, keys } in EVERY.iter().chain(ACCESS) {
        for (key, before, after, beside) in *keys {
            missing.remove(&format!("{table}.{key}"));
            for at in *at {
                let text = |value| file(at, &format!("{prefix}{key}"), value, beside);
                let (start, mut new) = (snapshot(&text(before)), snapshot(&text(after)));
                let asked_for = new.clone();
                assert_ne!(start, new, "{table}.{key} means nothing");
                let ignored = keep_from_start(&mut new, &start);
                if ignored.is_empty() {
                    assert_eq!(new, asked_for, "{table}.{key}");
                } else {
                    only_at_start.extend(ignored.iter().map(|key| key.split('.').next().unwrap_or(key)));
                    assert!(new == start || *key == "service", "{table}.{key}: {ignored:?}");
                }
            }
        }
    }
    assert_eq!(missing, BTreeSet::new(), "these need a row");
    let page = include_str!("../../../../docs/sidecar.md");
    let named = page
        .split("\n\n")
        .find(|part| part.ends_with("are read at start only."))
        .expect("the page says which");
    let named: BTreeSet<_> =
        named.split('`').skip(1).step_by(2).map(|key| key.trim_matches(['[', ']'])).collect();
    assert_eq!(named, only_at_start);
}
