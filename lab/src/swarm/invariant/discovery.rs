//! Endpoints are those of the registry: an endpoint that was removed gets no new request, none is
//! forgotten because the registry is unreachable, and in the end exactly those that exist are
//! known.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::drain::drains;
use super::{Invariant, Violation, violation};
use crate::fault::Action;
use crate::swarm::facts::{EndpointChange, Facts, LoggedEvent, RunEvent};
use crate::traffic::TrafficEvent;
use proxy::telemetry::LogEvent;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "discovery",
    says: "endpoints are those of the registry, and the last known ones while it is away",
    check,
};

/// How long after a change all sidecars know of it.
const SETTLES: Duration = Duration::from_millis(300);

/// How long a draining sidecar may take to deregister.
const LEAVES: Duration = Duration::from_millis(500);

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    withdrawn(facts, violations);
    for (process, cluster) in facts.clusters().filter(|(_, cluster)| cluster.discovery.is_some()) {
        let mut gone: BTreeMap<&str, u64> = BTreeMap::new();
        let mut changes = facts.availability_of(process, &cluster.name).peekable();
        let mut picks: Vec<_> = facts
            .requests_to(process, &cluster.name)
            .flat_map(|request| request.picks().map(|(when, endpoint, _)| (when, endpoint, request.begun)))
            .collect();
        picks.sort_by_key(|(when, ..)| *when);
        for (when, endpoint, begun) in picks {
            while let Some(update) = changes.next_if(|update| update.when < when) {
                match update.change {
                    EndpointChange::Gone => drop(gone.insert(&update.endpoint, update.when.at)),
                    EndpointChange::Found => drop(gone.remove(update.endpoint.as_str())),
                    _ => {}
                }
            }
            // A request keeps the endpoints that it began with.
            if gone.get(endpoint).is_some_and(|at| *at < begun) {
                violation(violations, when.at, format!("{endpoint} was picked after it left the registry"));
            }
        }
        kept_while_stale(facts, process, &cluster.name, violations);
        if facts.is_settled() {
            all_are_known(facts, process, violations);
        }
    }
}

/// Stale is better than empty.
fn kept_while_stale(facts: &Facts, process: &Rc<str>, cluster: &str, violations: &mut Vec<Violation>) {
    let mut stale = false;
    for (when, _, event) in facts.sidecar_events().filter(|(_, speaker, _)| *speaker == process) {
        match event {
            LogEvent::EndpointsStale { cluster: of, .. } if of == cluster => stale = true,
            LogEvent::EndpointsFresh { cluster: of } | LogEvent::EndpointsDiscovered { cluster: of, .. }
                if of == cluster =>
            {
                stale = false;
            }
            LogEvent::EndpointGone { cluster: of, endpoint } if of == cluster && stale => {
                let what = format!("{endpoint} was dropped while the registry was away");
                violation(violations, when.at, what);
            }
            _ => {}
        }
    }
}

/// Who drains leaves the registry, and when it says that it is not registered any more has told it.
fn withdrawn(facts: &Facts, violations: &mut Vec<Violation>) {
    let mut registered: BTreeSet<&Rc<str>> = BTreeSet::new();
    let mut draining: BTreeMap<&Rc<str>, u64> = BTreeMap::new();
    let mut changed = 0;
    for LoggedEvent { when, process, event } in &facts.events {
        match event {
            RunEvent::Sidecar(LogEvent::Registered { .. }) => drop(registered.insert(process)),
            RunEvent::Sidecar(LogEvent::Draining) if registered.remove(process) => {
                draining.insert(process, when.at);
            }
            RunEvent::Traffic(TrafficEvent::RegistryChanged { .. }) => changed = when.at,
            RunEvent::Sidecar(LogEvent::NotRegistered { .. })
                if draining.remove(process).is_some_and(|since| changed < since) =>
            {
                let what = format!("{process} has deregistered, and the registry still has it");
                violation(violations, when.at, what);
            }
            _ => {}
        }
    }
    // Any other fault could be what delays it.
    let is_quiet = facts.chaos.most == 0
        && facts.chaos.resets == 0.0
        && facts.plan.timeline.iter().all(|e| drains(e) || matches!(e.action, Action::Behave(_)));
    for (process, since) in draining.into_iter().filter(|_| is_quiet) {
        if facts.end_us() > since + LEAVES.as_micros() as u64 {
            violation(violations, since, format!("{process} drains, and has not deregistered"));
        }
    }
}

fn all_are_known(facts: &Facts, process: &str, violations: &mut Vec<Violation>) {
    let plan = &facts.plan;
    let is_back = |position: usize| {
        plan.timeline.iter().all(|entry| entry.until.is_some() || !entry.action.touches(position))
    };
    let registers = |position: usize| plan.services[plan.instances[position].service].registry.is_some();
    let there = (0..plan.instances.len()).filter(|&i| registers(i) && is_back(i)).count();
    let known = facts.last(process, "proxy_discovery_endpoints", &[]).unwrap_or_default();
    let end = facts.end_us();
    if known < there as f64 {
        violation(
            violations,
            end,
            format!("{process} knows {known} endpoints in the end, and {there} exist"),
        );
    }
    // What the registry itself has, unless that has just changed.
    let keys = |(at, event): (u64, &TrafficEvent)| match event {
        TrafficEvent::RegistryChanged { keys } => Some((at, *keys)),
        _ => None,
    };
    let last = facts.traffic_events().rev().find_map(keys);
    let settled = last.filter(|(at, _)| at + SETTLES.as_micros() as u64 <= end);
    let services = plan.services.iter().filter(|service| service.registry.is_some()).count();
    if let Some((_, keys)) = settled.filter(|_| services == 1)
        && known > keys as f64
    {
        violation(
            violations,
            end,
            format!("{process} knows {known} endpoints in the end, and the registry {keys}"),
        );
    }
}
