//! An endpoint that its active checks say is unhealthy is not picked while another is available; and checks find out what is
//! the case: they come as often as configured, in doubt more often, none takes longer than it may, and in the end, who has been well for long
//! enough counts as healthy, and who has been away for long enough does not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Breach, Law, breach};
use crate::plan::{Action, Role};
use crate::swarm::endpoints::{Happening, happenings};
use crate::swarm::facts::{Change, Facts};
use proxy::config::defaults::CHECK_JITTER;
use proxy::config::{Health, ProbeRequest};

pub(super) const LAW: Law = Law {
    name: "health",
    says: "an unhealthy endpoint is picked only for want of another, and checks tell who is",
    check,
};

/// The first check of an endpoint comes within this time.
const LOOK: Duration = Duration::from_secs(1);

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters() {
        let Some(health) = &cluster.health else { continue };
        // `None`: nothing is known of it. So it is of one that has gone, of which a check may still say something, and comes
        // again.
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
        for (when, endpoint, what) in happenings(facts, process, &cluster.name) {
            let at = when.at;
            match what {
                Happening::Changed(Change::Healthy(healthy)) => {
                    let before = states.insert(endpoint, Some(*healthy)).flatten();
                    if before == Some(*healthy) {
                        breach(breaches, at, format!("{endpoint} turned healthy={healthy} twice in a row"));
                    }
                    let (run, needed) = (in_a_row(endpoint, *healthy), needed(*healthy));
                    if before.is_some() && is_judged && !gone.contains_key(endpoint) && run < needed {
                        let what = format!(
                            "{endpoint} turned healthy={healthy} after {run} checks in a row, not {needed}"
                        );
                        breach(breaches, at, what);
                    }
                }
                Happening::Changed(change @ (Change::CheckFailed | Change::CheckPassed)) => {
                    let passed = *change == Change::CheckPassed;
                    let (run, needed) = (in_a_row(endpoint, passed), needed(passed));
                    let says_otherwise = states.get(endpoint).copied().flatten() == Some(!passed);
                    if says_otherwise && is_judged && !gone.contains_key(endpoint) && run >= needed {
                        let what = format!(
                            "{run} checks of {endpoint} in a row say healthy={passed}, {needed} are enough, and \
                             it counts as the opposite"
                        );
                        breach(breaches, at, what);
                    }
                }
                Happening::Changed(Change::Found) => {
                    states.insert(endpoint, None);
                }
                Happening::Changed(Change::Gone) => {
                    gone.insert(endpoint, at);
                }
                Happening::Picked { begun, panic: false, .. } => {
                    let unhealthy = states.get(endpoint) == Some(&Some(false));
                    // A request keeps the endpoints that it began with, and with them what was known of one that has gone since.
                    let left = gone.get(endpoint).is_some_and(|at| *at >= begun);
                    if unhealthy && !left {
                        breach(breaches, at, format!("{endpoint} was picked although it is unhealthy"));
                    }
                }
                _ => {}
            }
        }
        // Who is in a registry may be gone from it, and is not checked then.
        if cluster.discovery.is_some() || !facts.is_steady(process) {
            continue;
        }
        if facts.keeps(process, &cluster.name, |cluster| &cluster.health) {
            pace(facts, process, &cluster.name, health, breaches);
        }
        for endpoint in cluster.endpoints.iter() {
            let endpoint = endpoint.address.to_string();
            let counts_as = states.get(endpoint.as_str()).copied().flatten();
            if let Some(is_well) = truth(facts, &endpoint, health)
                && counts_as.is_some_and(|counts_as| counts_as != is_well)
            {
                let what = format!("{endpoint} is well: {is_well}; checks say {counts_as:?}");
                breach(breaches, facts.end_us(), what);
            }
        }
    }
}

/// After each check of an endpoint comes another, and sooner if it contradicts what was known.
fn pace(facts: &Facts, process: &str, cluster: &str, health: &Health, breaches: &mut Vec<Breach>) {
    // Waiting, connecting and giving up each end with a step of time.
    let within = |pause: Duration| (pause + health.timeout).as_micros() as u64 + 3 * facts.tick_us;
    let (usually, in_doubt) =
        (within(longest_pause(health)), within(health.edge_interval.mul_f64(1.0 + CHECK_JITTER)));
    // By when there must be another one, and since when there was none; and what the last one that turned said.
    let mut due: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut states: BTreeMap<&str, bool> = BTreeMap::new();
    let mut late = |endpoint: &str, (by, since): (u64, u64), at: u64| {
        if at > by {
            let passed = Duration::from_micros(at - since);
            breach(breaches, at, format!("{endpoint} was not checked for {passed:?}"));
        }
    };
    for standing in facts.standings_of(process, cluster) {
        let (endpoint, at) = (standing.endpoint.as_str(), standing.when.at);
        let passed = match standing.change {
            Change::Healthy(healthy) => {
                states.insert(endpoint, healthy);
                healthy
            }
            Change::CheckFailed => false,
            Change::CheckPassed => true,
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

/// Whether checks of an endpoint succeed when the day ends, if that has been so for long enough for them to find out.
fn truth(facts: &Facts, endpoint: &str, health: &Health) -> Option<bool> {
    let instance = facts.instance_of(endpoint)?;
    let end = facts.end_us();
    let mut touching =
        facts.plan.timeline.iter().filter(|entry| entry.action.touches(instance)).collect::<Vec<_>>();
    touching.sort_by_key(|entry| entry.at);
    let mut changed = facts.moment(LOOK).max(facts.chaos.until.as_micros() as u64);
    let mut is_well = true;
    for entry in touching {
        match (facts.over(entry), &entry.action) {
            // What queues at a slow link is there for as long as it takes, also when the link is fast again.
            (_, Action::Link { links }) if links.iter().any(|link| link.profile.bandwidth > 0) => {
                return None;
            }
            (Some(over), _) => changed = changed.max(over),
            (None, Action::App { change, .. }) if change.unhealthy.is_some() => return None,
            // What else an app answers is no matter of its health.
            (None, Action::App { .. } | Action::Configure { .. }) => {}
            (None, Action::Kill { hard: true, processes, .. }) => {
                changed = changed.max(facts.moment(entry.at));
                is_well &= health.ask == ProbeRequest::Tcp && processes.iter().all(|p| p.role == Role::App);
            }
            // Its sidecar may still have connections to an app that takes no new ones.
            (None, Action::Refuse { processes }) if processes.iter().any(|p| p.role == Role::App) => {
                return None;
            }
            (None, Action::Refuse { .. } | Action::Crash { .. }) => {
                changed = changed.max(facts.moment(entry.at));
                is_well = false;
            }
            (None, _) => return None,
        }
    }
    let thresholds = health.thresholds.healthy.max(health.thresholds.unhealthy);
    let takes = (longest_pause(health) + health.timeout).mul_f64(1.1) * (thresholds + 1);
    (changed + takes.as_micros() as u64 <= end).then_some(is_well)
}
