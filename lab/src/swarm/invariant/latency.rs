//! The average latency of an endpoint is made of its attempts, from the pick to the head of the
//! response: of each success; of an attempt that was never answered only if it took longer; and of
//! no failure, since failures are quick. A reload does not change the average.
//!
//! The sidecar logs the average with each response. How often the average was read in between,
//! which lets it decay a little more or less, is not logged, so it is known between two bounds,
//! which the next response brings together again.

use std::collections::BTreeMap;

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{EndpointChange, Facts, LogPosition, RequestStep};
use proxy::config::Cluster;
use proxy::config::defaults::{CONNECT_TIMEOUT, EWMA_DECAY, EWMA_START, EXPLORE_AFTER};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "latency",
    says: "the average latency is made of successful attempts, and of nothing else",
    check,
};

/// The precision of the logged average, microseconds.
const ROUNDED: f64 = 1_500.0;

/// What can change an average.
enum LatencyEventKind<'a> {
    /// An attempt ends with an answer: when it began, whether it succeeded, and what the average is
    /// then.
    Answered { begun: u64, succeeded: bool, average: u64 },
    /// An attempt ends without one, after so many microseconds at most.
    Unanswered { most: u64 },
    /// The availability of the endpoint changes.
    Changed(&'a EndpointChange),
}

/// Bounds of the average, microseconds.
#[derive(Default)]
struct Bounds {
    least: f64,
    most: f64,
    /// The largest that it has been after an answer: a failure may bring that back.
    peak: f64,
    /// When the endpoint was found, if it was not always there.
    found: u64,
    /// When they were this.
    at: u64,
    /// When there was an answer last.
    answered: u64,
    /// Whether the next answer may replace it.
    renewing: bool,
}

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        // An endpoint that loses many comparisons is explored anew; the comparisons are not logged.
        let picks: usize = facts.requests_to(process, &cluster.name).map(|r| r.picks().count()).sum();
        let explores = picks > EXPLORE_AFTER as usize;
        let mut all: BTreeMap<&str, Bounds> = BTreeMap::new();
        let (events, waits) = events(facts, process, cluster);
        for LatencyEvent { at, asked, endpoint, kind } in events {
            let bounds = all.entry(endpoint).or_default();
            // A request keeps the endpoints that it began with; one that is found again is a new
            // one.
            if asked < bounds.found {
                continue;
            }
            match kind {
                LatencyEventKind::Changed(EndpointChange::Found) => {
                    *bounds = Bounds { found: at, ..Bounds::default() }
                }
                LatencyEventKind::Changed(change) => bounds.hear(change),
                LatencyEventKind::Unanswered { most } => bounds.unanswered(at, most as f64),
                LatencyEventKind::Answered { begun, succeeded, average } => {
                    let took = (at - begun) as f64;
                    bounds.fade(at);
                    if succeeded {
                        bounds.succeeded(took, explores);
                    }
                    let (average, room) = (average as f64, ROUNDED + bounds.most / 1000.0);
                    // An attempt that ends without a response counts when it is dropped, which the
                    // log does not tell exactly: any of them that had begun may have counted with
                    // all of its time.
                    let waited = waits.iter().filter(|wait| wait.endpoint == endpoint && wait.begun <= at);
                    let most = waited.map(|wait| wait.most).fold(bounds.most.max(bounds.peak), f64::max);
                    if average + room < bounds.least || average > most + room {
                        let [least, most, average] =
                            [bounds.least, bounds.most, average].map(|us| us / 1000.0);
                        let what = format!(
                            "the average latency of {endpoint} is {average:.1} ms after an attempt of {:.1} ms, and \
                             can only be {least:.1} to {most:.1} ms",
                            took / 1000.0
                        );
                        violation(violations, at, what);
                    }
                    bounds.is(average, succeeded);
                }
            }
        }
    }
}

/// An event that concerns an average.
struct LatencyEvent<'a> {
    at: u64,
    /// When its request began, if it has one.
    asked: u64,
    endpoint: &'a str,
    kind: LatencyEventKind<'a>,
}

