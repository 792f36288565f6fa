//! A retry goes where the request has not been yet, unless it has been everywhere; and nothing is picked that the cluster
//! does not have.

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Moment};

pub(super) const LAW: Law =
    Law { name: "picks", says: "a retry prefers an endpoint that has not failed it yet", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        // Who knows its endpoints only at run time may have lost the others meanwhile.
        let known: Vec<String> = cluster.endpoints.iter().map(|e| e.address.to_string()).collect();
        if known.is_empty() {
            continue;
        }
        let mut tried: Vec<&str> = Vec::new();
        for (Moment { at, .. }, endpoint, _) in request.picks() {
            if !known.iter().any(|address| address == endpoint) {
                breach(breaches, at, format!("{endpoint} is no endpoint of {}", cluster.name));
            }
            // Without panic, the others may not be picked.
            let elsewhere = cluster.balance.panic > 0.0 && tried.len() < known.len();
            if elsewhere && tried.contains(&endpoint) {
                let what = format!("a request was tried again at {endpoint}, and not everywhere yet");
                breach(breaches, at, what);
            }
            if !tried.contains(&endpoint) {
                tried.push(endpoint);
            }
        }
    }
}
