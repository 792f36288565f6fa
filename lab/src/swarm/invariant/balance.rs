//! Load is spread: no endpoint gets all requests while others are available.
//!
//! How many requests in a row may go to one endpoint follows from the algorithm. Where chance
//! decides, the limit is what happens once in a hundred million times: the better of two random
//! endpoints is the best one as often as that one is drawn, and of two endpoints it may always be
//! the same. Retries take part in the rotation too, so a streak ends with one.
//!
//! Where a hash of the caller decides, all requests go to one endpoint for as long as nothing
//! changes.
//!
//! A balancer that looks at latency notices a slow endpoint, and is not misled by failures, which
//! are quick: of three endpoints, the bad one does not get the most requests.

use std::rc::Rc;
use std::time::Duration;

use super::{Invariant, Violation, longest_run, violation};
use crate::app::http::behaviour::BehaviourChange;
use crate::fault::{Action, Behave, Entry};
use crate::swarm::endpoints::{EndpointEvent, KnownEndpoints, endpoint_events};
use crate::swarm::facts::{Facts, LogPosition, Request, RequestStep};
use proxy::config::{BalancePolicy, Cluster, HashSource};
use proxy::error::Kind;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "balance", says: "no endpoint gets all requests while others are available", check };

/// A difference in latency that the balancer must notice.
const SLOWER: Duration = Duration::from_millis(100);

/// How long the effects of a fault outlast it: the others' attempts that it held up make them look
/// slow for a while.
const AFTERMATH: Duration = Duration::from_millis(1000);

/// The fewest requests of which a share is significant.
const ENOUGH: usize = 10;

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (process, cluster) in facts.clusters().filter(|(_, cluster)| is_even(cluster)) {
        avoids_the_bad(facts, process, cluster, violations);
        let by_caller = cluster.balance.policy.hashes() && cluster.balance.hash == Some(HashSource::Source);
        let mut known = KnownEndpoints::new(cluster);
        let (mut last, mut streak) = ("", 0);
        for (when, endpoint, what) in endpoint_events(facts, process, &cluster.name) {
            match what {
                EndpointEvent::Changed(change) => {
                    known.hear(endpoint, change);
                    streak = 0;
                }
                EndpointEvent::Picked { is_first: true, panic: false, .. } if !known.is_ejected(endpoint) => {
                    if by_caller && streak > 0 && endpoint != last {
                        violation(violations, when.at, format!("one caller met {last} and then {endpoint}"));
                    }
                    streak = if endpoint == last { streak + 1 } else { 1 };
                    last = endpoint;
                    let available = known.available();
                    if let Some(most) = most(&cluster.balance.policy, available).filter(|most| streak > *most)
                    {
                        let what = format!(
                            "{endpoint} was picked for {streak} requests in a row, and at most {most} can go to \
                             one of {available}"
                        );
                        violation(violations, when.at, what);
                        streak = 0;
                    }
                }
                EndpointEvent::Picked { .. } => streak = 0,
                _ => {}
            }
        }
    }
}

/// Checks that an endpoint that a fault makes slow, or lets fail, is avoided.
fn avoids_the_bad(facts: &Facts, process: &Rc<str>, cluster: &Cluster, violations: &mut Vec<Violation>) {
    if cluster.balance.policy != BalancePolicy::P2c {
        return;
    }
    let members = facts.members(&cluster.name);
    let bad = |entry: &Entry| {
        let Action::Behave(Behave { processes, change }) = &entry.action else { return None };
        let [app] = processes[..] else { return None };
        let usual = facts.app_of(&facts.plan.instances[app.instance].name)?.behaviour.work;
        let is_bad = match *change {
            BehaviourChange { work: Some(work), fail: None, malformed: None, .. } => {
                work >= 2 * usual + SLOWER
            }
            BehaviourChange { work: None, fail: Some(share), malformed: None, .. } => share >= 0.5,
            _ => false,
        };
        // Nobody can know it before the first answer has come.
        is_bad.then_some((app.instance, entry.at + usual, entry.until.unwrap_or(facts.plan.duration)))
    };
    for (instance, at, until) in facts.plan.timeline.iter().filter_map(bad) {
        let to = facts.time_us(until);
        // With others unavailable there is no choice, and it takes a while until they get requests
        // again.
        let is_other = |entry: &&Entry| {
            members.iter().any(|member| *member != instance && entry.action.touches(*member))
                && facts.time_us(entry.at) < to
        };
        let others = facts.plan.timeline.iter().filter(is_other);
        let end = |entry: &Entry| entry.until.map_or(u64::MAX, |until| facts.time_us(until + AFTERMATH));
        let from = facts.time_us(at).max(others.map(end).max().unwrap_or_default());
        let within = |at: u64| (from..to).contains(&at);
        let mut availability = facts.availability_of(process, &cluster.name);
        let changes =
            availability.any(|s| within(s.when.at) && facts.instance_of(&s.endpoint) != Some(instance));
        if members.len() < 3 || changes {
            continue;
        }
        // Where a limit of the sidecar refuses an attempt, nothing is sent.
        let is_sent = |request: &Request, endpoint: &str, when: LogPosition| {
            let end = request.end_of_attempt(endpoint, when).map(|(_, step)| step);
            !matches!(end, Some(RequestStep::Failed { error, .. }) if *error == Kind::PoolFull.label())
        };
        let firsts = facts.requests_to(process, &cluster.name).filter_map(|request| {
            request.picks().next().filter(|(when, endpoint, _)| is_sent(request, endpoint, *when))
        });
        let firsts: Vec<_> = firsts.filter(|(when, ..)| within(when.at)).collect();
        let its =
            firsts.iter().filter(|(_, endpoint, _)| facts.instance_of(endpoint) == Some(instance)).count();
        if firsts.len() >= ENOUGH && 2 * its > firsts.len() {
            let all = firsts.len();
            violation(violations, to, format!("the slow or failing endpoint got {its} of {all} requests"));
        }
    }
}

/// Whether all endpoints of a cluster are alike.
fn is_even(cluster: &Cluster) -> bool {
    let alike = |pair: &[proxy::config::Endpoint]| {
        let of = |e: &proxy::config::Endpoint| (e.weight, e.priority, e.zone.clone());
        of(&pair[0]) == of(&pair[1])
    };
    cluster.balance.slow_start.is_none() && cluster.endpoints.windows(2).all(alike)
}

/// How many requests in a row may go to one of `available` endpoints.
fn most(policy: &BalancePolicy, available: usize) -> Option<u32> {
    let share = match policy {
        _ if available < 2 => return None,
        // It may be the last one before a change and the first one after it.
        BalancePolicy::RoundRobin => return Some(2),
        BalancePolicy::Random => 1.0 / available as f64,
        BalancePolicy::P2c => 2.0 / available as f64,
        BalancePolicy::LeastRequest { choices } => *choices as f64 / available as f64,
        BalancePolicy::RingHash { .. } | BalancePolicy::Maglev { .. } => return None,
    };
    (share < 1.0).then(|| longest_run(share))
}
