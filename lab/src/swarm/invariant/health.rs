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
use crate::swarm::identity::is_strangers;
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
        let is_judged =
            facts.is_steady(process) && facts.keeps(process, &cluster.name, |cluster| &cluster.health);
        let mut checked = CheckedEndpoints::new(health, is_judged);
        for (when, endpoint, what) in endpoint_events(facts, process, &cluster.name) {
            if let Some(what) = checked.hear(when.at, endpoint, &what) {
                violation(violations, when.at, what);
            }
        }
        // An endpoint of a registry may have left it, and is not checked then.
        if cluster.discovery.is_some() || !facts.is_steady(process) || is_strangers(process) {
            continue;
        }
        if is_judged {
            pace(facts, process, &cluster.name, health, violations);
        }
        for endpoint in cluster.endpoints.iter() {
            let endpoint = endpoint.address.to_string();
            let counts_as = checked.counts_as(&endpoint);
            if let Some(is_well) = truth(facts, &endpoint, health)
                && counts_as.is_some_and(|counts_as| counts_as != is_well)
            {
                let what = format!("{endpoint} is well: {is_well}; checks say {counts_as:?}");
                violation(violations, facts.end_us(), what);
            }
        }
    }
}

/// What checks have said of a cluster's endpoints.
struct CheckedEndpoints<'a> {
    health: &'a Health,
    /// Whether the number of checks in a row is judged.
    is_judged: bool,
    /// `None`: nothing is known of it, as of one that has left the registry and may come back; a
    /// late check of it may still end.
    states: BTreeMap<&'a str, Option<bool>>,
    gone: BTreeMap<&'a str, u64>,
    /// What the last checks in a row said, and how many they are.
    runs: BTreeMap<&'a str, (bool, u32)>,
}

impl<'a> CheckedEndpoints<'a> {
    fn new(health: &'a Health, is_judged: bool) -> Self {
        let (states, gone, runs) = Default::default();
        CheckedEndpoints { health, is_judged, states, gone, runs }
    }

    /// Takes an event of an endpoint, and says what is wrong with it.
    fn hear(&mut self, at: u64, endpoint: &'a str, what: &EndpointEvent<'_>) -> Option<String> {
        match what {
            EndpointEvent::Changed(EndpointChange::Healthy(healthy)) => self.turned(endpoint, *healthy),
            EndpointEvent::Changed(EndpointChange::CheckFailed) => self.confirmed(endpoint, false),
            EndpointEvent::Changed(EndpointChange::CheckPassed) => self.confirmed(endpoint, true),
            EndpointEvent::Changed(EndpointChange::Found) => {
                self.states.insert(endpoint, None);
                None
            }
            EndpointEvent::Changed(EndpointChange::Gone) => {
                self.gone.insert(endpoint, at);
                None
            }
            EndpointEvent::Picked { begun, panic: false, .. } => {
                // A request keeps the endpoints that it began with, and with them what was known of
                // one that has gone since.
                let left = self.gone.get(endpoint).is_some_and(|at| at >= begun);
                let is_wrong = self.counts_as(endpoint) == Some(false) && !left;
                is_wrong.then(|| format!("{endpoint} was picked although it is unhealthy"))
            }
            _ => None,
        }
    }

    /// A check turned an endpoint.
    fn turned(&mut self, endpoint: &'a str, healthy: bool) -> Option<String> {
        let before = self.states.insert(endpoint, Some(healthy)).flatten();
        let (run, needed) = (self.in_a_row(endpoint, healthy), self.needed(healthy));
        if before == Some(healthy) {
            return Some(format!("{endpoint} turned healthy={healthy} twice in a row"));
        }
        let is_early = before.is_some() && self.is_counted(endpoint) && run < needed;
        is_early
            .then(|| format!("{endpoint} turned healthy={healthy} after {run} checks in a row, not {needed}"))
    }

    /// A check changed nothing.
    fn confirmed(&mut self, endpoint: &'a str, passed: bool) -> Option<String> {
        let (run, needed) = (self.in_a_row(endpoint, passed), self.needed(passed));
        let says_otherwise = self.counts_as(endpoint) == Some(!passed);
        let is_late = says_otherwise && self.is_counted(endpoint) && run >= needed;
        is_late.then(|| {
            format!(
                "{run} checks of {endpoint} in a row say healthy={passed}, {needed} are enough, and it \
                 counts as the opposite"
            )
        })
    }

    fn counts_as(&self, endpoint: &str) -> Option<bool> {
        self.states.get(endpoint).copied().flatten()
    }

    fn is_counted(&self, endpoint: &str) -> bool {
        self.is_judged && !self.gone.contains_key(endpoint)
    }

    fn needed(&self, passed: bool) -> u32 {
        let thresholds = &self.health.thresholds;
        if passed { thresholds.healthy } else { thresholds.unhealthy }
    }

    /// Counts a check: how many in a row have said so now.
    fn in_a_row(&mut self, endpoint: &'a str, passed: bool) -> u32 {
        let run = self.runs.entry(endpoint).or_insert((passed, 0));
        *run = if run.0 == passed { (passed, run.1 + 1) } else { (passed, 1) };
        run.1
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
                | Action::Restart(Restart { kill: Kill { hard: true, processes }, .. }),
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
