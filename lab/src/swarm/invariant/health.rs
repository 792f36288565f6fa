//! An endpoint that active checks find unhealthy is not picked while another one is available.
//! Checks come as often as configured and more often after a contradiction, none takes longer than
//! its limit, and in the end an endpoint that was well for long enough counts as healthy, and one
//! that was away for long enough does not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Invariant, Violation, violation};
use crate::fault::{Action, Kill, Restart};
use crate::mesh::Role;
use crate::swarm::endpoints::{EndpointEvent, endpoint_events};
use crate::swarm::facts::{EndpointChange, Facts};
use proxy::config::defaults::CHECK_JITTER;
use proxy::config::{Health, ProbeRequest};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "health",
    says: "an unhealthy endpoint is picked only if no other is available, and checks find it",
    check,
};

/// The first check of an endpoint comes within this time.
const LOOK: Duration = Duration::from_secs(1);

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (process, cluster) in facts.clusters() {
        let Some(health) = &cluster.health else { continue };
        // `None`: nothing is known of it, as of one that has left the registry and may come back; a
        // late check of it may still end.
        let mut states: BTreeMap<&str, Option<bool>> = BTreeMap::new();
        let mut gone: BTreeMap<&str, u64> = BTreeMap::new();
        // What the last checks in a row said, and how many they are.
        let mut runs: BTreeMap<&str, (bool, u32)> = BTreeMap::new();
        let mut in_a_row = |endpoint, passed| {
            let run = runs.entry(endpoint).or_insert((passed, 0));
            *run = if run.0 == passed { (passed, run.1 + 1) } else { (passed, 1) };
            run.1
        };
        let is_judged =
            facts.is_steady(process) && facts.keeps(process, &cluster.name, |cluster| &cluster.health);
        let needed = |passed| if passed { health.thresholds.healthy } else { health.thresholds.unhealthy };
        for (when, endpoint, what) in endpoint_events(facts, process, &cluster.name) {
            let at = when.at;
            match what {
                EndpointEvent::Changed(EndpointChange::Healthy(healthy)) => {
                    let before = states.insert(endpoint, Some(*healthy)).flatten();
                    if before == Some(*healthy) {
                        violation(
                            violations,
                            at,
                            format!("{endpoint} turned healthy={healthy} twice in a row"),
                        );
                    }
                    let (run, needed) = (in_a_row(endpoint, *healthy), needed(*healthy));
                    if before.is_some() && is_judged && !gone.contains_key(endpoint) && run < needed {
                        let what = format!(
                            "{endpoint} turned healthy={healthy} after {run} checks in a row, not {needed}"
                        );
                        violation(violations, at, what);
                    }
                }
                EndpointEvent::Changed(
                    change @ (EndpointChange::CheckFailed | EndpointChange::CheckPassed),
                ) => {
                    let passed = *change == EndpointChange::CheckPassed;
                    let (run, needed) = (in_a_row(endpoint, passed), needed(passed));
                    let says_otherwise = states.get(endpoint).copied().flatten() == Some(!passed);
                    if says_otherwise && is_judged && !gone.contains_key(endpoint) && run >= needed {
                        let what = format!(
                            "{run} checks of {endpoint} in a row say healthy={passed}, {needed} are enough, and \
                             it counts as the opposite"
                        );
                        violation(violations, at, what);
                    }
                }
                EndpointEvent::Changed(EndpointChange::Found) => {
                    states.insert(endpoint, None);
                }
                EndpointEvent::Changed(EndpointChange::Gone) => {
                    gone.insert(endpoint, at);
                }
                EndpointEvent::Picked { begun, panic: false, .. } => {
                    let unhealthy = states.get(endpoint) == Some(&Some(false));
                    // A request keeps the endpoints that it began with, and with them what was
                    // known of one that has gone since.
                    let left = gone.get(endpoint).is_some_and(|at| *at >= begun);
                    if unhealthy && !left {
                        violation(violations, at, format!("{endpoint} was picked although it is unhealthy"));
                    }
                }
                _ => {}
            }
        }
        // An endpoint of a registry may have left it, and is not checked then.
        if cluster.discovery.is_some() || !facts.is_steady(process) {
            continue;
        }
        if facts.keeps(process, &cluster.name, |cluster| &cluster.health) {
            pace(facts, process, &cluster.name, health, violations);
        }
        for endpoint in cluster.endpoints.iter() {
            let endpoint = endpoint.address.to_string();
            let counts_as = states.get(endpoint.as_str()).copied().flatten();
            if let Some(is_well) = truth(facts, &endpoint, health)
                && counts_as.is_some_and(|counts_as| counts_as != is_well)
            {
                let what = format!("{endpoint} is well: {is_well}; checks say {counts_as:?}");
                violation(violations, facts.end_us(), what);
            }
        }
    }
}

