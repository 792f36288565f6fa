//! One address that a cluster sends requests to, and everything remembered about it: how long it
//! takes, how many requests it has active, whether it is ejected.
//!
//! An [`Endpoint`] is shared by all workers and survives configuration changes for as long as its
//! cluster, address and identity stay. Connections are not here: each worker has its own, HTTP/1 in
//! [`pool`] and HTTP/2 in [`h2`].

mod availability;
mod deferred_write_error;
pub mod ejection;
pub mod ewma;
#[cfg(test)]
mod fake;
pub mod h2;
mod halves;
pub mod health;
mod outcome;
pub mod outlier;
pub mod pool;
mod pools;
mod queue;
mod read_tracker;
mod response;
mod window;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use availability::{AvailableFrom, Changes};
pub use ejection::{EjectionState, EjectionStep, Phase, Reason};
pub use ewma::PeakEwma;
pub use health::Health;
pub use outcome::Outcome;
pub use outlier::{Attempt, Outliers, Transition};
pub use pools::{Call, PickContext, Pools, RequestPermit, SendError};
pub use response::{ConnectionLease, RequestGuard, ResponseBody};
pub use window::Tally;

use crate::config;
use crate::config::defaults::EXPLORE_AFTER;
use crate::connect::Target;
use crate::mutant::Mutant;
use crate::telemetry::{EndpointMetrics, Open};
use availability::Availability;
use health::Checks;

/// One address of a cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is, and whose.
    pub target: Target,
    /// What is counted there now, active requests among it.
    pub metrics: EndpointMetrics,
    /// How often in a row it was drawn while idle and another one was picked.
    passed_over: AtomicU32,
    availability: Availability,
    /// Uncontended but for two workers that touch the same endpoint in the same few nanoseconds.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    latency: PeakEwma,
    ejection: EjectionState,
    checks: Checks,
}

impl Endpoint {
    /// An endpoint about which nothing is known.
    pub fn new(address: SocketAddr, now: Instant) -> Self {
        Endpoint::of(address.into(), now, Changes::default(), false)
    }

    /// An endpoint of a cluster whose availability `changes` counts. `added` says that the cluster
    /// was there before it, so that it may have to warm up.
    pub fn of(target: Target, now: Instant, changes: Changes, added: bool) -> Self {
        let state = State {
            latency: PeakEwma::new(now),
            ejection: EjectionState::default(),
            checks: Checks::default(),
        };
        Endpoint {
            target,
            metrics: EndpointMetrics::default(),
            passed_over: AtomicU32::new(0),
            availability: Availability::new(now, changes, added),
            state: Mutex::new(state),
        }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// The same, counted in `metrics`.
    pub fn counted(self, metrics: EndpointMetrics) -> Self {
        Endpoint { metrics, ..self }
    }

    /// What one more request would cost there if its weight is `weight` times the average: latency
    /// times the active requests, as in Finagle's and Linkerd's peak-EWMA. Nanoseconds. Nothing if
    /// it waits for its probe: what it cost before its ejection says nothing about now, and as long
    /// as nobody asks it keeps another one from being ejected.
    pub fn cost(&self, now: Instant, weight: f64) -> f64 {
        let pending = self.pending();
        let mut state = self.state();
        if state.ejection.awaits_probe(now) { 0.0 } else { state.latency.cost(now, pending, weight) }
    }

    /// Whether it may be picked: active checks do not say otherwise, and it is not ejected, or its
    /// ejection has lapsed and nobody is probing it yet.
    pub fn is_available(&self, now: Instant) -> bool {
        self.availability.is_open(now) || Mutant::PicksTheEjected.is_planted()
    }

    /// When it will be available although nothing happens until then; `None` if it is, or if
    /// something has to happen.
    pub fn available_at(&self, now: Instant) -> Option<Instant> {
        self.availability.will_open(now)
    }

    /// Since when what is open to it can be trusted: since it was ejected or turned unhealthy, or
    /// the last probe that came to nothing began. What was open before may lead nowhere: its
    /// machine may have lost its power, and its new kernel answers with a reset. What was opened
    /// for that probe may carry the next one, or who needs all of an attempt's time would never be
    /// back, because each probe had to connect first. `None`: it always did well.
    pub fn stale_since(&self) -> Option<Instant> {
        if Mutant::TrustsOldConnections.is_planted() { None } else { self.availability.stale_since() }
    }

    /// How long it has taken requests since it was added to its cluster or was restored; `None` if
    /// neither ever was.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.availability.age(now)
    }

    /// Notes that it was drawn and another endpoint is thought to be better. True if it has gone
    /// unpicked for so long that it is to be picked all the same, to find out how it does now: see
    /// [`EXPLORE_AFTER`].
    pub fn pass_over(&self) -> bool {
        self.pending() == 0 && self.passed_over.fetch_add(1, Ordering::Relaxed) + 1 >= EXPLORE_AFTER
    }

    /// Whether it is ejected, and why.
    pub fn phase(&self) -> Phase {
        self.state().ejection.phase()
    }

    /// Whether the next request would be its probe.
    pub fn awaits_probe(&self, now: Instant) -> bool {
        self.state().ejection.awaits_probe(now)
    }

    /// Whether it is ejected. One that waits for its probe, or for what came of it, is.
    pub fn is_ejected(&self) -> bool {
        self.phase() != Phase::Closed
    }

