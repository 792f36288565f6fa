//! A sidecar that drains finishes its requests: none that was in flight at it breaks off. Over
//! HTTP/1, each response says that it is the last one of its connection, and an idle connection
//! stays open for one more request, which may be on its way.
//!
//! A connection that is opened in the moment in which the sidecar stops listening is another
//! matter: it may still be in the queue of the closing listener, and the kernel resets it.

use std::time::Duration;

use super::pools::BODY;
use super::{Invariant, Violation, violation};
use crate::fault::{Action, Entry};
use crate::mesh::Role;
use crate::swarm::facts::{EndpointChange, Facts, LogPosition, RequestStep};
use crate::swarm::identity::is_strangers;
use proxy::config::Cluster;
use proxy::telemetry::LogEvent;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "drain", says: "a sidecar that drains finishes its requests", check };

/// No connection waits longer than this to be accepted, even over a slow link.
const AT_THE_DOOR: Duration = Duration::from_millis(50);

/// How long a connection stays in its pool in any case, microseconds.
const IDLE: u64 = 1_000_000;

/// How long a connection that is idle waits for one more request, and a little less, microseconds.
const LAST_REQUEST: u64 = 900_000;

/// How long the effects of a fault outlast it.
const AFTERMATH: Duration = Duration::from_millis(500);

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    if facts.chaos.resets > 0.0 {
        return;
    }
    // Any other fault at the instance, now or just before, could be what breaks a request off.
    let is_steady = |endpoint: &str, from: u64, to: u64| {
        let Some(instance) = facts.instance_of(endpoint) else { return false };
        let mut others =
            facts.plan.timeline.iter().filter(|entry| !drains(entry) && entry.action.touches(instance));
        others.all(|entry| {
            let since = facts.time_us(entry.at);
            let until = entry.until.map_or(u64::MAX, |until| facts.time_us(until + AFTERMATH));
            match &entry.action {
                // It answers otherwise, and to its end.
                Action::Behave(behave) if behave.change.malformed.is_none() => true,
                // A closed connection may be noticed at any time.
                Action::Crash(_) | Action::Impair(_) | Action::Partition(_) => to < since,
                _ => to < since || until < from,
            }
        })
    };
    // What a caller has under way that is revoked ends at once.
    for request in facts.requests.iter().filter(|request| !is_strangers(&request.process)) {
        for (when, step) in &request.steps {
            let RequestStep::Failed { endpoint, error, unsent: false, reused } = step else { continue };
            let at = when.at;
            let picked = request.tried(endpoint, *when).unwrap_or(at);
            let since = Duration::from_micros(at - picked);
            let was_under_way = *reused || since > AT_THE_DOOR;
            let broke_off = ["terminated", "incomplete", "protocol"].contains(&error.as_str());
            if broke_off && was_under_way && is_steady(endpoint, picked, at) {
                let what = format!("a request that was at {endpoint} for {since:?} broke off: {error}");
                violation(violations, at, what);
            }
        }
    }
    let is_http1 = |cluster: &Cluster| !facts.is_bridged(cluster) && !facts.speaks_grpc(&cluster.name);
    let http1 = facts.clusters().filter(|(process, cluster)| is_http1(cluster) && facts.is_steady(process));
    for (process, cluster) in http1 {
        last_answers(facts, process, cluster, &is_steady, violations);
    }
}

/// What becomes of HTTP/1 connections to a sidecar that drains. One that is registered first waits
/// until everybody knows.
fn last_answers(
    facts: &Facts,
    process: &str,
    cluster: &Cluster,
    is_steady: &dyn Fn(&str, u64, u64) -> bool,
    violations: &mut Vec<Violation>,
) {
    if cluster.discovery.is_some() {
        return;
    }
    for endpoint in cluster.endpoints.iter().map(|endpoint| endpoint.address.to_string()) {
        let Some(instance) = facts.instance_of(&endpoint) else { continue };
        let sidecar = format!("{}/sidecar", facts.plan.instances[instance].name);
        // From then on its connections are closed.
        let was_doubted = |from: LogPosition, to: LogPosition| {
            let mut changes = facts.availability_of(process, &cluster.name);
            let puts_out = |change: &EndpointChange| {
                matches!(change, EndpointChange::Ejected(..) | EndpointChange::Healthy(false))
            };
            changes.any(|s| s.endpoint == endpoint && (from..to).contains(&s.when) && puts_out(&s.change))
        };
        for (from, to) in drains_of(facts, &sidecar) {
            // From here on all its connections know.
            let from = from + 2 * facts.tick_us;
            let attempts = facts.attempts_at(process, &cluster.name, &endpoint);
            let (before, after) = attempts.split_at(attempts.partition_point(|(begun, _)| begun.at <= from));
            for (_, end) in after {
                if let Some((at, RequestStep::Answered { last: false, .. })) = end
                    && at.at < to
                {
                    violation(violations, at.at, format!("{endpoint} drains, and answers as if it did not"));
                }
            }
            // The connection of the last answer has nothing to carry, and is still there for the
            // next request.
            if let [.., (asked, Some((answered, RequestStep::Answered { last: false, .. })))] = before
                && let [(begun, Some((at, RequestStep::Failed { error, .. }))), ..] = after
                && error == "connect"
                && (answered.at + BODY..answered.at + IDLE).contains(&begun.at)
                && begun.at < from + LAST_REQUEST
                && facts.chaos.most == 0
                && is_steady(&endpoint, asked.at, at.at)
                && !was_doubted(*asked, *at)
            {
                let what = format!("{endpoint} drains, and closed a connection before its last request");
                violation(violations, at.at, what);
            }
        }
    }
}

/// From when to when a sidecar drained.
fn drains_of(facts: &Facts, sidecar: &str) -> Vec<(u64, u64)> {
    let mut since = None;
    let mut drains = Vec::new();
    for (when, _, event) in facts.sidecar_events().filter(|(_, process, _)| ***process == *sidecar) {
        match event {
            LogEvent::Draining => since = Some(when.at),
            LogEvent::Drained => drains.extend(since.take().map(|since| (since, when.at))),
            _ => {}
        }
    }
    drains
}

/// Whether a fault only asks sidecars to end.
pub(super) fn drains(entry: &Entry) -> bool {
    let is_soft = match &entry.action {
        Action::Kill(kill) => !kill.hard,
        Action::Restart(restart) => !restart.kill.hard,
        _ => false,
    };
    is_soft && entry.action.processes().iter().all(|process| process.role == Role::Sidecar)
}
