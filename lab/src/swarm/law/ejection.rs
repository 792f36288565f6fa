//! The breaker's states, and the cap over them: an endpoint that was ejected is left alone for as long as was said, which is
//! longer each time; it comes back only by a probe that succeeds or, unless it is out for its success rate, a check that
//! passes; and never are more out than the cap allows.
//!
//! While it is probed, only what was sent since the probe began decides anything: what was under way before says how the
//! endpoint was then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Breach, Law, breach};
use crate::swarm::endpoints::{Happening, Known, happenings};
use crate::swarm::facts::{Change, Facts, Moment, Step};
use proxy::config::OutlierDetection;
use proxy::config::defaults::{EJECTION_JITTER, PROBE_TIMEOUT};

pub(super) const LAW: Law = Law {
    name: "ejection",
    says: "an ejected endpoint is left alone for its time, returns by a probe, and the cap holds",
    check,
};

/// What is known of an endpoint.
#[derive(Default)]
struct Seen {
    state: State,
    /// When it was picked.
    picks: Vec<u64>,
    /// It is out for its success rate, which no check can see.
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

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters() {
        let (config, is_grpc) = (&cluster.outlier_detection, facts.speaks_grpc(&cluster.name));
        let mut known = Known::new(cluster);
        let mut seen: BTreeMap<&str, Seen> = BTreeMap::new();
        for (Moment { at, .. }, endpoint, what) in happenings(facts, process, &cluster.name) {
            if let Happening::Changed(change) = what {
                known.hear(endpoint, change);
            }
            if !known.has(endpoint) {
                seen.remove(endpoint);
                continue;
            }
            let before = seen.entry(endpoint).or_default();
            match what {
                Happening::Picked { panic, .. } => {
                    before.picks.push(at);
                    let until = match before.state {
                        State::Closed => 0,
                        State::Ejected { until } | State::HalfOpen { until } => until,
                    };
                    // A step of time, and the rounding of timers.
                    if !panic && at + facts.tick_us + 1_000 < until {
                        let left = Duration::from_micros(until - at);
                        breach(breaches, at, format!("{endpoint} was picked {left:?} before its time"));
                    }
                }
                Happening::Changed(change) => {
                    let was_closed = before.state == State::Closed;
                    if let Change::Probing = change {
                        before.probed = at;
                    }
                    let tries = || facts.tries_at(process, &cluster.name, endpoint);
                    if let Some(well) = probed(change)
                        && !tries()
                            .iter()
                            .any(|(begun, end)| begun.at >= before.probed && decides(well, at, *end, is_grpc))
                    {
                        let is = if well { "is back" } else { "stays out" };
                        let what =
                            format!("{endpoint} {is}, and nothing that was sent since its probe says so");
                        breach(breaches, at, what);
                    }
                    if let Err(wrong) = before.step(change, at, config) {
                        breach(breaches, at, format!("{endpoint} {wrong}"));
                    }
                    let (out, most) = (known.ejected(), known.cap(cluster));
                    if was_closed && before.state != State::Closed && out > most {
                        let count = known.count();
                        let what = format!("{out} of {count} endpoints are out, and at most {most} may be");
                        breach(breaches, at, what);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whether a probe went well, if that is what a change is about.
fn probed(change: &Change) -> Option<bool> {
    match change {
        Change::Restored(false) => Some(true),
        Change::Ejected(_, why) if why == "failed_probe" => Some(false),
        _ => None,
    }
}

/// Whether a try that came to this end may be why an endpoint is thought to be well, or not, at a moment. Of a gRPC call its
/// trailers decide, of which the log does not tell.
fn decides(well: bool, at: u64, end: Option<(Moment, &Step)>, is_grpc: bool) -> bool {
    match end {
        Some((when, Step::Answered { .. })) if is_grpc => when.at <= at,
        Some((when, Step::Answered { succeeded, .. })) => when.at == at && *succeeded == well,
        Some((when, Step::Failed { .. })) => when.at == at && !well,
        Some(_) => false,
        // Its request was over before, for want of time.
        None => !well,
    }
}

impl Seen {
    /// Takes a change.
    ///
    /// # Errors
    /// Why it cannot be.
    fn step(&mut self, change: &Change, at: u64, config: &OutlierDetection) -> Result<(), String> {
        let before = self.state;
        match change {
            Change::Ejected(time, reason) => {
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
                // It was picked for each of the results that it is judged by, and an answer that begins well and breaks off is two.
                let window = at.saturating_sub(config.window.as_micros() as u64);
                let judged = self.picks.iter().filter(|pick| **pick >= window).count();
                if reason == "success_rate" && 2 * judged < config.min_requests as usize {
                    return Err(format!("is ejected for its success rate after {judged} requests"));
                }
                if *time < least || *time > most {
                    return Err(format!("is ejected for {time:?}, not for {least:?} to {most:?}"));
                }
            }
            Change::Probing => {
                self.state = State::HalfOpen { until: at + PROBE_TIMEOUT.as_micros() as u64 };
                if before == State::Closed {
                    return Err("is probed, but was not ejected".into());
                }
            }
            Change::Restored(by_check) => {
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
            Change::Unanswered if matches!(before, State::HalfOpen { .. }) => {
                self.state = State::HalfOpen { until: at };
            }
            Change::Unanswered
            | Change::Healthy(_)
            | Change::CheckFailed
            | Change::CheckPassed
            | Change::Found
            | Change::Gone => {}
        }
        Ok(())
    }

    /// The shortest and the longest time for which it may be ejected now. Doubled each time, up to the longest; one doubling is
    /// forgotten for each window in which it did well.
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
