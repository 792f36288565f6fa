//! `docs/metrics.md` is written from the metrics of the running code, and this test fails if it is
//! not what they make of it. `UPDATE_METRICS=1 cargo test -p proxy --test metrics_page` writes the
//! page anew.
//!
//! A family without a sample does not appear in a scrape, so the test uses everything that the
//! sidecar counts. That nothing was forgotten follows from the sources: each name that they
//! register must be on the page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proxy::authz::jwt::TokenError;
use proxy::telemetry::{ENDPOINT_STATES, Metrics};
use regex::Regex;

/// Labels whose values the configuration decides. Of every other label the page lists the values.
const NAMES: [&str; 5] = ["cluster", "endpoint", "route", "provider", "le"];

const HEAD: &str = "\
# The sidecar's metrics

`/metrics` on port 15020 speaks OpenMetrics 1.0, or the older text format 0.0.4 if `Accept` prefers
`text/plain`. A metric appears once its cluster, route, endpoint or event exists. The terms are
explained in [the sidecar's configuration](sidecar.md).

Times are in seconds. `side` is `outbound` for what the app asks of others, and `inbound` for what
others ask of the app.

This page is generated: `UPDATE_METRICS=1 cargo test -p proxy --test metrics_page` writes it anew.

";

/// One metric family, as a scrape shows it.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    /// Labels in the order of the scrape, with the values that were seen.
    labels: Vec<(String, BTreeSet<String>)>,
}

#[test]
fn the_page_of_metrics_is_what_the_sidecar_exposes() {
    let page = page(&families(&scrape()));
    let path = root().join("docs/metrics.md");
    if std::env::var_os("UPDATE_METRICS").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/metrics.md is out of date; UPDATE_METRICS=1 cargo test -p proxy --test metrics_page writes it anew"
    );
}

#[test]
fn every_metric_that_the_sources_register_is_on_the_page() {
    let exposed = families(&scrape());
    let registered = registered(&root().join("proxy/src"));
    assert!(registered.len() > 40, "the sources register metrics in a way that this test does not know");
    let is_exposed = |name: &String| {
        let name = format!("proxy_{name}");
        ["", "_total", "_seconds"].iter().any(|suffix| exposed.contains_key(&format!("{name}{suffix}")))
    };
    let missing: Vec<_> = registered.iter().filter(|name| !is_exposed(name)).collect();
    assert!(missing.is_empty(), "`scrape` in this test must use these, too: {missing:?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A scrape of a sidecar to which everything has happened that it counts.
fn scrape() -> String {
    let metrics = Metrics::default();
    for side in ["inbound", "outbound"] {
        metrics.side(side);
    }
    metrics.single("inbound", "app", "10.0.0.1:8080");
    let cluster = metrics.cluster("outbound", "orders");
    let _endpoint = metrics.endpoint("outbound", "orders", "10.0.0.2:8080", &cluster);
    metrics.route("orders", "canary");
    metrics.decisions();
    for result in ["verified", "remembered"].into_iter().chain(TokenError::ALL.map(TokenError::label)) {
        metrics.token("idp", result);
    }
    metrics.key_set("idp");
    metrics.authorizer("opa");
    metrics.discovery("orders");
    for state in ENDPOINT_STATES {
        metrics.set_endpoints("orders", state, 1);
    }
    for side in ["inbound", "outbound"] {
        metrics.set_concurrency(side, "orders", 1, Some(20));
    }
    for probe in ["startup", "readiness", "liveness"] {
        metrics.set_probe(probe, true);
    }
    metrics.reloaded(true);
    metrics.certificate(true, None);
    metrics.reloaded(false);
    metrics.certificate(false, None);
    metrics.text()
}

/// The families of a scrape by the name under which people query them.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    let (mut help, mut current) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (_, text) = rest.split_once(' ').expect("a name and a text");
            help = text.trim_end_matches('.').to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            let suffix = if kind == "counter" { "_total" } else { "" };
            current = format!("{name}{suffix}");
            let family = Family { help: help.clone(), kind: kind.to_owned(), labels: Vec::new() };
            assert!(families.insert(current.clone(), family).is_none(), "{current} is exposed twice");
        } else if !line.starts_with('#') {
            let family = families.get_mut(&current).expect("a type comes before its samples");
            for (label, value) in labels(line) {
                match family.labels.iter_mut().find(|(name, _)| *name == label) {
                    Some((_, values)) => _ = values.insert(value),
                    None => family.labels.push((label, [value].into())),
                }
            }
        }
    }
    families
}

/// The labels of one sample.
fn labels(line: &str) -> Vec<(String, String)> {
    let Some((_, labels)) = line.split_once('{') else { return Vec::new() };
    let (labels, _) = labels.rsplit_once('}').expect("the braces are closed");
    let pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned())).collect()
}

/// The page: a table of all families, and one of the values of their labels.
fn page(families: &BTreeMap<String, Family>) -> String {
    let mut page = HEAD.to_owned();
    page += "| metric | type | labels | meaning |\n|---|---|---|---|\n";
    for (name, Family { help, kind, labels }) in families {
        let labels: Vec<_> =
            labels.iter().filter(|(l, _)| l != "le").map(|(l, _)| format!("`{l}`")).collect();
        writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).expect("a string");
    }
    page += "\n## Values of labels\n\n| metric | label | values |\n|---|---|---|\n";
    for (name, family) in families {
        for (label, values) in &family.labels {
            if label == "side" || NAMES.contains(&label.as_str()) {
                continue;
            }
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            writeln!(page, "| `{name}` | `{label}` | {} |", values.join(", ")).expect("a string");
        }
    }
    page
}

/// The names that the sources register: a name and a help text, side by side.
fn registered(folder: &Path) -> BTreeSet<String> {
    let pair = Regex::new(r#""([a-z][a-z0-9_]*)",\s+"(?:[A-Z]|1 )"#).expect("a pattern");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            names.append(&mut registered(&path));
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        if text.contains("prometheus_client") {
            names.extend(pair.captures_iter(&text).map(|found| found[1].to_owned()));
        }
    }
    names
}
