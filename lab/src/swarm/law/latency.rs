//! The average latency of an endpoint is made of what its tries took, from when it was picked to the head of its answer: of each
//! that succeeded; of one that was never answered only if that took longer; and of a failure nothing, since failures are quick. It is
//! the same average after a reload as before.
//!
//! The sidecar says with each answer what the average is then. How often it was looked at in between, which lets it fade a little
//! more or less, is not said, so that it is known between two bounds, which the next answer brings together again.

use std::collections::BTreeMap;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Change, Facts, Moment, Step};
use proxy::config::Cluster;
use proxy::config::defaults::{CONNECT_TIMEOUT, EWMA_DECAY, EWMA_START, EXPLORE_AFTER};

pub(super) const LAW: Law = Law {
    name: "latency",
    says: "the average latency is made of what successful tries took, and of nothing else",
    check,
};

/// What the numbers of the log leave open, microseconds.
const ROUNDED: f64 = 1_500.0;

/// What happens to an average.
enum Turn<'a> {
    /// A try ends with an answer: when it began, whether it succeeded, and what the average is then.
    Answered { begun: u64, succeeded: bool, average: u64 },
    /// A try ends without one, after so many microseconds at most.
    Unanswered { most: u64 },
    /// Something is known of the endpoint from elsewhere.
    Changed(&'a Change),
}

/// What the average may be, microseconds.
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

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        // Who is drawn so often and not picked may start anew; how often that is, is not said.
        let picks: usize = facts.requests_to(process, &cluster.name).map(|r| r.picks().count()).sum();
        let explores = picks > EXPLORE_AFTER as usize;
        let mut all: BTreeMap<&str, Bounds> = BTreeMap::new();
        let (events, waits) = events(facts, process, cluster);
        for Event { at, asked, endpoint, turn } in events {
            let bounds = all.entry(endpoint).or_default();
            // A request keeps the endpoints that it began with; who is found again is another one.
            if asked < bounds.found {
                continue;
            }
            match turn {
                Turn::Changed(Change::Found) => *bounds = Bounds { found: at, ..Bounds::default() },
                Turn::Changed(change) => bounds.hear(change),
                Turn::Unanswered { most } => bounds.unanswered(at, most as f64),
                Turn::Answered { begun, succeeded, average } => {
                    let took = (at - begun) as f64;
                    bounds.fade(at);
                    if succeeded {
                        bounds.succeeded(took, explores);
                    }
                    let (average, room) = (average as f64, ROUNDED + bounds.most / 1000.0);
                    // A try that ends without an answer enters when it is let go, which the log does not tell exactly:
                    // any of them that had begun may have entered with all of its time.
                    let waited = waits.iter().filter(|wait| wait.endpoint == endpoint && wait.begun <= at);
                    let most = waited.map(|wait| wait.most).fold(bounds.most.max(bounds.peak), f64::max);
                    if average + room < bounds.least || average > most + room {
                        let [least, most, average] =
                            [bounds.least, bounds.most, average].map(|us| us / 1000.0);
                        let what = format!(
                            "the average latency of {endpoint} is {average:.1} ms after a try of {:.1} ms, and \
                             can only be {least:.1} to {most:.1} ms",
                            took / 1000.0
                        );
                        breach(breaches, at, what);
                    }
                    bounds.is(average, succeeded);
                }
            }
        }
    }
}

/// Something that an average hears of.
struct Event<'a> {
    at: u64,
    /// When its request began, if it has one.
    asked: u64,
    endpoint: &'a str,
    turn: Turn<'a>,
}

/// A try that was never answered.
struct Wait<'a> {
    endpoint: &'a str,
    begun: u64,
    /// How long it may have been, microseconds.
    most: f64,
}

/// What happens to the averages of a cluster's endpoints in the eyes of a sidecar, in order, and the tries that were never
/// answered.
fn events<'a>(facts: &'a Facts, process: &'a str, cluster: &Cluster) -> (Vec<Event<'a>>, Vec<Wait<'a>>) {
    let changed = facts.standings_of(process, &cluster.name).map(|standing| {
        let Moment { at, .. } = standing.when;
        let turn = Turn::Changed(&standing.change);
        (standing.when, Event { at, asked: at, endpoint: &standing.endpoint, turn })
    });
    let (mut all, mut waits): (Vec<_>, Vec<_>) = (changed.collect(), Vec::new());
    let timeouts = facts.plan.loads.iter().map(|load| load.timeout.as_micros() as u64);
    let patience = timeouts.max().unwrap_or_default();
    // Who waits for a connection hears of its client's end when the dial has failed.
    let heard = CONNECT_TIMEOUT.as_micros() as u64 + 3 * facts.tick_us;
    for request in facts.requests_to(process, &cluster.name) {
        let last = request.steps.last().map(|(when, _)| when.at).filter(|_| request.done().is_some());
        let given_up = request.begun + patience + heard;
        for (pick, endpoint, _) in request.picks() {
            let begun = pick.at;
            let (when, turn) = match request.end_of_try(endpoint, pick) {
                Some((when, Step::Answered { succeeded, average, .. })) => {
                    (when, Turn::Answered { begun, succeeded: *succeeded, average: *average })
                }
                Some((when, _)) => (when, Turn::Unanswered { most: when.at - begun }),
                // When it was given up is not said.
                None => (pick, Turn::Unanswered { most: last.unwrap_or(given_up).saturating_sub(begun) }),
            };
            if let Turn::Unanswered { most } = turn {
                waits.push(Wait { endpoint, begun, most: most as f64 });
            }
            all.push((when, Event { at: when.at, asked: request.begun, endpoint, turn }));
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
        // A shorter one makes up for what has faded since the last look, which may have been at the last answer.
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

    fn hear(&mut self, change: &Change) {
        if matches!(change, Change::Probing | Change::Restored(_)) {
            self.renewing = true;
        }
    }

    /// The sidecar has said what it is, after an answer that was a success or not.
    fn is(&mut self, average: f64, succeeded: bool) {
        (self.least, self.most, self.peak) = (average, average, self.peak.max(average));
        self.answered = self.at;
        if !succeeded {
            // It may be brought back to what it was, or to what is assumed of the unknown.
            self.most = self.most.max(self.peak).max(EWMA_START.as_micros() as f64);
        }
    }
}

/// The share that is kept of an average after `age` microseconds.
fn kept(age: u64) -> f64 {
    (-(age as f64) / 1e6 / EWMA_DECAY.as_secs_f64()).exp()
}
