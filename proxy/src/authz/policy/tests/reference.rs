//! A reader of policies that knows no index and no clauses: it walks the configuration. What it
//! decides must be what is decided.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{Attribute, ValuePattern};

/// The values that an attribute has.
fn values(attribute: &Attribute, ask: &Ask) -> Vec<String> {
    let text = |text: &str| vec![text.to_owned()];
    match attribute {
        Attribute::Principal => ask.identity.iter().map(|id| id.principal().to_owned()).collect(),
        Attribute::Namespace => ask.identity.iter().filter_map(|id| id.namespace()).map(Into::into).collect(),
        Attribute::DestinationPort => vec![ask.port.to_string()],
        Attribute::SourceIp => vec![ask.source.to_string()],
        Attribute::RemoteIp => vec![ask.remote.filter(|_| ask.is_http).unwrap_or(ask.source).to_string()],
        Attribute::DestinationIp => text("10.0.0.9"),
        _ if !ask.is_http => Vec::new(),
        Attribute::Host => text(&ask.host),
        Attribute::Method => text(&ask.method),
        Attribute::Path => text(&ask.path),
        Attribute::Header(name) => {
            ask.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
        }
        Attribute::Claim(keys) => {
            let found =
                ask.token.as_ref().and_then(|token| token.claim(keys)).and_then(|claim| claim.as_str());
            found.map(text).unwrap_or_default()
        }
        other => panic!("{other} is not drawn"),
    }
}

fn fits(attribute: &Attribute, pattern: &ValuePattern, value: &str) -> bool {
    let bare = match value.split_once(':') {
        Some((name, _)) if *attribute == Attribute::Host => name,
        _ => value,
    };
    match pattern {
        ValuePattern::Exact(text) => value == text || bare == text,
        ValuePattern::Prefix(text) => value.starts_with(text.as_str()),
        ValuePattern::Suffix(text) => value.ends_with(text.as_str()) || bare.ends_with(text.as_str()),
        ValuePattern::Present => !value.is_empty(),
        ValuePattern::Template(template) => template.matches(value),
        ValuePattern::Network(network) => network.contains(&value.parse::<IpAddr>().unwrap()),
        ValuePattern::Port(port) => value == port.to_string(),
    }
}

fn holds(test: &AttributeTest, ask: &Ask) -> bool {
    let values = values(&test.attribute, ask);
    let any = |patterns: &[ValuePattern]| {
        patterns.iter().any(|pattern| values.iter().any(|value| fits(&test.attribute, pattern, value)))
    };
    (test.values.is_empty() || any(&test.values)) && !any(&test.not_values)
}

fn matches(rule: &PolicyRule, ask: &Ask, is_allow: bool) -> bool {
    let mut tests = rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
    if !ask.is_http && is_allow && tests.any(|test| test.attribute.is_http()) {
        return false;
    }
    let holds = |test: &AttributeTest| (!ask.is_http && test.attribute.is_http()) || holds(test, ask);
    let one_of =
        |lists: &[Vec<AttributeTest>]| lists.is_empty() || lists.iter().any(|tests| tests.iter().all(holds));
    one_of(&rule.from) && one_of(&rule.to) && rule.when.iter().all(holds)
}

fn decide(config: &Authorization, ask: &Ask) -> String {
    let first = |action: PolicyAction| {
        let policies = config.policies.iter().filter(|policy| policy.action == action);
        let mut rules = policies.flat_map(|policy| (1..).zip(&policy.rules).map(move |rule| (policy, rule)));
        let found = rules.find(|(_, (_, rule))| matches(rule, ask, action == PolicyAction::Allow));
        found.map(|(policy, (number, _))| format!("{}.{number}", policy.name))
    };
    if let Some(rule) = first(PolicyAction::Deny) {
        return format!("- {rule}");
    }
    if let Some(rule) = first(PolicyAction::Allow) {
        return format!("+ {rule}");
    }
    let open = config.default == DefaultAction::Allow;
    let has_allow = config.policies.iter().any(|policy| policy.action == PolicyAction::Allow);
    if open && !has_allow { "+".into() } else { "-".into() }
}

fn list(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(of), 1..4).prop_map(|values| {
        let quoted: Vec<_> = values.iter().map(|value| format!("'{value}'")).collect();
        format!("[{}]", quoted.join(", "))
    })
}

const PRINCIPALS: &[&str] =
    &["td/ns/a/sa/x", "td/ns/a/*", "*/sa/x", "td/ns/b/sa/y", "*", "td/*", "td/ns/ab/*"];
