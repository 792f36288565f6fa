//! A request that is not idempotent reaches an app at most once (RFC 9110 section 9.2.2): a retry is allowed only if it is
//! certain that nothing was sent, and then no app has seen it.

use super::{Breach, Law, breach};
use crate::swarm::facts::Facts;

pub(super) const LAW: Law =
    Law { name: "once", says: "a request that is not idempotent reaches an app at most once", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
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
