//! A request that is not idempotent reaches an app at most once (RFC 9110 section 9.2.2): a retry
//! is allowed only if it is certain that nothing was sent, so no app has seen it.
//!
//! Each attempt carries its number, so that no other hop repeats a retry. (When an app closes the
//! connection and its own sidecar sends the request again, that is the same attempt.)

use std::collections::BTreeMap;

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Call, Facts};

pub(super) const INVARIANT: Invariant =
    Invariant { name: "once", says: "a request that is not idempotent reaches an app at most once", check };

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (id, call) in &facts.calls {
        let mut attempts: BTreeMap<&str, &str> = BTreeMap::new();
        for ((at, app), nth) in call.arrived.iter().zip(&call.nths) {
            if let Some(first) = attempts.insert(nth, app)
                && (first != &**app || !(hangs_up(call) || facts.is_ended(app)))
            {
                violation(
                    violations,
                    *at,
                    format!("{id} reached {first} and then {app}, both as attempt {nth}"),
                );
            }
        }
    }
    if facts.clusters().any(|(_, cluster)| cluster.retry.unsafe_methods) {
        return;
    }
    for (id, call) in &facts.calls {
        let idempotent = call.method.as_deref().is_some_and(|method| !["POST", "PATCH"].contains(&method));
        if !idempotent && call.arrived.len() > 1 {
            let apps: Vec<&str> = call.arrived.iter().map(|(_, app)| &**app).collect();
            violation(violations, call.arrived[1].0, format!("{id} reached {}", apps.join(" and then ")));
        }
    }
}

/// Whether an app has closed a connection instead of answering a request.
fn hangs_up(call: &Call) -> bool {
    call.malformations.iter().any(|malformation| malformation.closes())
}
