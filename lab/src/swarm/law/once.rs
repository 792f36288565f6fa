//! A request that is not idempotent reaches an app at most once (RFC 9110 section 9.2.2): a retry is allowed only if it is
//! certain that nothing was sent, and then no app has seen it. And each try says which one it is, so that no other hop
//! repeats what is repeated already. (What an app's own sidecar sends again, because the app has closed the connection, is
//! the same try.)

use std::collections::BTreeMap;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Call, Facts};

pub(super) const LAW: Law =
    Law { name: "once", says: "a request that is not idempotent reaches an app at most once", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (id, call) in &facts.calls {
        let mut tries: BTreeMap<&str, &str> = BTreeMap::new();
        for ((at, app), nth) in call.arrived.iter().zip(&call.nths) {
            if let Some(first) = tries.insert(nth, app)
                && (first != &**app || !(hangs_up(call) || facts.is_ended(app)))
            {
                breach(breaches, *at, format!("{id} reached {first} and then {app}, both as try {nth}"));
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
            breach(breaches, call.arrived[1].0, format!("{id} reached {}", apps.join(" and then ")));
        }
    }
}

/// Whether an app has closed a connection instead of answering a request.
fn hangs_up(call: &Call) -> bool {
    call.flaws.iter().any(|flaw| flaw.closes())
}
