//! No more is under way than the limits of a cluster allow: requests, retries, connections, and requests that wait for one.
//! And none is turned away as a retry too many while there are fewer.
//!
//! What the log tells of requests begins later and ends earlier than what the sidecar counts, so it can never be more.

use super::{Breach, Law, breach};
use crate::sim::Line;
use crate::swarm::facts::{Facts, Moment, Request, Step};
use proxy::config::Cluster;

pub(super) const LAW: Law = Law {
    name: "limits",
    says: "no more is under way in a cluster than its limits allow, and no less is refused",
    check,
};

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        let limits = &cluster.limits;
        // An endpoint without any connection gets one whatever the others have, and over HTTP/2 so it does beside one that only
        // carries what it has begun.
        let members = facts.members(&cluster.name);
        let shared = if cluster.bridge || facts.speaks_grpc(&cluster.name) { 2 } else { 0 };
        let each = if cluster.bridge { shared } else { 1 + shared };
        let connections = u64::from(limits.connections) + each * members.len() as u64;
        for (what, field, most) in [
            ("connected", "open", connections),
            ("waiting for a connection", "waiting", limits.pending.into()),
        ] {
            let of_it = |line: &&Line| {
                line.process == *process
                    && line.text == what
                    && line
                        .word("endpoint")
                        .and_then(|endpoint| facts.instance_of(endpoint))
                        .is_some_and(|instance| members.contains(&instance))
            };
            let mut counts = facts
                .log
                .iter()
                .filter(of_it)
                .map(|line| (line.at_us, line.number(field).unwrap_or_default()));
            if let Some((at, now)) = counts.find(|(_, now)| *now > most) {
                breach(
                    breaches,
                    at,
                    format!("{process} has {now} {field} connections, and {most} are allowed"),
                );
            }
        }
        refusals(facts, process, cluster, breaches);
        let spans = |of: fn(&Request) -> Vec<(Moment, Moment)>| {
            facts.requests_to(process, &cluster.name).flat_map(of).collect::<Vec<_>>()
        };
        for (what, most, spans) in
            [("requests", limits.requests, spans(carried)), ("retries", limits.retries, spans(repeated))]
        {
            let mut edges: Vec<_> = spans.iter().flat_map(|(from, to)| [(*from, 1), (*to, -1)]).collect();
            edges.sort_unstable();
            let mut now = 0;
            for (Moment { at, .. }, change) in edges {
                now += change;
                if now > i64::from(most) {
                    let found = format!("{process} has {now} {what} under way, and {most} are allowed");
                    breach(breaches, at, found);
                    break;
                }
            }
        }
    }
}

/// Looks whether retries were refused for want of a place while there was one.
fn refusals(facts: &Facts, process: &str, cluster: &Cluster, breaches: &mut Vec<Breach>) {
    let requests: Vec<&Request> = facts.requests_to(process, &cluster.name).collect();
    for refused in &requests {
        for (when, step) in &refused.steps {
            if !matches!(step, Step::GivenUp(why) if why == "limit") {
                continue;
            }
            let others = requests.iter().filter(|other| !std::ptr::eq(**other, *refused));
            let held = others.filter(|other| may_hold_a_place(other, *when, facts.tick_us)).count();
            if held < cluster.limits.retries as usize {
                let most = cluster.limits.retries;
                let what = format!("{process} refuses a retry with {held} under way, and {most} are allowed");
                breach(breaches, when.at, what);
            }
        }
    }
}

/// Whether a retry of a request may be under way at a moment. When one has ended that its caller gave up, nobody says.
fn may_hold_a_place(request: &Request, when: Moment, tick_us: u64) -> bool {
    let begun = request.steps.iter().any(|(at, step)| *at < when && matches!(step, Step::Again { .. }));
    begun && request.done().is_none_or(|done| done + tick_us >= when.at)
}

/// From a request's first endpoint to the last that is known of it.
fn carried(request: &Request) -> Vec<(Moment, Moment)> {
    let first = request.picks().next().map(|(when, ..)| when);
    let last = request.steps.last().map(|(when, _)| *when);
    first.zip(last).into_iter().collect()
}

/// From the decision for each retry to what came of it.
fn repeated(request: &Request) -> Vec<(Moment, Moment)> {
    let mut spans = Vec::new();
    let mut since = None;
    for (when, step) in &request.steps {
        match step {
            Step::Again { .. } => since = Some(*when),
            Step::Answered { .. } | Step::Failed { .. } | Step::Done(_) => {
                spans.extend(since.take().map(|since| (since, *when)));
            }
            Step::Picked { .. } | Step::GivenUp(_) => {}
        }
    }
    spans
}
