//! The states of outlier detection, and its cap. An ejected endpoint is out for the time that was
//! logged, which grows with each ejection. It comes back only by a probe that succeeds or, unless
//! it is out for its success rate, by a check that passes. Never are more endpoints out than the
//! cap allows.
//!
//! During a probe, only what was sent since the probe began decides: what was in flight before says
//! how the endpoint was then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Invariant, Violation, violation};
use crate::swarm::endpoints::{EndpointEvent, KnownEndpoints, endpoint_events};
use crate::swarm::facts::{EndpointChange, Facts, LogPosition, RequestStep};
use proxy::config::OutlierDetection;
use proxy::config::defaults::{EJECTION_JITTER, PROBE_TIMEOUT};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "ejection",
    says: "an ejected endpoint is out for its time, returns by a probe, and the cap holds",
    check,
};

/// What is known of an endpoint.
#[derive(Default)]
struct EjectionState {
    state: State,
    /// When it was picked.
    picks: Vec<u64>,
    /// It is out for its success rate, which no check can observe.
    for_its_rate: bool,
    /// How often its time out was doubled.
    doublings: u32,
    /// When it came back.
    back: Option<u64>,
    /// Since when it is probed.
    probed: u64,
}

#[derive(Clone, Copy, PartialEq, Default)]
enum State {
    #[default]
    Closed,
    Ejected {
        until: u64,
    },
    HalfOpen {
        until: u64,
    },
}

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (process, cluster) in facts.clusters() {
        let (config, is_grpc) = (&cluster.outlier_detection, facts.speaks_grpc(&cluster.name));
        let mut known = KnownEndpoints::new(cluster);
        let mut seen: BTreeMap<&str, EjectionState> = BTreeMap::new();
        for (LogPosition { at, .. }, endpoint, what) in endpoint_events(facts, process, &cluster.name) {
            if let EndpointEvent::Changed(change) = what {
                known.hear(endpoint, change);
            }
            if !known.has(endpoint) {
                seen.remove(endpoint);
                continue;
            }
            let before = seen.entry(endpoint).or_default();
            match what {
                EndpointEvent::Picked { panic, .. } => {
                    before.picks.push(at);
                    let until = match before.state {
                        State::Closed => 0,
                        State::Ejected { until } | State::HalfOpen { until } => until,
                    };
                    // A step of time, and the rounding of timers.
                    if !panic && at + facts.tick_us + 1_000 < until {
                        let left = Duration::from_micros(until - at);
                        violation(violations, at, format!("{endpoint} was picked {left:?} before its time"));
                    }
                }
                EndpointEvent::Changed(change) => {
                    let was_closed = before.state == State::Closed;
                    if let EndpointChange::Probing = change {
                        before.probed = at;
                    }
                    let attempts = || facts.attempts_at(process, &cluster.name, endpoint);
                    if let Some(well) = probed(change)
                        && !attempts()
                            .iter()
                            .any(|(begun, end)| begun.at >= before.probed && decides(well, at, *end, is_grpc))
                    {
                        let is = if well { "is back" } else { "stays out" };
                        let what = format!(
                            "{endpoint} {is}, and nothing that was sent since its probe began is the reason"
                        );
                        violation(violations, at, what);
                    }
                    if let Err(wrong) = before.step(change, at, config) {
                        violation(violations, at, format!("{endpoint} {wrong}"));
                    }
                    let (out, most) = (known.ejected(), known.cap(cluster));
                    if was_closed && before.state != State::Closed && out > most {
                        let count = known.count();
                        let what =
                            format!("{out} of {count} endpoints are ejected, and at most {most} may be");
                        violation(violations, at, what);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whether a probe succeeded, if a change is about one.
fn probed(change: &EndpointChange) -> Option<bool> {
    match change {
        EndpointChange::Restored(false) => Some(true),
        EndpointChange::Ejected(_, why) if why == "failed_probe" => Some(false),
        _ => None,
    }
}

/// Whether an attempt with this end may be why an endpoint is thought to be well, or not, at a
/// moment. Of a gRPC call its trailers decide, of which the log does not tell.
fn decides(well: bool, at: u64, end: Option<(LogPosition, &RequestStep)>, is_grpc: bool) -> bool {
    match end {
        Some((when, RequestStep::Answered { .. })) if is_grpc => when.at <= at,
        Some((when, RequestStep::Answered { succeeded, .. })) => when.at == at && *succeeded == well,
        Some((when, RequestStep::Failed { .. })) => when.at == at && !well,
        Some(_) => false,
        // Its request had timed out before.
        None => !well,
    }
}

impl EjectionState {
    /// Takes a change.
    ///
    /// # Errors
    /// Why the change is wrong.
    fn step(&mut self, change: &EndpointChange, at: u64, config: &OutlierDetection) -> Result<(), String> {
        let before = self.state;
        match change {
            EndpointChange::Ejected(time, reason) => {
                self.state = State::Ejected { until: at + time.as_micros() as u64 };
                self.for_its_rate = reason == "success_rate" || self.for_its_rate && reason == "failed_probe";
                let [least, most] = self.times(at, config);
                let legal = match before {
                    State::Closed => reason != "failed_probe",
                    State::HalfOpen { .. } => reason == "failed_probe",
                    State::Ejected { .. } => false,
                };
                if !legal {
                    return Err(format!("is ejected for {reason}, which cannot be now"));
                }
                // It was picked for each result that counts; a response that begins well and breaks
                // off counts twice.
                let window = at.saturating_sub(config.window.as_micros() as u64);
                let judged = self.picks.iter().filter(|pick| **pick >= window).count();
                if reason == "success_rate" && 2 * judged < config.min_requests as usize {
                    return Err(format!("is ejected for its success rate after {judged} requests"));
                }
                if *time < least || *time > most {
                    return Err(format!("is ejected for {time:?}, not for {least:?} to {most:?}"));
                }
            }
            EndpointChange::Probing => {
                self.state = State::HalfOpen { until: at + PROBE_TIMEOUT.as_micros() as u64 };
                if before == State::Closed {
                    return Err("is probed, but was not ejected".into());
                }
            }
            EndpointChange::Restored(by_check) => {
                (self.state, self.back) = (State::Closed, Some(at));
                let legal = match before {
                    State::HalfOpen { .. } if !by_check => true,
                    State::HalfOpen { .. } | State::Ejected { .. } => *by_check && !self.for_its_rate,
                    State::Closed => false,
                };
                if !legal {
                    return Err("is back without a probe that succeeded".into());
                }
            }
            // The next request is another probe.
            EndpointChange::Unanswered if matches!(before, State::HalfOpen { .. }) => {
                self.state = State::HalfOpen { until: at };
            }
            EndpointChange::Unanswered
            | EndpointChange::Healthy(_)
            | EndpointChange::CheckFailed
            | EndpointChange::CheckPassed
            | EndpointChange::Found
            | EndpointChange::Gone => {}
        }
        Ok(())
    }

    /// The shortest and the longest time for which it may be ejected now. It doubles each time, up
    /// to the maximum; one doubling is forgotten for each window without an ejection.
    fn times(&mut self, at: u64, config: &OutlierDetection) -> [Duration; 2] {
        if let Some(back) = self.back.take() {
            let windows = u128::from(at - back) * 1_000 / config.window.as_nanos().max(1);
            self.doublings = self.doublings.saturating_sub(u32::try_from(windows).unwrap_or(u32::MAX));
        }
        let least = config.base.saturating_mul(1 << self.doublings.min(20)).min(config.max);
        self.doublings += u32::from(least < config.max);
        [least, least.mul_f64(1.0 + EJECTION_JITTER).min(config.max)]
    }
}
