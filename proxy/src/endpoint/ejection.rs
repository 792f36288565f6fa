//! When an endpoint is ejected: after a run of failures, or when too many of its requests fail; for
//! a while that grows each time.
//!
//! ```text
//! closed --run of failures, or low success rate--> ejected --time over--> half-open --success--> closed
//!                                                     ^                       |
//!                                                     +-------failure---------+
//! ```
//! One machine for both reasons, as in Linkerd's unified breaker. A run, because a dead process
//! fails every request and need not be asked often; a rate, because a sick one fails every third
//! and never three in a row. Half-open admits one request at a time as a probe. The time of an
//! ejection doubles with each one, and what has doubled falls back by one step for every window
//! without an ejection, as Envoy's does: an endpoint that flaps does not begin anew each time.
//!
//! The machine says that it is time ([`EjectionStep::Trips`]); whether the cluster can spare the
//! endpoint, and whether the others do any better, is `outlier`'s business, which then calls
//! [`EjectionState::eject`]. Times and limits: [`crate::config::OutlierDetection`].

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::AvailableFrom;
use super::outcome::Outcome;
use super::window::{Tally, Window};
use crate::config::OutlierDetection as Config;
use crate::config::defaults::{EJECTION_JITTER, PROBE_TIMEOUT};
use crate::mutant::Mutant;

/// The state machine of one endpoint.
#[derive(Debug, Clone, Default)]
pub struct EjectionState {
    state: State,
    window: Window,
    /// How often the time of the next ejection is doubled.
    doublings: u32,
    /// Why it was ejected last.
    reason: Option<Reason>,
    /// Whether its success rate was the first reason of the ejection that is on.
    for_its_rate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `since` is the end of the last ejection. What was sent before it says nothing about the time
    /// after it.
    Closed {
        run: u32,
        since: Option<Instant>,
    },
    Ejected {
        until: Instant,
    },
    /// Only what was sent `since` the probe counts. The probe may never come back (its client went
    /// away); after `until` another one may go.
    HalfOpen {
        since: Instant,
        until: Instant,
    },
}

impl Default for State {
    fn default() -> Self {
        State::Closed { run: 0, since: None }
    }
}

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A run of failures.
    Consecutive,
    /// Too low a share of its requests succeeds.
    SuccessRate,
    /// Its probe failed.
    Probe,
}

impl Reason {
    /// Label in metrics and on the page of clusters.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Consecutive => "consecutive_failures",
            Reason::SuccessRate => "success_rate",
            Reason::Probe => "failed_probe",
        }
    }
}

/// What an outcome leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EjectionStep {
    /// Nothing.
    Stay,
    /// The endpoint is back in use.
    Restored,
    /// It is time to eject the endpoint. Without a call of [`EjectionState::eject`] everything
    /// stays as it is.
    Trips(Reason),
}

/// What people see of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// In use.
    Closed,
    /// Ejected until then. A moment that has passed means that the next request will be its probe.
    Ejected(Instant, Reason),
    /// A probe is under way.
    HalfOpen(Reason),
}

