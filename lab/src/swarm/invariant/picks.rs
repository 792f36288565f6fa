//! A retry goes to an endpoint that the request has not been at, unless it has been at all of them;
//! and only endpoints of the cluster are picked.

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Facts, LogPosition};

pub(super) const INVARIANT: Invariant =
    Invariant { name: "picks", says: "a retry prefers an endpoint that has not failed it yet", check };

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        // A cluster with discovery may have lost the others meanwhile.
        let known: Vec<String> = cluster.endpoints.iter().map(|e| e.address.to_string()).collect();
        if known.is_empty() {
            continue;
        }
        let mut tried: Vec<&str> = Vec::new();
        for (LogPosition { at, .. }, endpoint, _) in request.picks() {
            if !known.iter().any(|address| address == endpoint) {
                violation(violations, at, format!("{endpoint} is not an endpoint of {}", cluster.name));
            }
            // Without panic, the others may not be picked.
            let elsewhere = cluster.balance.panic > 0.0 && tried.len() < known.len();
            if elsewhere && tried.contains(&endpoint) {
                let what = format!("a request was retried at {endpoint} before it was attempted everywhere");
                violation(violations, at, what);
            }
            if !tried.contains(&endpoint) {
                tried.push(endpoint);
            }
        }
    }
}
