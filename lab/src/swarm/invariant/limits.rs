//! A cluster never has more requests, retries, connections or queued requests than its limits
//! allow, and no retry is refused for that reason while there are fewer.
//!
//! In the log a request begins later and ends earlier than in the counters of the sidecar, so the
//! log never shows more than there are.

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Facts, LogPosition, Request, RequestStep};
use proxy::config::Cluster;
use proxy::telemetry::LogEvent;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "limits",
    says: "a cluster never exceeds its limits, and refuses nothing below them",
    check,
};

/// What an event says of how many there are at an endpoint's cluster.
type Count = fn(&LogEvent) -> Option<(&str, u64)>;

fn open(event: &LogEvent) -> Option<(&str, u64)> {
    match event {
        LogEvent::Connected { endpoint, open } => Some((endpoint, *open)),
        _ => None,
    }
}

fn waiting(event: &LogEvent) -> Option<(&str, u64)> {
    match event {
        LogEvent::WaitingForConnection { endpoint, waiting } => Some((endpoint, *waiting)),
        _ => None,
    }
}

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        let limits = &cluster.limits;
        // An endpoint without any connection gets one whatever the others have, and over HTTP/2 so
        // it does beside one that only carries what it has begun.
        let members = facts.members(&cluster.name);
        let bridged = facts.is_bridged(cluster);
        let shared = if bridged || facts.speaks_grpc(&cluster.name) { 2 } else { 0 };
        let each = if bridged { shared } else { 1 + shared };
        let connections = u64::from(limits.connections) + each * members.len() as u64;
        let is_member =
            |endpoint: &str| facts.instance_of(endpoint).is_some_and(|instance| members.contains(&instance));
        for (what, of, most) in
            [("open", open as Count, connections), ("waiting", waiting, limits.pending.into())]
        {
            let own = facts.sidecar_events().filter(|(_, speaker, _)| *speaker == process);
            let mut counts = own.filter_map(|(when, _, event)| {
                let (endpoint, now) = of(event)?;
                is_member(endpoint).then_some((when.at, now))
            });
            if let Some((at, now)) = counts.find(|(_, now)| *now > most) {
                violation(
                    violations,
                    at,
                    format!("{process} has {now} {what} connections, and {most} are allowed"),
                );
            }
        }
        refusals(facts, process, cluster, violations);
        let spans = |of: fn(&Request) -> Vec<(LogPosition, LogPosition)>| {
            facts.requests_to(process, &cluster.name).flat_map(of).collect::<Vec<_>>()
        };
        for (what, most, spans) in
            [("requests", limits.requests, spans(carried)), ("retries", limits.retries, spans(repeated))]
        {
            let mut edges: Vec<_> = spans.iter().flat_map(|(from, to)| [(*from, 1), (*to, -1)]).collect();
            edges.sort_unstable();
            let mut now = 0;
            for (LogPosition { at, .. }, change) in edges {
                now += change;
                if now > i64::from(most) {
                    let found = format!("{process} has {now} {what} in flight, and {most} are allowed");
                    violation(violations, at, found);
                    break;
                }
            }
        }
    }
}

/// Checks that no retry was refused while a permit was free.
fn refusals(facts: &Facts, process: &str, cluster: &Cluster, violations: &mut Vec<Violation>) {
    let requests: Vec<&Request> = facts.requests_to(process, &cluster.name).collect();
    for refused in &requests {
        for (when, step) in &refused.steps {
            if !matches!(step, RequestStep::GivenUp(why) if why == "limit") {
                continue;
            }
            let others = requests.iter().filter(|other| !std::ptr::eq(**other, *refused));
            let held = others.filter(|other| may_hold_a_permit(other, *when, facts.tick_us)).count();
            if held < cluster.limits.retries as usize {
                let most = cluster.limits.retries;
                let what = format!("{process} refuses a retry with {held} in flight, and {most} are allowed");
                violation(violations, when.at, what);
            }
        }
    }
}

/// Whether a retry of a request may be in flight at a position of the log. The end of one that its
/// caller gave up is not logged.
fn may_hold_a_permit(request: &Request, when: LogPosition, tick_us: u64) -> bool {
    let begun =
        request.steps.iter().any(|(at, step)| *at < when && matches!(step, RequestStep::Again { .. }));
    begun && request.done().is_none_or(|done| done + tick_us >= when.at)
}

/// From a request's first endpoint to the last that is known of it.
fn carried(request: &Request) -> Vec<(LogPosition, LogPosition)> {
    let first = request.picks().next().map(|(when, ..)| when);
    let last = request.steps.last().map(|(when, _)| *when);
    first.zip(last).into_iter().collect()
}

/// From the decision for each retry to its end.
fn repeated(request: &Request) -> Vec<(LogPosition, LogPosition)> {
    let mut spans = Vec::new();
    let mut since = None;
    for (when, step) in &request.steps {
        match step {
            RequestStep::Again { .. } => since = Some(*when),
            RequestStep::Answered { .. } | RequestStep::Failed { .. } | RequestStep::Done(_) => {
                spans.extend(since.take().map(|since| (since, *when)));
            }
            RequestStep::Picked { .. } | RequestStep::GivenUp(_) => {}
        }
    }
    spans
}
