//! One address that a cluster sends requests to, and everything remembered about it: how long it takes, how many
//! requests it has in hand, whether it is ejected.
//!
//! An [`Endpoint`] is shared by all workers and survives configuration changes for as long as its cluster and address
//! stay. Connections are not here: each worker has its own, HTTP/1 in [`pool`] and HTTP/2 in [`h2`].

pub mod breaker;
pub mod ewma;
pub mod h2;
pub mod health;
mod last_words;
mod outcome;
pub mod outlier;
pub mod pool;
mod pools;
mod response;
mod window;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use breaker::{Breaker, Phase, Reason, Step};
pub use ewma::PeakEwma;
pub use health::Health;
pub use outcome::Outcome;
pub use outlier::{Outliers, Transition, Trial};
pub use pools::{Call, Failed, Place, Pools};
pub use response::{Carrier, Held, ResponseBody};
pub use window::Tally;

use crate::config;
use crate::telemetry::{EndpointMetrics, Open};
use health::Checks;

/// One address of a cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// What is counted there now, requests in hand among it.
    pub metrics: EndpointMetrics,
    /// Uncontended but for two workers that touch the same endpoint in the same few nanoseconds.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    latency: PeakEwma,
    breaker: Breaker,
    checks: Checks,
}

/// What a balancer wants to know of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Expected time that a further request would take, nanoseconds.
    pub cost: f64,
    /// Whether it may be picked: active checks do not say otherwise, and it is not ejected, or its ejection has lapsed and
    /// nobody is probing it yet.
    pub available: bool,
}

impl Endpoint {
    /// An endpoint about which nothing is known.
    pub fn new(address: SocketAddr, now: Instant) -> Self {
        let state =
            State { latency: PeakEwma::new(now), breaker: Breaker::default(), checks: Checks::default() };
        Endpoint { address, metrics: EndpointMetrics::default(), state: Mutex::new(state) }
    }

    /// The same, counted in `metrics`.
    pub fn counted(self, metrics: EndpointMetrics) -> Self {
        Endpoint { metrics, ..self }
    }

    /// Its load as a balancer sees it: latency times the requests in hand, as in Finagle's and Linkerd's peak-EWMA.
    pub fn load(&self, now: Instant) -> Load {
        let pending = self.pending();
        let mut state = self.state();
        let cost = state.latency.cost(now, pending);
        Load { cost, available: state.breaker.admits(now) && state.checks.state() != Health::Unhealthy }
    }

    /// Whether it is left alone, and why.
    pub fn phase(&self) -> Phase {
        self.state().breaker.phase()
    }

    /// Whether it is left alone. One that waits for its probe, or for what came of it, is.
    pub fn is_ejected(&self) -> bool {
        self.phase() != Phase::Closed
    }

    /// Requests in hand.
    pub fn pending(&self) -> u32 {
        self.metrics.pending_now()
    }

    /// Its smoothed latency.
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.state().latency.get(now) as u64)
    }

    /// Begins a request; it is in hand until the guard is dropped. True if it is the probe after an ejection.
    pub fn begin(&self, now: Instant) -> (InHand, bool) {
        let is_probe = self.state().breaker.on_begin(now);
        (InHand::of(&self.metrics), is_probe)
    }

    /// Notes that it answered at `now` what was sent at `begun`. Failures say nothing about latency: a refusal is quick
    /// and would attract load.
    pub fn observe(&self, begun: Instant, now: Instant) {
        self.state().latency.observe(now, now.saturating_duration_since(begun));
    }

    /// Notes what came of a request that was sent at `begun`. See [`Breaker::on_outcome`].
    pub fn on_outcome(
        &self,
        outcome: Outcome,
        begun: Instant,
        now: Instant,
        config: &config::Breaker,
    ) -> Step {
        self.state().breaker.on_outcome(outcome, begun, now, config)
    }

    /// Leaves it alone. See [`Breaker::eject`].
    pub fn eject(
        &self,
        reason: Reason,
        outcome: Outcome,
        now: Instant,
        config: &config::Breaker,
        rng: &mut impl rand::Rng,
    ) -> Duration {
        self.state().breaker.eject(reason, outcome, now, config, rng)
    }

    /// What active checks say of it.
    pub fn health(&self) -> Health {
        self.state().checks.state()
    }

    /// Notes the result of an active check. One that passes ends an ejection at once, as in Envoy; but not one for a low
    /// success rate, which no check can see.
    pub fn on_check(&self, passed: bool, thresholds: config::Thresholds, now: Instant) -> Checked {
        let mut state = self.state();
        let turned = state.checks.on_result(passed, thresholds).then(|| state.checks.state());
        let restored = passed && !state.breaker.is_out_for_its_rate() && state.breaker.restore(now);
        Checked { turned, restored, in_doubt: state.checks.is_in_doubt() }
    }

    /// It is not checked any more: nothing is known of it.
    pub fn forget_checks(&self) {
        self.state().checks = Checks::default();
    }

    /// The results of the last window.
    pub fn tally(&self, now: Instant, config: &config::Breaker) -> Tally {
        self.state().breaker.tally(now, config)
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

/// A request in hand at an endpoint.
#[derive(Debug)]
pub struct InHand {
    _pending: Open,
}

impl InHand {
    /// One that is counted in `metrics`.
    pub fn of(metrics: &EndpointMetrics) -> Self {
        InHand { _pending: metrics.pending() }
    }
}
