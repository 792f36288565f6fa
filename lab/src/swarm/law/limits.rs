//! No more is under way than the limits of a cluster allow: requests, retries, connections, and requests that wait for one.
//!
//! What the log tells of requests begins later and ends earlier than what the sidecar counts, so it can never be more.

use super::{Breach, Law, breach};
use crate::sim::Line;
use crate::swarm::facts::{Facts, Moment, Request, Step};

pub(super) const LAW: Law =
    Law { name: "limits", says: "no more is under way in a cluster than its limits allow", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        let limits = &cluster.limits;
        // An endpoint without any connection gets one whatever the others have, and over HTTP/2 so it does beside one that only
        // carries what it has begun.
        let members = facts.members(&cluster.name);
        let each = if cluster.bridge { 2 } else { 1 };
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
