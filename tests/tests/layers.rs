//! Imports run one way: a folder of a crate imports only from those below it, so that it can be
//! read, tested and replaced without what stands above.
//!
//! The order is written down here, and the sources are read as text: `crate::name` and what `use
//! crate::{...}` lists. What only tests import does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders of `proxy/src` (and files that stand for one), from the top. Those of one line know
/// nothing of each other.
const PROXY: &[&[&str]] = &[
    &["cli"],
    &["app"],
    &["command", "inbound", "outbound"],
    &["key_sets", "side"],
    &["discovery", "health"],
    &["balance"],
    &["admin", "endpoint", "retry", "route"],
    &["authz", "identity"],
    &["ca"],
    &["http", "limit"],
    &["capture", "tcp"],
    &["connect", "lines"],
    &["tls"],
    &["access_log", "audit", "detect"],
    &["telemetry", "world"],
    &["config", "connection"],
    &["error"],
    &["backoff", "drain", "grpc", "host", "jwk_set", "mutant", "output", "spiffe_id"],
];

/// The same of `lab/src`.
const LAB: &[&[&str]] = &[
    &["cli"],
    &["search", "swarm"],
    &["history", "kernel"],
    &["report", "scenario", "sim"],
    &["run", "sidecar"],
    &["events", "verdict"],
    &["authority", "world"],
    &["metrics", "plan"],
    &["fault", "load"],
    &["app"],
    &["syntax"],
    &["mesh"],
    &["fabric"],
    &["glob", "readable", "statistic", "traffic"],
];

#[test]
fn a_folder_of_the_proxy_imports_only_from_below() {
    assert_eq!(upward("proxy", PROXY), Vec::<String>::new());
}

#[test]
fn a_folder_of_the_lab_imports_only_from_below() {
    assert_eq!(upward("lab", LAB), Vec::<String>::new());
}

#[test]
fn an_import_is_seen_however_it_is_written() {
    let text = "//! crate::a is prose\nuse crate::b;\nuse crate::{c, d::{E, F}, g};\nfn f() { crate::h::i() } // crate::j\n\
                #[cfg(test)]\nmod tests { use crate::k; }\n";
    assert_eq!(imports(text), ["b", "c", "d", "g", "h"].map(String::from).into());
}

/// What breaks the order, a sentence each.
fn upward(krate: &str, order: &[&[&str]]) -> Vec<String> {
    let floor: BTreeMap<&str, usize> = order
        .iter()
        .rev()
        .enumerate()
        .flat_map(|(floor, names)| names.iter().map(move |n| (*n, floor)))
        .collect();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("src");
    let mut wrong = Vec::new();
    for file in files(&source) {
        let inside = file.strip_prefix(&source).expect("it is inside").with_extension("");
        let name = inside.iter().next().and_then(|name| name.to_str()).expect("a name").to_owned();
        if ["lib", "main"].contains(&&*name) {
            continue;
        }
        let Some(own) = floor.get(&*name) else {
            wrong.push(format!("{krate}/src/{name} has no place in the order"));
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("a source");
        for import in imports(&text) {
            // The others are macros, which stand for what they call.
            let Some(other) = floor.get(&*import) else { continue };
            if import != name && other >= own {
                wrong.push(format!("{} imports {import}, which is not below it", file.display()));
            }
        }
    }
    wrong
}

/// Every source below `folder` that is not only for tests.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let for_tests = stem.ends_with("tests") || ["fake", "keys"].contains(&stem);
        if path.is_dir() {
            found.extend(files(&path));
        } else if !for_tests {
            found.push(path);
        }
    }
    found
}

/// The folders of its own crate that a source imports from.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => found.extend(listed(list)),
            None => found.extend(first_word(rest)),
        }
    }
    found
}

/// The first words of a list's parts, up to the brace that ends it.
fn listed(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                parts.last_mut().expect("there is one").push(c);
            }
        }
    }
    parts.iter().filter_map(|part| first_word(part.trim_start())).collect()
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}