const NAMESPACES: &[&str] = &["a", "b", "a*", "*b"];
const NETWORKS: &[&str] = &["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "fd00::/8", "11.0.0.0/9"];
const PATHS: &[&str] = &["/", "/a", "/a/*", "/a/b", "*/b", "*", "/a/{*}/c", "/a/{**}", "/ab*", "/a*"];
const HOSTS: &[&str] = &["o.example", "*.example", "o.*", "o.example:80", "*:80", "x"];
const HEADERS: &[&str] = &["1", "2", "1*", "*"];

/// Keys of a `from` or a `to`, each perhaps there.
fn keys(of: Vec<(&'static str, &'static [&'static str])>) -> impl Strategy<Value = String> {
    let one = |(key, values): (&'static str, &'static [&'static str])| {
        list(values).prop_map(move |values| format!("{key} = {values}"))
    };
    let all: Vec<_> = of.into_iter().map(|key| prop::option::weighted(0.35, one(key))).collect();
    all.prop_filter_map("nothing is said", |keys| {
        let said: Vec<String> = keys.into_iter().flatten().collect();
        (!said.is_empty()).then(|| format!("{{ {} }}", said.join(", ")))
    })
}

fn rule() -> impl Strategy<Value = String> {
    let from = keys(vec![
        ("principals", PRINCIPALS),
        ("not_principals", PRINCIPALS),
        ("namespaces", NAMESPACES),
        ("not_namespaces", NAMESPACES),
        ("ip_blocks", NETWORKS),
        ("not_ip_blocks", NETWORKS),
    ]);
    let to = keys(vec![
        ("paths", PATHS),
        ("not_paths", PATHS),
        ("hosts", HOSTS),
        ("not_hosts", HOSTS),
        ("methods", &["GET", "P*", "*"]),
    ]);
    let when = (prop::sample::select(&["request.headers[x]", "request.auth.claims[c]"][..]), list(HEADERS))
        .prop_map(|(key, values)| format!("{{ key = '{key}', values = {values} }}"));
    let lists = |of: BoxedStrategy<String>| prop::collection::vec(of, 0..3);
    (lists(from.boxed()), lists(to.boxed()), lists(when.boxed())).prop_map(|(from, to, when)| {
        let part = |key: &str, of: Vec<String>| {
            if of.is_empty() { None } else { Some(format!("{key} = [{}]", of.join(", "))) }
        };
        let parts = [part("from", from), part("to", to), part("when", when)];
        format!("{{ {} }}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    })
}

fn policies() -> impl Strategy<Value = String> {
    let action = prop::sample::select(&["allow", "deny"][..]);
    let one = (action, prop::collection::vec(rule(), 1..3));
    (any::<bool>(), prop::collection::vec(one, 0..8)).prop_map(|(open, all)| {
        let policies = all.iter().enumerate();
        let text = policies.map(|(n, (action, rules))| policy(&format!("p{n}"), action, &rules.join(", ")));
        format!("default = '{}'\n{}", if open { "allow" } else { "deny" }, text.collect::<String>())
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let identity = prop::sample::select(&["", "td/ns/a/sa/x", "td/ns/b/sa/y", "td/ns/ab/sa/x", "td/x"][..]);
    let source =
        prop::sample::select(&["10.1.2.3", "10.1.0.1", "10.9.0.1", "11.0.0.1", "fd00::1", "12.0.0.1"][..]);
    let path = prop::sample::select(&["/", "/a", "/a/", "/a/b", "/a/x/c", "/ab", "/b", "/a/b/c/b"][..]);
    let host = prop::sample::select(&["o.example", "o.example:80", "p.example", "x", "x:80", "o.b"][..]);
    let method = prop::sample::select(&["GET", "PUT", "HEAD"][..]);
    let value = || prop::option::of(prop::sample::select(&["1", "2", "11", ""][..]));
    (any::<bool>(), identity, source, path, host, method, value(), value()).prop_map(
        |(is_http, identity, source, path, host, method, header, claim)| {
            let mut ask = get(path).from(source).host(host).method(method);
            ask.is_http = is_http;
            ask.identity = (!identity.is_empty()).then(|| format!("spiffe://{identity}").parse().unwrap());
            if let Some(header) = header {
                ask = ask.header("x", header);
            }
            if let Some(claim) = claim {
                ask = ask.token(json!({ "c": claim }));
            }
            ask
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_index_finds_what_a_walk_through_the_file_finds(text in policies(), asks in prop::collection::vec(ask(), 1..12)) {
        let config = authorization(&text);
        let compiled = Policies::new(&config);
        for ask in asks {
            let decision = ask.with(PathNormalization::None, |facts| compiled.decide(facts));
            prop_assert_eq!(ruling(&decision.enforced), decide(&config, &ask), "{} {:?}", text, ask);
        }
    }
}
