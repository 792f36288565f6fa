//! Why a decision is what it is: each policy and each of its rules, and the first test of a rule
//! that does not hold.
//!
//! It walks the configuration and has no index, so it is for people and not for requests. What it
//! says matches is what [`Policies`](super::Policies) decides by: they share the tests.

use std::fmt;
use std::sync::Arc;

use super::facts::Facts;
use super::values::CompiledTest;
use crate::config::{Attribute, AttributeTest, Authorization, PolicyAction, PolicyRule, ValuePattern};

/// What a policy makes of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// What it does with what it matches.
    pub action: PolicyAction,
    /// Whether it decides nothing.
    pub dry_run: bool,
    /// Of each of its rules, why it does not match; `None` if it does.
    pub rules: Vec<Option<String>>,
}

impl ExplainedPolicy {
    /// Whether one of its rules matches.
    pub fn matches(&self) -> bool {
        self.rules.iter().any(Option::is_none)
    }
}

/// In lines that begin with the policy's name.
impl fmt::Display for ExplainedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            PolicyAction::Allow => "allow",
            PolicyAction::Deny => "deny",
            PolicyAction::Audit => "audit",
            PolicyAction::Custom(_) => "custom",
        };
        let dry = if self.dry_run { ", dry run" } else { "" };
        let outcome = if self.matches() { "matches" } else { "does not match" };
        writeln!(f, "{} ({action}{dry}) {outcome}", self.name)?;
        for (number, rule) in (1..).zip(&self.rules) {
            let why = rule.as_deref().unwrap_or("matches");
            writeln!(f, "  rule {number}: {why}")?;
        }
        if self.rules.is_empty() {
            writeln!(f, "  it has no rule")?;
        }
        Ok(())
    }
}

/// What each policy makes of `facts`, in the order of the file.
pub fn explain(config: &Authorization, facts: &Facts<'_>) -> Vec<ExplainedPolicy> {
    let explained = config.policies.iter().map(|policy| ExplainedPolicy {
        name: policy.name.clone(),
        action: policy.action,
        dry_run: policy.dry_run,
        rules: policy.rules.iter().map(|rule| mismatch(rule, policy.action, facts)).collect(),
    });
    explained.collect()
}

/// Why a rule does not match.
fn mismatch(rule: &PolicyRule, action: PolicyAction, facts: &Facts<'_>) -> Option<String> {
    let is_http = facts.request.is_some();
    let mut all = rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
    if !is_http && action == PolicyAction::Allow && all.any(|test| test.attribute.is_http()) {
        return Some("it asks for something of HTTP, and this is no HTTP".into());
    }
    let fails = |test: &&AttributeTest| {
        (is_http || !test.attribute.is_http()) && !CompiledTest::new(test).holds(facts)
    };
    let first = |tests: &[AttributeTest]| tests.iter().find(fails).map(|test| failure(test, facts));
    for (part, lists) in [("from", &rule.from), ("to", &rule.to)] {
        let failures: Vec<_> = lists.iter().map_while(|tests| first(tests)).collect();
        if !lists.is_empty() && failures.len() == lists.len() {
            return Some(format!("`{part}`: {}", failures.join("; ")));
        }
    }
    first(&rule.when).map(|failure| format!("`when`: {failure}"))
}

fn failure(test: &AttributeTest, facts: &Facts<'_>) -> String {
    let listed = |patterns: &[ValuePattern]| {
        let quoted: Vec<_> = patterns.iter().map(|pattern| format!("{:?}", pattern.to_string())).collect();
        quoted.join(", ")
    };
    let found = found(&test.attribute, facts);
    let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
    let only = AttributeTest { not_values: Vec::new(), ..test.clone() };
    let wanted = if CompiledTest::new(&only).holds(facts) {
        format!("none of {}", listed(&test.not_values))
    } else {
        format!("one of {}", listed(&test.values))
    };
    format!("{} is {found}, and must be {wanted}", test.attribute)
}

/// The values that an attribute has.
fn found(attribute: &Attribute, facts: &Facts<'_>) -> Vec<String> {
    if let Some(address) = facts.address(attribute) {
        return vec![address.to_string()];
    }
    if *attribute == Attribute::DestinationPort {
        return vec![facts.destination.port().to_string()];
    }
    let mut found = Vec::new();
    facts.any_text(attribute, |text| {
        found.push(format!("{:?}", String::from_utf8_lossy(text)));
        false
    });
    found
}
