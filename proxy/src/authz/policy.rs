//! Whether something may pass: Istio's AuthorizationPolicy, compiled.
//!
//! A rule is a source, an operation and conditions; each pair of one `from` and one `to` becomes a
//! *clause*, which holds if all of its tests do. Policies deny first, then allow: what a `deny`
//! matches is denied; else, if there is an `allow` at all, one must match; else the default counts.
//! External authorizers (`custom`) are asked before both. They cannot be asked about a connection
//! that is not HTTP, so one that a `custom` policy matches is denied, as if there was no answer.
//!
//! Of a connection that is not HTTP there is no method and no header. As in Istio, an `allow` rule
//! that asks for something of the kind matches no such connection, and a `deny`, `audit` or
//! `custom` rule is read without those tests, so that whatever is unknown is refused and not let
//! through. While a connection of HTTP lives, it is only closed if none of its requests could pass:
//! a `deny` that asks for nothing of HTTP matches it, or no `allow` could.
//!
//! Policies in dry-run decide nothing; what all policies would have decided together is told
//! beside.

use std::sync::Arc;

use super::facts::Facts;
use super::index::{ClauseId, Index};
use super::values::CompiledTest;
use crate::config::{
    AttributeTest, Authorization, AuthorizationPolicy, DefaultAction, PolicyAction, PolicyRule,
};
use crate::mutant::Mutant;

/// All policies, compiled.
#[derive(Debug, Default)]
pub struct Policies {
    enforced: Set,
    /// The same with those in dry-run, if there are any.
    proposed: Option<Set>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may pass, and why.
    pub enforced: Ruling,
    /// What policies in dry-run would have decided, if that differs.
    pub proposed: Option<Ruling>,
    /// The audit policy that matches, if one does.
    pub audited: Option<RuleName>,
}

/// Whether something may pass, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// Whether it may.
    pub allowed: bool,
    /// The rule that says so; `None`: no rule matches, and so the default counts, or the lack of an
    /// `allow`.
    pub rule: Option<RuleName>,
}

/// The name of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// Its policy.
    pub policy: Arc<str>,
    /// Its place in the policy, from 1.
    pub rule: u32,
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, rule {}", self.policy, self.rule)
    }
}

impl Ruling {
    fn by(allowed: bool, rule: Option<RuleName>) -> Self {
        Ruling { allowed, rule }
    }
}

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// A request.
    Http,
    /// A connection that is not HTTP.
    Opaque,
    /// A connection of HTTP, with all that it may still ask for.
    Live,
}

/// Policies that decide together.
#[derive(Debug, Default)]
struct Set {
    default: DefaultAction,
    /// Whether any policy allows, so that what none of them matches is denied.
    has_allow: bool,
    http: Phases,
    opaque: Phases,
    live: Phases,
}

/// The clauses of each kind of policy.
#[derive(Debug, Default)]
struct Phases {
    custom: Clauses,
    deny: Clauses,
    allow: Clauses,
    audit: Clauses,
}

impl Policies {
    /// Compiles them.
    pub fn new(config: &Authorization) -> Self {
        let set = |of: &dyn Fn(&AuthorizationPolicy) -> bool| {
            let policies: Vec<&AuthorizationPolicy> =
                config.policies.iter().filter(|policy| of(policy)).collect();
            Set::new(config, &policies)
        };
        let is_dry = |policy: &AuthorizationPolicy| policy.dry_run;
        Policies {
            enforced: set(&|policy| !is_dry(policy)),
            proposed: config.policies.iter().any(is_dry).then(|| set(&|_| true)),
        }
    }

    /// The external authorizer that must be asked about a request, by its position, and the rule
    /// that says so.
    pub fn authorizer(&self, facts: &Facts<'_>) -> Option<(usize, RuleName)> {
        facts.request.as_ref()?;
        let clause = self.enforced.http.custom.first(facts)?;
        let PolicyAction::Custom(authorizer) = clause.action else { return None };
        Some((authorizer, clause.name()))
    }

    /// Decides about a request, whose external authorizer has been asked, or about a connection
    /// that is not HTTP.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let scope = scope_of(facts);
        let enforced = self.enforced.rule(scope, facts);
        let proposed = self.proposed.as_ref().map(|set| set.rule(scope, facts));
        Decision {
            proposed: proposed.filter(|proposed| proposed.allowed != enforced.allowed),
            audited: self.enforced.phases(scope).audit.first(facts).map(Clause::name),
            enforced,
        }
    }

    /// Whether a connection of HTTP may live on, because some request on it could still pass.
    pub fn may_live(&self, facts: &Facts<'_>) -> Ruling {
        self.enforced.rule(Scope::Live, facts)
    }
}

fn scope_of(facts: &Facts<'_>) -> Scope {
    if facts.request.is_some() { Scope::Http } else { Scope::Opaque }
}

impl Set {
    fn new(config: &Authorization, policies: &[&AuthorizationPolicy]) -> Self {
        let phases = |scope| Phases::new(scope, config, policies);
        Set {
            default: config.default,
            has_allow: policies.iter().any(|policy| policy.action == PolicyAction::Allow),
            http: phases(Scope::Http),
            opaque: phases(Scope::Opaque),
            live: phases(Scope::Live),
        }
    }

    fn phases(&self, scope: Scope) -> &Phases {
        match scope {
            Scope::Http => &self.http,
            Scope::Opaque => &self.opaque,
            Scope::Live => &self.live,
        }
    }

