//! Connections are reused and accounted for. When nothing is in flight any more, every open
//! connection is idle in its pool. No more are opened than there were requests at an endpoint at
//! once, plus one for each connection that may have ended.
//!
//! Over HTTP/1, a connection that was idle when its endpoint was ejected, or when a probe of it
//! ended without a result, is not used again.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Violation, violation};
use crate::sim::RTO_MIN;
use crate::swarm::facts::{EndpointChange, Facts, RequestStep};
use proxy::config::Cluster;
use proxy::config::defaults::POOL_IDLE;
use proxy::telemetry::LogEvent;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "pools",
    says: "connections are used again, and when all requests have ended every open one is idle",
    check,
};

/// How long an answer may take after its head, microseconds.
pub(super) const BODY: u64 = 50_000;
/// How much longer if a segment of it is lost, microseconds.
const LOST: u64 = RTO_MIN / 1000;

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    let end = facts.end_us();
    let unheard = facts.given_up_at_last() as f64;
    for (process, _) in facts.clusters() {
        let gauge = |name: &str| facts.last(process, name, &[]).unwrap_or_default();
        let (open, idle) =
            (gauge("proxy_endpoint_connections_open"), gauge("proxy_endpoint_connections_idle"));
        if idle > open || open - idle > unheard {
            violation(
                violations,
                end,
                format!("{process} has {open} connections to endpoints, {idle} of them idle"),
            );
        }
    }
    if facts.chaos.resets == 0.0 {
        reused(facts, violations);
    }
    let is_http1 = |cluster: &Cluster| !facts.is_bridged(cluster) && !facts.speaks_grpc(&cluster.name);
    let http1 = facts.clusters().filter(|(process, cluster)| is_http1(cluster) && facts.is_steady(process));
    for (process, cluster) in http1 {
        stale_connections(facts, process, cluster, violations);
    }
}

/// When a sidecar opened a connection, and to which endpoint.
fn opened<'a>(facts: &'a Facts, process: &'a str) -> impl Iterator<Item = (u64, &'a str)> {
    facts.sidecar_events().filter_map(move |(when, speaker, event)| match event {
        LogEvent::Connected { endpoint, .. } if **speaker == *process => Some((when.at, endpoint.as_str())),
        _ => None,
    })
}

/// Nothing goes over a connection that was idle when its endpoint was ejected, or when a probe
/// began that ended without a result.
fn stale_connections(facts: &Facts, process: &str, cluster: &Cluster, violations: &mut Vec<Violation>) {
    let endpoints: BTreeSet<_> =
        facts.availability_of(process, &cluster.name).map(|s| s.endpoint.as_str()).collect();
    for endpoint in endpoints {
        let attempts = facts.attempts_at(process, &cluster.name, endpoint);
        let mut changes =
            facts.availability_of(process, &cluster.name).filter(|s| s.endpoint == endpoint).peekable();
        let (mut probed, mut stale_connections) = (None, None);
        for (begun, end) in &attempts {
            while let Some(update) = changes.next_if(|update| update.when < *begun) {
                let at = update.when.at;
                match update.change {
                    EndpointChange::Probing => probed = Some(at),
                    EndpointChange::Ejected(..) => stale_connections = Some(probed.take().unwrap_or(at)),
                    EndpointChange::Healthy(false) => stale_connections = Some(at),
                    EndpointChange::Restored(_) => probed = None,
                    // Another one, perhaps.
                    EndpointChange::Found | EndpointChange::Gone => {
                        (probed, stale_connections) = (None, None)
                    }
                    _ => {}
                }
            }
            let Some(since) = stale_connections else { continue };
            let Some((at, RequestStep::Failed { reused: true, .. })) = end else { continue };
            // It may have been opened since, or have been in use then.
            let is_new = opened(facts, process)
                .any(|(at, other)| other == endpoint && (since..=begun.at).contains(&at));
            let was_in_use = attempts.iter().any(|(begun, end)| {
                matches!(end, Some((at, RequestStep::Answered { .. })) if begun.at <= since && at.at + LOST + BODY >= since)
            });
            if !is_new && !was_in_use {
                let what =
                    format!("{process} used a connection to {endpoint} from before that was unavailable");
                violation(violations, at.at, what);
            }
        }
    }
}

/// What is known of one endpoint at one sidecar.
#[derive(Default)]
struct ConnectionUse {
    /// When an attempt began or ended there.
    edges: Vec<(u64, i64)>,
    /// Attempts that may have cost their connection.
    lost: usize,
    opened: usize,
}

fn reused(facts: &Facts, violations: &mut Vec<Violation>) {
    let broken: usize = facts.calls.values().map(|call| call.malformations.len()).sum();
    // The log does not tell the end of a request that its caller gave up.
    let patience =
        facts.plan.loads.iter().map(|load| load.timeout.as_micros() as u64).max().unwrap_or_default();
    let expiries = (facts.end_us() / POOL_IDLE.as_micros() as u64).saturating_sub(1) as usize;
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        let mut uses: BTreeMap<&str, ConnectionUse> = BTreeMap::new();
        for request in facts.requests_to(process, &cluster.name) {
            let given_up = request.begun + patience;
            let last = request.steps.last().filter(|_| request.done().is_some());
            let last = last.map_or(given_up, |(when, _)| when.at);
            for (when, endpoint, _) in request.picks() {
                let end = request.end_of_attempt(endpoint, when);
                let end = end.map(|(at, step)| (at.at, matches!(step, RequestStep::Failed { .. })));
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
        for (endpoint, ConnectionUse { mut edges, lost, opened }) in uses {
            let Some(instance) = facts.instance_of(endpoint) else { continue };
            edges.sort_unstable();
            let sums = edges.iter().scan(0, |now, (_, change)| {
                *now += change;
                Some(*now)
            });
            let at_once = usize::try_from(sums.max().unwrap_or_default()).unwrap_or_default();
            // All of them may end with the process, or be dropped because the endpoint was
            // unavailable.
            let faults = facts.plan.timeline.iter().filter(|entry| entry.action.touches(instance)).count();
            let changes =
                facts.availability_of(process, &cluster.name).filter(|s| s.endpoint == endpoint).count();
            // In a run that is long enough, connections that are idle for too long are closed.
            // Calls and other requests have connections of their own.
            let versions = 1 + usize::from(facts.speaks_grpc(&cluster.name));
            let most = versions * at_once * (1 + 2 * faults + changes + expiries) + lost + broken;
            if opened > most {
                let what = format!(
                    "{process} opened {opened} connections to {endpoint}, and {most} would be enough"
                );
                violation(violations, facts.end_us(), what);
            }
        }
    }
}
