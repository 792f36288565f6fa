//! A sidecar that is asked to end finishes what it has begun: no request that was under way at it breaks off.
//!
//! A connection that is opened in the very moment in which it stops to listen is another matter: it may still stand in
//! the queue of the listener that closes, and the kernel resets it.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Breach, Law, breach};
use crate::plan::{Action, Entry, Instance, Role};
use crate::swarm::facts::{Facts, Moment, Step};

pub(super) const LAW: Law = Law { name: "drain", says: "a sidecar that drains breaks nothing off", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    if facts.chaos.resets > 0.0 {
        return;
    }
    // Whatever else goes wrong with an instance could be what breaks a request off.
    let steady = |instance: usize| {
        facts.plan.timeline.iter().all(|entry| drains(entry) || !entry.action.touches(instance))
    };
    let steady: Vec<bool> = (0..facts.plan.instances.len()).map(steady).collect();
    let is_steady = |endpoint: &str| {
        let address = endpoint.parse::<SocketAddr>().ok();
        let of = |instance: &Instance| address.is_some_and(|address| address.ip() == instance.v4);
        facts.plan.instances.iter().position(of).is_some_and(|instance| steady[instance])
    };
    for request in &facts.requests {
        for (Moment { at, .. }, step) in &request.steps {
            let Step::Failed { endpoint, error, unsent: false, reused: true } = step else { continue };
            if ["terminated", "incomplete", "protocol"].contains(&error.as_str()) && is_steady(endpoint) {
                let picked =
                    request.picks().filter(|(_, e, _)| e == endpoint).map(|(when, ..)| when.at).max();
                let since = Duration::from_micros(at - picked.unwrap_or(*at));
                let what = format!("a request that was at {endpoint} for {since:?} broke off: {error}");
                breach(breaches, *at, what);
            }
        }
    }
}

/// Whether a fault only asks sidecars to end.
fn drains(entry: &Entry) -> bool {
    match &entry.action {
        Action::Kill { processes, hard: false, .. } => processes.iter().all(|p| p.role == Role::Sidecar),
        _ => false,
    }
}
