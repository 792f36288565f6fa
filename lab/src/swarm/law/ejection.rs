//! The breaker's states, and the cap over them: an endpoint that was ejected is left alone for as long as was said, comes
//! back only by a probe that succeeds or a check that passes, and never are more out than the cap allows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Change, Facts, Moment, Step};
use proxy::config::defaults::PROBE_PATIENCE;

pub(super) const LAW: Law = Law {
    name: "ejection",
    says: "an ejected endpoint is left alone for its time, returns by a probe, and the cap holds",
    check,
};

#[derive(Clone, Copy, PartialEq)]
enum State {
    Closed,
    Ejected { until: u64 },
    HalfOpen { until: u64 },
}

enum Happening<'a> {
    Standing(&'a Change),
    /// At an endpoint, although nobody is available.
    Pick {
        panic: bool,
    },
}

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters() {
        let config = &cluster.breaker;
        // The registry's, where it has them; changes of it come and go.
        let mut known: BTreeSet<String> = cluster.endpoints.iter().map(|e| e.address.to_string()).collect();
        let standings = facts.standings_of(process, &cluster.name);
        let standings = standings.map(|s| (s.when, s.endpoint.as_str(), Happening::Standing(&s.change)));
        let picks = facts.requests_to(process, &cluster.name).flat_map(|request| &request.steps);
        let picks = picks.filter_map(|(when, step)| match step {
            Step::Picked { endpoint, panic } => {
                Some((*when, endpoint.as_str(), Happening::Pick { panic: *panic }))
            }
            _ => None,
        });
        let mut all: Vec<_> = standings.chain(picks).collect();
        all.sort_by_key(|(when, ..)| *when);
        let mut states: BTreeMap<&str, State> = BTreeMap::new();
        for (Moment { at, .. }, endpoint, what) in all {
            match what {
                Happening::Standing(Change::Found) => {
                    known.insert(endpoint.to_owned());
                    continue;
                }
                Happening::Standing(Change::Gone) => {
                    known.remove(endpoint);
                    states.remove(endpoint);
                    continue;
                }
                // Of one that is gone, a request that began before may still say something.
                _ if !known.contains(endpoint) => continue,
                _ => {}
            }
            let state = states.get(endpoint).copied().unwrap_or(State::Closed);
            let next = match what {
                Happening::Pick { panic } => {
                    let until = match state {
                        State::Closed => 0,
                        State::Ejected { until } | State::HalfOpen { until } => until,
                    };
                    // A step of time, and the rounding of timers.
                    if !panic && at + facts.tick_us + 1_000 < until {
                        let left = Duration::from_micros(until - at);
                        breach(breaches, at, format!("{endpoint} was picked {left:?} before its time"));
                    }
                    continue;
                }
                Happening::Standing(Change::Ejected(time, reason)) => {
                    if *time < config.base.min(config.max) || *time > config.max {
                        let range = format!("{:?} to {:?}", config.base, config.max);
                        breach(breaches, at, format!("{endpoint} is ejected for {time:?}, not for {range}"));
                    }
                    let legal = match state {
                        State::Closed => reason != "failed_probe",
                        State::HalfOpen { .. } => reason == "failed_probe",
                        State::Ejected { .. } => false,
                    };
                    if !legal {
                        breach(
                            breaches,
                            at,
                            format!("{endpoint} is ejected for {reason}, which cannot be now"),
                        );
                    }
                    State::Ejected { until: at + time.as_micros() as u64 }
                }
                Happening::Standing(Change::Probing) => {
                    if state == State::Closed {
                        breach(breaches, at, format!("{endpoint} is probed, but was not ejected"));
                    }
                    State::HalfOpen { until: at + PROBE_PATIENCE.as_micros() as u64 }
                }
                Happening::Standing(Change::Restored(by_check)) => {
                    let legal = match state {
                        State::HalfOpen { .. } => true,
                        State::Ejected { .. } => *by_check,
                        State::Closed => false,
                    };
                    if !legal {
                        breach(breaches, at, format!("{endpoint} is back without a probe that succeeded"));
                    }
                    State::Closed
                }
                // The next request is another probe.
                Happening::Standing(Change::Unanswered) => match state {
                    State::HalfOpen { .. } => State::HalfOpen { until: at },
                    other => other,
                },
                Happening::Standing(_) => continue,
            };
            states.insert(endpoint, next);
            let out = states.values().filter(|state| **state != State::Closed).count();
            let count = known.len();
            let most = ((count as f64 * config.cap) as usize).max(1);
            if state == State::Closed && out > most {
                breach(
                    breaches,
                    at,
                    format!("{out} of {count} endpoints are out, and at most {most} may be"),
                );
            }
        }
    }
}