    fn rule(&self, scope: Scope, facts: &Facts<'_>) -> Ruling {
        let phases = self.phases(scope);
        if Mutant::AllowsBeforeItDenies.is_planted()
            && let Some(clause) = phases.allow.first(facts)
        {
            return Ruling::by(true, Some(clause.name()));
        }
        let has_allow = self.has_allow && !Mutant::AllowsWhatNobodyAllows.is_planted();
        if scope == Scope::Opaque
            && let Some(clause) = phases.custom.first(facts)
        {
            return Ruling::by(false, Some(clause.name()));
        }
        if let Some(clause) = phases.deny.first(facts) {
            return Ruling::by(false, Some(clause.name()));
        }
        match phases.allow.first(facts) {
            Some(clause) => Ruling::by(true, Some(clause.name())),
            None => Ruling::by(!has_allow && self.default == DefaultAction::Allow, None),
        }
    }
}

impl Phases {
    fn new(scope: Scope, config: &Authorization, policies: &[&AuthorizationPolicy]) -> Self {
        let of = |is: &dyn Fn(PolicyAction) -> bool| {
            Clauses::new(scope, policies.iter().copied().filter(|policy| is(policy.action)))
        };
        // Where no answer lets pass, what nobody can be asked about passes too.
        let counts = |position: usize| scope == Scope::Http || !config.authorizers[position].fail_open;
        Phases {
            custom: of(&|action| matches!(action, PolicyAction::Custom(position) if counts(position))),
            deny: of(&|action| action == PolicyAction::Deny),
            allow: of(&|action| action == PolicyAction::Allow),
            audit: of(&|action| action == PolicyAction::Audit),
        }
    }
}

/// Clauses in the order of the file, and where to look for those that may match.
#[derive(Debug, Default)]
struct Clauses {
    clauses: Vec<Clause>,
    index: Index,
}

/// A source and an operation of a rule, with its conditions.
#[derive(Debug)]
struct Clause {
    policy: Arc<str>,
    action: PolicyAction,
    rule: u32,
    /// Of the source, of the operation, and the conditions. Shared, because each source is in as
    /// many clauses as there are operations.
    tests: [Arc<[CompiledTest]>; 3],
}

impl Clause {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        self.tests.iter().all(|tests| tests.iter().all(|test| test.holds(facts)))
    }

    fn name(&self) -> RuleName {
        RuleName { policy: self.policy.clone(), rule: self.rule }
    }
}

impl Clauses {
    fn new<'p>(scope: Scope, policies: impl Iterator<Item = &'p AuthorizationPolicy>) -> Self {
        let (mut clauses, mut plain) = (Vec::new(), Vec::<[Vec<&AttributeTest>; 3]>::new());
        for policy in policies {
            // The first clause that holds counts, so behind one that always does there is none.
            if plain.last().is_some_and(|tests| tests.iter().all(Vec::is_empty)) {
                break;
            }
            for (number, rule) in (1..).zip(&policy.rules) {
                let Some(parts) = Parts::of(rule, policy.action, scope) else { continue };
                for (from, from_tests) in &parts.from {
                    for (to, to_tests) in &parts.to {
                        clauses.push(Clause {
                            policy: policy.name.clone(),
                            action: policy.action,
                            rule: number,
                            tests: [from.clone(), to.clone(), parts.when.0.clone()],
                        });
                        plain.push([from_tests.clone(), to_tests.clone(), parts.when.1.clone()]);
                    }
                }
            }
        }
        let index = Index::new(plain.iter().map(|tests| tests.iter().flatten().copied()));
        Clauses { clauses, index }
    }

    /// The first clause that holds, in the order of the file.
    fn first(&self, facts: &Facts<'_>) -> Option<&Clause> {
        if self.clauses.is_empty() {
            return None;
        }
        let mut first = ClauseId::MAX;
        self.index.candidates(facts, &mut |id| {
            if id < first && self.clauses[id as usize].holds(facts) {
                first = id;
            }
        });
        self.clauses.get(first as usize)
    }
}

/// Tests that were made ready, and what they were made of.
type Ready<'r> = (Arc<[CompiledTest]>, Vec<&'r AttributeTest>);

/// The parts of a rule that count.
struct Parts<'r> {
    from: Vec<Ready<'r>>,
    to: Vec<Ready<'r>>,
    when: Ready<'r>,
}

impl<'r> Parts<'r> {
    /// `None` if the rule matches nothing of this scope.
    fn of(rule: &'r PolicyRule, action: PolicyAction, scope: Scope) -> Option<Self> {
        let all = || rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
        let asks_for_http = all().any(|test| test.attribute.is_http());
        let drops = match (scope, action) {
            (Scope::Http, _) => false,
            (Scope::Opaque, PolicyAction::Allow) if asks_for_http => return None,
            // Whether it is denied depends on the request, so the connection is not.
            (Scope::Live, PolicyAction::Deny | PolicyAction::Custom(_) | PolicyAction::Audit)
                if asks_for_http =>
            {
                return None;
            }
            (Scope::Opaque | Scope::Live, _) => true,
        };
        let ready = |tests: &'r [AttributeTest]| -> Ready<'r> {
            let kept: Vec<_> = tests.iter().filter(|test| !drops || !test.attribute.is_http()).collect();
            (kept.iter().map(|test| CompiledTest::new(test)).collect(), kept)
        };
        // No source at all means any.
        let each = |lists: &'r [Vec<AttributeTest>]| match lists {
            [] => vec![ready(&[])],
            lists => lists.iter().map(|tests| ready(tests)).collect(),
        };
        Some(Parts { from: each(&rule.from), to: each(&rule.to), when: ready(&rule.when) })
    }
}

#[cfg(test)]
mod tests;
