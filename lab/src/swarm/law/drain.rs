//! A sidecar that is asked to end finishes what it has begun: no request that was under way at it breaks off.
//!
//! A connection that is opened in the very moment in which it stops to listen is another matter: it may still stand in
//! the queue of the listener that closes, and the kernel resets it.

use std::time::Duration;

use super::{Breach, Law, breach};
use crate::plan::{Action, Entry, Role};
use crate::swarm::facts::{Facts, Step};

pub(super) const LAW: Law = Law { name: "drain", says: "a sidecar that drains breaks nothing off", check };

/// Longer than this no connection waits to be accepted, even over a slow link.
const AT_THE_DOOR: Duration = Duration::from_millis(50);

/// How long a fault is felt when it is over.
const AFTERMATH: Duration = Duration::from_millis(500);

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    if facts.chaos.resets > 0.0 {
        return;
    }
    // Whatever else goes wrong with an instance meanwhile, or has just gone wrong, could be what breaks a request off.
    let is_steady = |endpoint: &str, from: u64, to: u64| {
        let Some(instance) = facts.instance_of(endpoint) else { return false };
        let mut others =
            facts.plan.timeline.iter().filter(|entry| !drains(entry) && entry.action.touches(instance));
        others.all(|entry| {
            let since = facts.moment(entry.at);
            let until = entry.until.map_or(u64::MAX, |until| facts.moment(until + AFTERMATH));
            match entry.action {
                // It answers otherwise, and to its end.
                Action::App { ref change, .. } if change.malformed.is_none() => true,
                // What has become of a connection is found out at any time.
                Action::Crash { .. } | Action::Link { .. } => to < since,
                _ => to < since || until < from,
            }
        })
    };
    for request in &facts.requests {
        for (when, step) in &request.steps {
            let Step::Failed { endpoint, error, unsent: false, reused } = step else { continue };
            let at = when.at;
            let picked = request.tried(endpoint, *when).unwrap_or(at);
            let since = Duration::from_micros(at - picked);
            let was_under_way = *reused || since > AT_THE_DOOR;
            let broke_off = ["terminated", "incomplete", "protocol"].contains(&error.as_str());
            if broke_off && was_under_way && is_steady(endpoint, picked, at) {
                let what = format!("a request that was at {endpoint} for {since:?} broke off: {error}");
                breach(breaches, at, what);
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