/// An attempt that was never answered.
struct Wait<'a> {
    endpoint: &'a str,
    begun: u64,
    /// How long it may have been, microseconds.
    most: f64,
}

/// The events that concern the averages of a cluster's endpoints at a sidecar, in order, and the
/// attempts that were never answered.
fn events<'a>(
    facts: &'a Facts,
    process: &'a str,
    cluster: &Cluster,
) -> (Vec<LatencyEvent<'a>>, Vec<Wait<'a>>) {
    let changed = facts.availability_of(process, &cluster.name).map(|update| {
        let LogPosition { at, .. } = update.when;
        let kind = LatencyEventKind::Changed(&update.change);
        (update.when, LatencyEvent { at, asked: at, endpoint: &update.endpoint, kind })
    });
    let (mut all, mut waits): (Vec<_>, Vec<_>) = (changed.collect(), Vec::new());
    let timeouts = facts.plan.loads.iter().map(|load| load.timeout.as_micros() as u64);
    let patience = timeouts.max().unwrap_or_default();
    // A request that waits for a connection notices that its client has left when the dial has
    // failed.
    let heard = CONNECT_TIMEOUT.as_micros() as u64 + 3 * facts.tick_us;
    for request in facts.requests_to(process, &cluster.name) {
        let last = request.steps.last().map(|(when, _)| when.at).filter(|_| request.done().is_some());
        let given_up = request.begun + patience + heard;
        for (pick, endpoint, _) in request.picks() {
            let begun = pick.at;
            let (when, kind) = match request.end_of_attempt(endpoint, pick) {
                Some((when, RequestStep::Answered { succeeded, average, .. })) => {
                    (when, LatencyEventKind::Answered { begun, succeeded: *succeeded, average: *average })
                }
                Some((when, _)) => (when, LatencyEventKind::Unanswered { most: when.at - begun }),
                // When it was given up is not logged.
                None => (
                    pick,
                    LatencyEventKind::Unanswered { most: last.unwrap_or(given_up).saturating_sub(begun) },
                ),
            };
            if let LatencyEventKind::Unanswered { most } = kind {
                waits.push(Wait { endpoint, begun, most: most as f64 });
            }
            all.push((when, LatencyEvent { at: when.at, asked: request.begun, endpoint, kind }));
        }
    }
    all.sort_by_key(|(when, _)| *when);
    (all.into_iter().map(|(_, event)| event).collect(), waits)
}

impl Bounds {
    fn fade(&mut self, at: u64) {
        let kept = kept(at.saturating_sub(self.at));
        self.at = at;
        self.least *= kept;
        self.most *= kept;
    }

    fn succeeded(&mut self, took: f64, explores: bool) {
        // A shorter one makes up for the decay since the last read, which may have been at the last
        // response.
        let made_up = took * (1.0 - kept(self.at - self.answered));
        self.most = took.max(self.most + made_up);
        let may_be_new = std::mem::take(&mut self.renewing) || explores;
        self.least = if may_be_new { took.min(self.least) } else { took.max(self.least) };
    }

    fn unanswered(&mut self, at: u64, waited: f64) {
        self.fade(at);
        self.most = self.most.max(waited).max(self.peak).max(EWMA_START.as_micros() as f64);
        self.peak = self.peak.max(waited);
    }

    fn hear(&mut self, change: &EndpointChange) {
        if matches!(change, EndpointChange::Probing | EndpointChange::Restored(_)) {
            self.renewing = true;
        }
    }

    /// The sidecar has logged the average, after a success or a failure.
    fn is(&mut self, average: f64, succeeded: bool) {
        (self.least, self.most, self.peak) = (average, average, self.peak.max(average));
        self.answered = self.at;
        if !succeeded {
            // It may return to its peak, or to the initial value.
            self.most = self.most.max(self.peak).max(EWMA_START.as_micros() as f64);
        }
    }
}

/// The share that is kept of an average after `age` microseconds.
fn kept(age: u64) -> f64 {
    (-(age as f64) / 1e6 / EWMA_DECAY.as_secs_f64()).exp()
}
