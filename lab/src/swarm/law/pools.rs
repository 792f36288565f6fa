//! Connections to endpoints are accounted for: when nothing is under way any more, every one that is open is idle in its pool; and
//! they are used again: no more are opened than requests have been at an endpoint at once, and once more for each that may
//! have ended.

use std::collections::BTreeMap;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Step};

pub(super) const LAW: Law = Law {
    name: "pools",
    says: "connections are used again, and when all requests have ended every open one is idle",
    check,
};

/// How long an answer may take after its head, microseconds.
const BODY: u64 = 50_000;

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    let end = facts.end_us();
    let unheard = facts.given_up_at_last() as f64;
    for (process, _) in facts.clusters() {
        let gauge = |name: &str| facts.last(process, name, &[]).unwrap_or_default();
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
    if facts.chaos.resets == 0.0 {
        reused(facts, breaches);
    }
}

/// What is known of one endpoint in the eyes of one sidecar.
#[derive(Default)]
struct Use {
    /// When a try began or ended there.
    edges: Vec<(u64, i64)>,
    /// Tries that may have cost their connection.
    lost: usize,
    opened: usize,
}

fn reused(facts: &Facts, breaches: &mut Vec<Breach>) {
    let broken: usize = facts.calls.values().map(|call| call.flaws.len()).sum();
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        let mut uses: BTreeMap<&str, Use> = BTreeMap::new();
        for request in facts.requests_to(process, &cluster.name) {
            let last = request.steps.last().map_or(request.begun, |(when, _)| when.at);
            for (when, endpoint, _) in request.picks() {
                let of_it = |step: &Step| match step {
                    Step::Answered { endpoint: other, .. } => (other == endpoint).then_some(false),
                    Step::Failed { endpoint: other, .. } => (other == endpoint).then_some(true),
                    _ => None,
                };
                let mut later = request.steps.iter().filter(|(at, _)| *at > when);
                let end = later.find_map(|(at, step)| of_it(step).map(|failed| (at.at, failed)));
                let (end, lost) = end.unwrap_or((last, true));
                let of_it = uses.entry(endpoint).or_default();
                // The body of an answer takes its time too.
                of_it.edges.extend([(when.at, 1), (end + BODY, -1)]);
                of_it.lost += usize::from(lost);
            }
        }
        for line in facts.log.iter().filter(|line| line.process == *process && line.text == "connected") {
            if let Some(of_it) = line.word("endpoint").and_then(|endpoint| uses.get_mut(endpoint)) {
                of_it.opened += 1;
            }
        }
        for (endpoint, Use { mut edges, lost, opened }) in uses {
            let Some(instance) = facts.instance_of(endpoint) else { continue };
            edges.sort_unstable();
            let sums = edges.iter().scan(0, |now, (_, change)| {
                *now += change;
                Some(*now)
            });
            let at_once = usize::try_from(sums.max().unwrap_or_default()).unwrap_or_default();
            // All of them may end with the process, or be left alone because of what was thought of the endpoint.
            let faults = facts.plan.timeline.iter().filter(|entry| entry.action.touches(instance)).count();
            let changes =
                facts.standings_of(process, &cluster.name).filter(|s| s.endpoint == endpoint).count();
            let most = at_once * (1 + 2 * faults + changes) + lost + broken;
            if opened > most {
                let what = format!(
                    "{process} opened {opened} connections to {endpoint}, and {most} would have done"
                );
                breach(breaches, facts.end_us(), what);
            }
        }
    }
}