impl EjectionState {
    /// Whether a request may go to the endpoint.
    pub fn admits(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Ejected { until } | State::HalfOpen { until, .. } => now >= until,
        }
    }

    /// Whether the next request to the endpoint would be its probe.
    pub fn awaits_probe(&self, now: Instant) -> bool {
        !matches!(self.state, State::Closed { .. }) && self.admits(now)
    }

    /// From when a request may go to the endpoint, as things stand.
    pub fn opens(&self) -> AvailableFrom {
        match self.state {
            State::Closed { .. } => AvailableFrom::Open,
            State::Ejected { until } | State::HalfOpen { until, .. } => AvailableFrom::At(until),
        }
    }

    /// What people see.
    pub fn phase(&self) -> Phase {
        let reason = self.reason.unwrap_or(Reason::Consecutive);
        match self.state {
            State::Closed { .. } => Phase::Closed,
            State::Ejected { until } => Phase::Ejected(until, reason),
            State::HalfOpen { .. } => Phase::HalfOpen(reason),
        }
    }

    /// When the probe that is under way began, if there is one.
    pub fn probed_since(&self) -> Option<Instant> {
        match self.state {
            State::HalfOpen { since, .. } => Some(since),
            State::Closed { .. } | State::Ejected { .. } => None,
        }
    }

    /// Notes that a request goes to the endpoint. True if that one is a probe.
    pub fn on_begin(&mut self, now: Instant) -> bool {
        match self.state {
            State::Ejected { until } | State::HalfOpen { until, .. } if now >= until => {
                self.state = State::HalfOpen { since: now, until: now + PROBE_TIMEOUT };
                true
            }
            _ => false,
        }
    }

    /// Notes what came of a request that was sent at `begun`. Requests from before an ejection, or
    /// from before the end of one, decide nothing.
    pub fn on_outcome(
        &mut self,
        outcome: Outcome,
        begun: Instant,
        now: Instant,
        config: &Config,
    ) -> EjectionStep {
        match self.state {
            State::Closed { since, .. } if since.is_some_and(|since| begun < since) => EjectionStep::Stay,
            State::Closed { run, since } => {
                if outcome == Outcome::Unknown {
                    return EjectionStep::Stay;
                }
                let run = match outcome {
                    Outcome::Failure(_) => run.saturating_add(1),
                    Outcome::Overload(_) => run,
                    Outcome::Success | Outcome::Unknown => 0,
                };
                self.state = State::Closed { run, since };
                self.window.add(now, config.window, outcome.failed());
                let is_failure = matches!(outcome, Outcome::Failure(_));
                let allowed = config.consecutive_failures + u32::from(Mutant::EjectsOneLate.is_planted());
                if is_failure && config.consecutive_failures > 0 && run >= allowed {
                    return EjectionStep::Trips(Reason::Consecutive);
                }
                if outcome.failed() && self.is_below(now, config) {
                    return EjectionStep::Trips(Reason::SuccessRate);
                }
                EjectionStep::Stay
            }
            State::HalfOpen { since, .. } if begun >= since || Mutant::AnythingEndsAProbe.is_planted() => {
                match outcome {
                    Outcome::Success => {
                        self.restore(now);
                        EjectionStep::Restored
                    }
                    Outcome::Failure(_) | Outcome::Overload(_) => EjectionStep::Trips(Reason::Probe),
                    Outcome::Unknown => {
                        // The probe taught nothing: the next request is another one.
                        self.state = State::HalfOpen { since, until: now };
                        EjectionStep::Stay
                    }
                }
            }
            State::Ejected { .. } | State::HalfOpen { .. } => {
                if outcome == Outcome::Success && Mutant::StaleSuccessRestores.is_planted() {
                    self.restore(now);
                    return EjectionStep::Restored;
                }
                EjectionStep::Stay
            }
        }
    }

    /// Whether the success rate of the window is too low, and of enough requests.
    fn is_below(&mut self, now: Instant, config: &Config) -> bool {
        if config.success_rate <= 0.0 {
            return false;
        }
        let tally = self.window.tally(now, config.window);
        tally.requests >= config.min_requests && tally.success_rate() < config.success_rate
    }

    /// The results of the last window.
    pub fn tally(&mut self, now: Instant, config: &Config) -> Tally {
        self.window.tally(now, config.window)
    }

    /// Leaves the endpoint alone, and says for how long: as long as `outcome` asks for, or else for
    /// the next time in the row; half as much again at random, so that not all sidecars come back
    /// at once.
    pub fn eject(
        &mut self,
        reason: Reason,
        outcome: Outcome,
        now: Instant,
        config: &Config,
        rng: &mut impl Rng,
    ) -> Duration {
        if let State::Closed { since: Some(since), .. } = self.state {
            let width = config.window.max(Duration::from_nanos(1)).as_nanos();
            let healthy = now.saturating_duration_since(since).as_nanos() / width;
            self.doublings = self.doublings.saturating_sub(u32::try_from(healthy).unwrap_or(u32::MAX));
        }
        let doubled = config.base.saturating_mul(1 << self.doublings.min(20)).min(config.max);
        let time = outcome.wait().map_or(doubled, |wait| wait.max(config.base)).min(config.max);
        let time = time.mul_f64(1.0 + rng.random_range(0.0..EJECTION_JITTER)).min(config.max);
        // Past the longest time nothing is gained, and it would only take longer to fall back.
        if doubled < config.max {
            self.doublings += 1;
        }
        let kept = if Mutant::LetsTheEjectedBackEarly.is_planted() { time / 4 } else { time };
        self.state = State::Ejected { until: now + kept };
        self.window = Window::default();
        self.for_its_rate = reason == Reason::SuccessRate || self.for_its_rate && reason == Reason::Probe;
        self.reason = Some(reason);
        time
    }

    /// Whether it is ejected for its success rate, however often a probe has failed since.
    pub fn is_out_for_its_rate(&self) -> bool {
        self.for_its_rate && !matches!(self.state, State::Closed { .. })
    }

    /// Ends an ejection, because a probe or an active check succeeded. True if there was one.
    pub fn restore(&mut self, now: Instant) -> bool {
        let was_ejected = !matches!(self.state, State::Closed { .. });
        if was_ejected {
            self.state = State::Closed { run: 0, since: Some(now) };
        }
        was_ejected
    }
}

#[cfg(test)]
mod tests;
