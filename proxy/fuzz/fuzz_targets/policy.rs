//! Policies and paths of any kind: nothing panics, and the index decides as a walk through the file
//! does. The first byte says what the rest is: a configuration, YAML to import, a path, or choices
//! of which policies and requests are made.
#![no_main]

use std::net::IpAddr;

use http::header::HeaderMap;
use libfuzzer_sys::fuzz_target;
use proxy::authz::explain::explain;
use proxy::authz::import::{ImportOptions, import};
use proxy::authz::{Facts, Policies, RequestFacts, path};
use proxy::config::{self, Authorization, DefaultAction, PathNormalization, PolicyAction};
use proxy::spiffe_id::SpiffeId;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match (kind % 4, std::str::from_utf8(bytes)) {
        (0, Ok(text)) => {
            if let Ok(snapshot) = config::parse("x", &format!("service = 'x'\n{text}")) {
                requests(&snapshot.authorization, &[7, 1, 2, 3, 4, 5]);
            }
        }
        (1, Ok(text)) => {
            if let Ok(imported) = import(text, &ImportOptions::default()) {
                assert!(!imported.is_whole() || imported.remarks.iter().all(|remark| remark.line > 0));
            }
        }
        (2, Ok(text)) => paths(text),
        (3, _) => {
            let mut choices = Choices(bytes.iter());
            let text = policies(&mut choices);
            let snapshot = config::parse("x", &text).unwrap_or_else(|_| panic!("{text}"));
            requests(&snapshot.authorization, choices.0.as_slice());
        }
        _ => {}
    }
});

fn paths(text: &str) {
    for how in [PathNormalization::Base, PathNormalization::MergeSlashes, PathNormalization::DecodeAndMergeSlashes] {
        let Ok(once) = path::normalize(text, how) else { continue };
        assert_eq!(path::normalize(&once, how).as_deref(), Ok(&*once), "{text:?}");
        if text.starts_with('/') {
            assert!(once.starts_with('/') && !once.split('/').any(|part| part == ".."), "{text:?}: {once:?}");
        }
    }
}

struct Choices<'b>(std::slice::Iter<'b, u8>);

impl Choices<'_> {
    fn next(&mut self, of: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % of
    }

    fn one<'w>(&mut self, of: &[&'w str]) -> &'w str {
        of[self.next(of.len())]
    }
}

const PRINCIPALS: &[&str] = &["td/ns/a/sa/x", "td/ns/a/*", "*/sa/x", "td/ns/b/sa/y", "*", "td/*", "td/ns/ab/*"];
const NAMESPACES: &[&str] = &["a", "b", "a*", "*b", "*"];
const NETWORKS: &[&str] = &["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "fd00::/8", "::/0"];
const PATHS: &[&str] = &["/", "/a", "/a/*", "/a/b", "*/b", "*", "/a/{*}/c", "/a/{**}", "/ab*", "/a*"];
const HOSTS: &[&str] = &["o.example", "*.example", "o.*", "o.example:80", "*:80", "x", "*"];
const METHODS: &[&str] = &["GET", "P*", "*T", "*"];

fn policies(choices: &mut Choices<'_>) -> String {
    let default = choices.one(&["allow", "deny"]);
    let mut text = format!("service = 'x'\n[authorization]\ndefault = '{default}'\n");
    for n in 0..choices.next(6) {
        let action = choices.one(&["allow", "deny"]);
        text += &format!("[[authorization.policy]]\nname = 'p{n}'\naction = '{action}'\n");
        for _ in 0..=choices.next(2) {
            text += "[[authorization.policy.rule]]\n";
            for (part, keys) in [
                ("from", &[("principals", PRINCIPALS), ("namespaces", NAMESPACES), ("ip_blocks", NETWORKS)][..]),
                ("to", &[("paths", PATHS), ("hosts", HOSTS), ("methods", METHODS)]),
            ] {
                let entries: Vec<_> = (0..choices.next(3)).map(|_| entry(choices, keys)).collect();
                if !entries.is_empty() {
                    text += &format!("{part} = [{}]\n", entries.join(", "));
                }
            }
        }
    }
    text
}

fn entry(choices: &mut Choices<'_>, keys: &[(&str, &[&str])]) -> String {
    let mut parts = Vec::new();
    for not in ["", "not_"] {
        for (key, values) in keys {
            if choices.next(3) == 0 {
                let values: Vec<_> = (0..=choices.next(2)).map(|_| format!("'{}'", choices.one(values))).collect();
                parts.push(format!("{not}{key} = [{}]", values.join(", ")));
            }
        }
    }
    if parts.is_empty() {
        parts.push(format!("{} = ['{}']", keys[0].0, keys[0].1[0]));
    }
    format!("{{ {} }}", parts.join(", "))
}

/// Decides about some requests in both ways.
fn requests(config: &Authorization, bytes: &[u8]) {
    let (policies, mut choices) = (Policies::new(config), Choices(bytes.iter()));
    for _ in 0..4 {
        let identity = choices.one(&["", "td/ns/a/sa/x", "td/ns/b/sa/y", "td/ns/ab/sa/x", "td/x"]);
        let identity: Option<SpiffeId> =
            (!identity.is_empty()).then(|| format!("spiffe://{identity}").parse().expect("an id"));
        let source: IpAddr =
            choices.one(&["10.1.2.3", "10.1.0.1", "10.9.0.1", "11.0.0.1", "fd00::1"]).parse().expect("an address");
        let headers = HeaderMap::new();
        let request = RequestFacts {
            remote: source,
            host: choices.one(&["o.example", "o.example:80", "p.example", "x", "x:80", ""]),
            method: choices.one(&["GET", "PUT", "HEAD"]),
            path: choices.one(&["/", "/a", "/a/", "/a/b", "/a/x/c", "/ab", "/b"]),
            headers: &headers,
            token: None,
        };
        let destination = ([10, 0, 0, 9], 8080).into();
        let request = (choices.next(4) > 0).then_some(request);
        let facts = Facts { source, destination, identity: identity.as_ref(), request };
        let explained = explain(config, &facts);
        let first = |action| {
            let of = |policy: &&proxy::authz::explain::ExplainedPolicy| policy.action == action && !policy.dry_run;
            explained.iter().filter(of).find(|policy| policy.matches()).map(|policy| policy.name.clone())
        };
        let has_allow = config.policies.iter().any(|policy| policy.action == PolicyAction::Allow && !policy.dry_run);
        let expected = match (first(PolicyAction::Deny), first(PolicyAction::Allow)) {
            (Some(name), _) => (false, Some(name)),
            (None, Some(name)) => (true, Some(name)),
            (None, None) => (!has_allow && config.default == DefaultAction::Allow, None),
        };
        let decided = policies.decide(&facts).enforced;
        assert_eq!((decided.allowed, decided.rule.map(|rule| rule.policy)), expected, "{config:?} {facts:?}");
    }
}