    /// Active requests.
    pub fn pending(&self) -> u32 {
        self.metrics.pending_now()
    }

    /// Its smoothed latency. Looking at it changes nothing.
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.state().latency.faded(now) as u64)
    }

    /// Begins a request; it is active until the guard is dropped. True if it is the probe after an
    /// ejection.
    pub fn begin(self: &Arc<Self>, now: Instant) -> (ActiveRequest, bool) {
        let unused = self.passed_over.swap(0, Ordering::Relaxed) >= EXPLORE_AFTER;
        let is_probe = self.change(now, |state| {
            let before = state.ejection.probed_since();
            let is_probe = state.ejection.on_begin(now);
            if let Some(unanswered) = before.filter(|_| is_probe) {
                self.availability.doubt(unanswered);
            }
            if unused || is_probe {
                state.latency.renew();
            }
            is_probe
        });
        let waits = Some((self.clone(), now));
        (ActiveRequest { _pending: self.metrics.pending(), waits }, is_probe)
    }

    /// Notes that it answered at `now` what was sent at `begun`. Failures say nothing about
    /// latency: a refusal is quick and would attract load.
    pub fn observe(&self, begun: Instant, now: Instant) {
        self.state().latency.observe(now, now.saturating_duration_since(begun));
    }

    /// Notes what came of a request that was sent at `begun`. See [`EjectionState::on_outcome`].
    pub fn on_outcome(
        &self,
        outcome: Outcome,
        begun: Instant,
        now: Instant,
        config: &config::OutlierDetection,
    ) -> EjectionStep {
        self.change(now, |state| {
            match outcome {
                Outcome::Failure(_) => state.latency.failed(now),
                Outcome::Success => state.latency.succeeded(),
                Outcome::Overload(_) | Outcome::Unknown => {}
            }
            state.ejection.on_outcome(outcome, begun, now, config)
        })
    }

    /// Ejects it. See [`EjectionState::eject`].
    pub fn eject(
        &self,
        reason: Reason,
        outcome: Outcome,
        now: Instant,
        config: &config::OutlierDetection,
        rng: &mut impl rand::Rng,
    ) -> Duration {
        self.change(now, |state| {
            self.availability.doubt(state.ejection.probed_since().unwrap_or(now));
            state.ejection.eject(reason, outcome, now, config, rng)
        })
    }

    /// What active checks say of it.
    pub fn health(&self) -> Health {
        self.state().checks.state()
    }

    /// Notes the result of an active check. One that passes ends an ejection at once, as in Envoy;
    /// but not one for a low success rate, which no check can see.
    pub fn on_check(&self, passed: bool, thresholds: config::Thresholds, now: Instant) -> Checked {
        self.change(now, |state| {
            let turned = state.checks.on_result(passed, thresholds).then(|| state.checks.state());
            if turned == Some(Health::Unhealthy) {
                self.availability.doubt(now);
            }
            let may_end = !state.ejection.is_out_for_its_rate() || Mutant::LetsAnyCheckRestore.is_planted();
            let restored = passed && may_end && state.ejection.restore(now);
            if restored {
                state.latency.renew();
            }
            Checked { turned, restored, in_doubt: state.checks.is_in_doubt() }
        })
    }

    /// It is not checked any more: nothing is known of it.
    pub fn forget_checks(&self, now: Instant) {
        self.change(now, |state| state.checks = Checks::default());
    }

    /// The results of the last window.
    pub fn tally(&self, now: Instant, config: &config::OutlierDetection) -> Tally {
        self.state().ejection.tally(now, config)
    }

    /// The one way to change what decides about availability: whatever `act` does, balancers learn
    /// of it.
    fn change<R>(&self, now: Instant, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = act(&mut state);
        let unhealthy = state.checks.state() == Health::Unhealthy;
        self.availability.set(if unhealthy { AvailableFrom::Never } else { state.ejection.opens() }, now);
        result
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a check led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// What the endpoint counts as now, if that has changed.
    pub turned: Option<Health>,
    /// Whether an ejection ended.
    pub restored: bool,
    /// Whether the result contradicts what the endpoint counts as.
    pub in_doubt: bool,
}

/// An active request at an endpoint, or an opaque connection.
#[derive(Debug)]
pub struct ActiveRequest {
    _pending: Open,
    /// Where it waits for an answer, and since when; `None` once there is one.
    waits: Option<(Arc<Endpoint>, Instant)>,
}

impl ActiveRequest {
    /// One that is counted in `metrics`.
    pub fn of(metrics: &EndpointMetrics) -> Self {
        ActiveRequest { _pending: metrics.pending(), waits: None }
    }

    /// The endpoint has answered, well or badly: from now on it does not wait any more.
    pub fn answered(&mut self) {
        self.waits = None;
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if let Some((endpoint, begun)) = self.waits.take() {
            // The client went away, or time was up, or it failed: an answer would have taken longer
            // still.
            let now = Instant::now();
            endpoint.state().latency.waited(now, now.saturating_duration_since(begun));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_explored_when_another_was_better_as_often_as_said_and_not_before() {
        let endpoint = Endpoint::new(fake::address(), Instant::now());
        assert!((1..EXPLORE_AFTER).all(|_| !endpoint.pass_over()));
        assert!(endpoint.pass_over());
    }
}