/// After each check of an endpoint comes another, and sooner if it contradicts what was known.
fn pace(facts: &Facts, process: &str, cluster: &str, health: &Health, violations: &mut Vec<Violation>) {
    // Waiting, connecting and giving up each end with a step of time.
    let within = |pause: Duration| (pause + health.timeout).as_micros() as u64 + 3 * facts.tick_us;
    let (usually, in_doubt) =
        (within(longest_pause(health)), within(health.edge_interval.mul_f64(1.0 + CHECK_JITTER)));
    // By when there must be another one, and since when there was none; and what the last one that
    // turned said.
    let mut due: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut states: BTreeMap<&str, bool> = BTreeMap::new();
    let mut late = |endpoint: &str, (by, since): (u64, u64), at: u64| {
        if at > by {
            let passed = Duration::from_micros(at - since);
            violation(violations, at, format!("{endpoint} was not checked for {passed:?}"));
        }
    };
    for update in facts.availability_of(process, cluster) {
        let (endpoint, at) = (update.endpoint.as_str(), update.when.at);
        let passed = match update.change {
            EndpointChange::Healthy(healthy) => {
                states.insert(endpoint, healthy);
                healthy
            }
            EndpointChange::CheckFailed => false,
            EndpointChange::CheckPassed => true,
            _ => continue,
        };
        let pause = if states.get(endpoint) == Some(&passed) { usually } else { in_doubt };
        if let Some(last) = due.insert(endpoint, (at + pause, at)) {
            late(endpoint, last, at);
        }
    }
    for (endpoint, last) in due {
        late(endpoint, last, facts.end_us());
    }
}

/// The longest time between two checks.
fn longest_pause(health: &Health) -> Duration {
    health.interval.max(health.edge_interval).max(health.no_traffic_interval).mul_f64(1.0 + CHECK_JITTER)
}

/// Whether checks of an endpoint succeed when the run ends, if that has been so for long enough for
/// them to find out.
fn truth(facts: &Facts, endpoint: &str, health: &Health) -> Option<bool> {
    let instance = facts.instance_of(endpoint)?;
    let end = facts.end_us();
    let mut touching =
        facts.plan.timeline.iter().filter(|entry| entry.action.touches(instance)).collect::<Vec<_>>();
    touching.sort_by_key(|entry| entry.at);
    let mut changed = facts.time_us(LOOK).max(facts.chaos.until.as_micros() as u64);
    let mut is_well = true;
    for entry in touching {
        match (facts.over(entry), &entry.action) {
            // What queues at a slow link is there for as long as it takes, also when the link is
            // fast again.
            (_, Action::Impair(impair)) if impair.links.iter().any(|link| link.profile.bandwidth > 0) => {
                return None;
            }
            (Some(over), _) => changed = changed.max(over),
            (None, Action::Behave(behave)) if behave.change.unhealthy.is_some() => return None,
            // Other changes of an app's responses do not concern its health.
            (None, Action::Behave(_) | Action::Configure(_)) => {}
            (
                None,
                Action::Kill(Kill { hard: true, processes })
                | Action::Restart(Restart { hard: true, processes, .. }),
            ) => {
                changed = changed.max(facts.time_us(entry.at));
                is_well &= health.ask == ProbeRequest::Tcp && processes.iter().all(|p| p.role == Role::App);
            }
            // Its sidecar may still have connections to an app that takes no new ones.
            (None, Action::Refuse(refuse)) if refuse.processes.iter().any(|p| p.role == Role::App) => {
                return None;
            }
            (None, Action::Refuse(_) | Action::Crash(_)) => {
                changed = changed.max(facts.time_us(entry.at));
                is_well = false;
            }
            (None, _) => return None,
        }
    }
    let thresholds = health.thresholds.healthy.max(health.thresholds.unhealthy);
    let takes = (longest_pause(health) + health.timeout).mul_f64(1.1) * (thresholds + 1);
    (changed + takes.as_micros() as u64 <= end).then_some(is_well)
}
