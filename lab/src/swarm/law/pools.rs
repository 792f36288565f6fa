//! Connections to endpoints are accounted for: when nothing is under way any more, every one that is open is idle in its pool.

use super::{Breach, Law, breach};
use crate::swarm::facts::Facts;

pub(super) const LAW: Law =
    Law { name: "pools", says: "when all requests have ended, every open connection is idle", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    let end = facts.end_us();
    let unheard = facts.given_up_at_last() as f64;
    for (process, _) in facts.clusters() {
        let gauge = |name: &str| facts.last(process, name).unwrap_or_default();
        let (open, idle) =
            (gauge("proxy_endpoint_connections_open"), gauge("proxy_endpoint_connections_idle"));
        if idle > open || open - idle > unheard {
            breach(
                breaches,
                end,
                format!("{process} has {open} connections to endpoints, {idle} of them idle"),
            );
        }
    }
}
