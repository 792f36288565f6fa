//! Connections to endpoints are accounted for: when nothing is under way any more, every one that is open is idle in its pool; and
//! they are used again: no more are opened than requests have been at an endpoint at once, and once more for each that may
//! have ended. Over HTTP/1 one that was idle when its endpoint was put out, or a probe of it came to nothing, is not used again.

use std::collections::{BTreeMap, BTreeSet};

use super::{Breach, Law, breach};
use crate::sim::RTO_MIN;
use crate::swarm::facts::{Change, Facts, Step};
use proxy::config::Cluster;
use proxy::config::defaults::POOL_IDLE;

pub(super) const LAW: Law = Law {
    name: "pools",
    says: "connections are used again, and when all requests have ended every open one is idle",
    check,
};

/// How long an answer may take after its head, microseconds.
pub(super) const BODY: u64 = 50_000;
/// How much longer if a segment of it is lost, microseconds.
const LOST: u64 = RTO_MIN / 1000;

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
    let is_http1 = |cluster: &Cluster| !cluster.bridge && !facts.speaks_grpc(&cluster.name);
    let http1 = facts.clusters().filter(|(process, cluster)| is_http1(cluster) && facts.is_steady(process));
    for (process, cluster) in http1 {
        doubted(facts, process, cluster, breaches);
    }
}

/// When a sidecar opened a connection, and to which endpoint.
fn opened<'a>(facts: &'a Facts, process: &'a str) -> impl Iterator<Item = (u64, &'a str)> {
    let lines = facts.log.iter().filter(move |line| &*line.process == process && line.text == "connected");
    lines.filter_map(|line| Some((line.at_us, line.word("endpoint")?)))
}

/// Nothing goes over a connection that was idle when its endpoint was put out, or when a probe began that came to nothing.
fn doubted(facts: &Facts, process: &str, cluster: &Cluster, breaches: &mut Vec<Breach>) {
    let endpoints: BTreeSet<_> =
        facts.standings_of(process, &cluster.name).map(|s| s.endpoint.as_str()).collect();
    for endpoint in endpoints {
        let tries = facts.tries_at(process, &cluster.name, endpoint);
        let mut changes =
            facts.standings_of(process, &cluster.name).filter(|s| s.endpoint == endpoint).peekable();
        let (mut probed, mut doubted) = (None, None);
        for (begun, end) in &tries {
            while let Some(standing) = changes.next_if(|standing| standing.when < *begun) {
                let at = standing.when.at;
                match standing.change {
                    Change::Probing => probed = Some(at),
                    Change::Ejected(..) => doubted = Some(probed.take().unwrap_or(at)),
                    Change::Healthy(false) => doubted = Some(at),
                    Change::Restored(_) => probed = None,
                    // Another one, perhaps.
                    Change::Found | Change::Gone => (probed, doubted) = (None, None),
                    _ => {}
                }
            }
            let Some(since) = doubted else { continue };
            let Some((at, Step::Failed { reused: true, .. })) = end else { continue };
            // It may have been opened since, or have been in use then.
            let is_new = opened(facts, process)
                .any(|(at, other)| other == endpoint && (since..=begun.at).contains(&at));
            let was_in_use = tries.iter().any(|(begun, end)| {
                matches!(end, Some((at, Step::Answered { .. })) if begun.at <= since && at.at + LOST + BODY >= since)
            });
            if !is_new && !was_in_use {
                let what =
                    format!("{process} asked {endpoint} over a connection from before it was in doubt");
                breach(breaches, at.at, what);
            }
        }
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
    // Of a request that its caller has given up, the log says no more.
    let patience =
        facts.plan.loads.iter().map(|load| load.timeout.as_micros() as u64).max().unwrap_or_default();
    let expiries = (facts.end_us() / POOL_IDLE.as_micros() as u64).saturating_sub(1) as usize;
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        let mut uses: BTreeMap<&str, Use> = BTreeMap::new();
        for request in facts.requests_to(process, &cluster.name) {
            let given_up = request.begun + patience;
            let last = request.steps.last().filter(|_| request.done().is_some());
            let last = last.map_or(given_up, |(when, _)| when.at);
            for (when, endpoint, _) in request.picks() {
                let end = request.end_of_try(endpoint, when);
                let end = end.map(|(at, step)| (at.at, matches!(step, Step::Failed { .. })));
                let (end, lost) = end.unwrap_or((last, true));
                let of_it = uses.entry(endpoint).or_default();
                // The body of an answer takes its time too.
                of_it.edges.extend([(when.at, 1), (end + BODY, -1)]);
                of_it.lost += usize::from(lost);
            }
        }
        for (_, endpoint) in opened(facts, process) {
            if let Some(of_it) = uses.get_mut(endpoint) {
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
            // And who has been idle for too long is closed, on a day that is long enough.
            // Calls and other requests have connections of their own.
            let versions = 1 + usize::from(facts.speaks_grpc(&cluster.name));
            let most = versions * at_once * (1 + 2 * faults + changes + expiries) + lost + broken;
            if opened > most {
                let what = format!(
                    "{process} opened {opened} connections to {endpoint}, and {most} would have done"
                );
                breach(breaches, facts.end_us(), what);
            }
        }
    }
}
