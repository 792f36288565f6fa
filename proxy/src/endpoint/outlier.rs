//! The endpoints of a cluster as their judge sees them: each has its ejection state, and this
//! decides whether the cluster can spare it.
//!
//! Two things keep ejections from making an outage worse. Only a share of the endpoints may be out
//! at once, and one that was let in again only for a probe still counts as out. And a low success
//! rate ejects only an endpoint that does worse than the others together: when all fail alike the
//! fault is behind them, and fewer endpoints would not mend it. A run of failures needs no such
//! comparison, since it costs every caller an attempt.
//!
//! The sender of a request gets an [`Attempt`], which keeps the endpoint's count of active requests
//! up and owes an outcome.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::ejection::{EjectionStep, Phase, Reason};
use super::window::Tally;
use super::{ActiveRequest, Endpoint, Outcome};
use crate::config::OutlierDetection as Config;
use crate::mutant::Mutant;
use crate::telemetry::{Ejections, emit};

/// The endpoints of a cluster as their judge sees them.
#[derive(Debug)]
pub struct Outliers {
    cluster: String,
    endpoints: Arc<[Arc<Endpoint>]>,
    config: Config,
    metrics: Ejections,
    /// Held while it is decided whether another one may be ejected: two workers that count at the
    /// same time would both find room for one. It survives changes of the configuration, as the
    /// endpoints do.
    deciding: Arc<Mutex<()>>,
}

/// A change that operators want to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Ejected for this long.
    Ejected(Duration, Reason),
    /// Back in use.
    Restored,
}

impl Outliers {
    /// Of these endpoints, some of which `previous` may have judged before.
    pub fn new(
        cluster: &str,
        endpoints: Arc<[Arc<Endpoint>]>,
        config: Config,
        metrics: Ejections,
        previous: Option<&Outliers>,
    ) -> Arc<Self> {
        let deciding = previous.map(|previous| previous.deciding.clone()).unwrap_or_default();
        Arc::new(Outliers { cluster: cluster.to_owned(), endpoints, config, metrics, deciding })
    }

    /// Begins a request to the endpoint at `position`, whose caller gives up at `gives_up`.
    pub fn begin(
        self: &Arc<Self>,
        position: usize,
        now: Instant,
        gives_up: Option<Instant>,
        rng: &Rc<RefCell<StdRng>>,
    ) -> Attempt {
        let (active, is_probe) = self.endpoints[position].begin(now);
        if is_probe {
            self.metrics.probes.inc();
            let (cluster, endpoint) = self.named(position);
            emit!(Probing { cluster, endpoint });
        }
        Attempt {
            outliers: self.clone(),
            position,
            begun: now,
            gives_up,
            rng: rng.clone(),
            is_owed: true,
            is_probe,
            active,
        }
    }

    /// Notes what came of a request that was sent to the endpoint at `position` at `begun`, and
    /// ejects that endpoint if it is time and the cluster can spare it.
    pub fn on_outcome(
        &self,
        position: usize,
        outcome: Outcome,
        begun: Instant,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<Transition> {
        let endpoint = &self.endpoints[position];
        let step = endpoint.on_outcome(outcome, begun, now, &self.config);
        let transition = match step {
            EjectionStep::Stay => None,
            EjectionStep::Restored => Some(Transition::Restored),
            EjectionStep::Trips(reason) => {
                let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
                let spared = match reason {
                    // It is out already.
                    Reason::Probe => true,
                    Reason::Consecutive => self.has_room(position),
                    Reason::SuccessRate => self.has_room(position) && self.others_do_better(position, now),
                };
                spared.then(|| {
                    let time = endpoint.eject(reason, outcome, now, &self.config, rng);
                    Transition::Ejected(time, reason)
                })
            }
        };
        if let Some(transition) = transition {
            self.note(position, transition);
        }
        transition
    }

    /// Whether the cap leaves room for one more. One endpoint may always be ejected, or the cap
    /// would switch the feature off for small clusters.
    fn has_room(&self, position: usize) -> bool {
        let allowed = ((self.endpoints.len() as f64 * self.config.cap) as usize).max(1);
        let mut out = 0;
        for (other, endpoint) in self.endpoints.iter().enumerate() {
            if endpoint.phase() != Phase::Closed {
                // Another worker was quicker.
                if other == position {
                    return false;
                }
                out += 1;
            }
        }
        out < allowed || Mutant::EjectsPastTheCap.is_planted()
    }

    /// Whether the success rate of the endpoint at `position` is as far below that of the others as
    /// it would have to be below 1 if they were without fault.
    fn others_do_better(&self, position: usize, now: Instant) -> bool {
        let tally = |endpoint: &Arc<Endpoint>| endpoint.tally(now, &self.config);
        let own = tally(&self.endpoints[position]);
        let others = self.endpoints.iter().enumerate().filter(|(other, _)| *other != position);
        let others: Tally = others.map(|(_, endpoint)| tally(endpoint)).sum();
        others.requests < self.config.min_requests
            || own.success_rate() < others.success_rate() * self.config.success_rate
    }

    /// What the log calls the endpoint at `position`.
    fn named(&self, position: usize) -> (&str, SocketAddr) {
        (&self.cluster, self.endpoints[position].address())
    }

    fn note(&self, position: usize, transition: Transition) {
        let (cluster, endpoint) = self.named(position);
        match transition {
            Transition::Ejected(time, reason) => {
                let reason = reason.label();
                self.metrics.ejected(reason);
                emit!(EndpointEjected { cluster, endpoint, time, reason });
            }
            Transition::Restored => emit!(EndpointRestored { cluster, endpoint }),
        }
    }
}

/// A request at an endpoint, which counts as active there and owes an outcome. If it is dropped
/// before, its caller has left, which says nothing about the endpoint unless the caller had waited
/// as long as it wanted to.
#[derive(Debug)]
pub struct Attempt {
    outliers: Arc<Outliers>,
    position: usize,
    begun: Instant,
    gives_up: Option<Instant>,
    rng: Rc<RefCell<StdRng>>,
    is_owed: bool,
    is_probe: bool,
    active: ActiveRequest,
}

impl Attempt {
    /// The endpoint answered, in the time that has passed. Whether that is a success is another
    /// question.
    pub fn answered(&mut self, now: Instant) {
        self.arrived();
        let begun =
            if Mutant::CountsHalfTheLatency.is_planted() { now - (now - self.begun) / 2 } else { self.begun };
        self.outliers.endpoints[self.position].observe(begun, now);
    }

    /// The endpoint answered, but in a time that says nothing about how long answers take.
    pub fn arrived(&mut self) {
        self.active.answered();
    }

    /// Whether nothing has been told yet.
    pub fn is_owed(&self) -> bool {
        self.is_owed
    }

    /// Tells what came of it. More may follow: a response that began well may break off.
    pub fn tell(&mut self, outcome: Outcome, now: Instant) {
        self.is_owed = false;
        // Only of the probe does it matter that nothing was learned: then the next request is one.
        // Others may be at an endpoint that is being probed too, for want of a better one.
        if outcome == Outcome::Unknown {
            if !self.is_probe {
                return;
            }
            let (cluster, endpoint) = self.outliers.named(self.position);
            emit!(ProbeTaughtNothing { cluster, endpoint });
        }
        if matches!(outcome, Outcome::Failure(_)) && Mutant::LeaksAnActiveRequest.is_planted() {
            std::mem::forget(self.outliers.endpoints[self.position].metrics.pending());
        }
        let rng = &mut *self.rng.borrow_mut();
        self.outliers.on_outcome(self.position, outcome, self.begun, now, rng);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_owed {
            let now = Instant::now();
            let waited = self.gives_up.is_some_and(|at| at <= now);
            self.tell(if waited { Outcome::Failure(None) } else { Outcome::Unknown }, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::fake::OUTLIER_DETECTION as CONFIG;
    use crate::telemetry::Metrics;
    use crate::world::RngTree;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);
    const FAILURE: Outcome = Outcome::Failure(None);

    fn outliers(n: u16, config: Config, now: Instant) -> Arc<Outliers> {
        counted(n, config, now, &Metrics::default())
    }

    fn counted(n: u16, config: Config, now: Instant, metrics: &Metrics) -> Arc<Outliers> {
        let endpoints = (0..n).map(|p| Arc::new(Endpoint::new(([10, 0, 0, 1], 1000 + p).into(), now)));
        let ejections = metrics.cluster("outbound", "orders").ejections;
        Outliers::new("orders", endpoints.collect(), config, ejections, None)
    }

    fn out(outliers: &Outliers) -> Vec<usize> {
        let all = outliers.endpoints.iter().enumerate();
        all.filter(|(_, e)| e.phase() != Phase::Closed).map(|(position, _)| position).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_endpoint_may_always_be_ejected_and_no_more_than_the_cap() {
        let now = Instant::now();
        let rng = &mut RngTree::new(1).rng();
        for (n, cap, expected) in [(1, 0.5, 1), (2, 0.1, 1), (3, 0.5, 1), (4, 0.5, 2), (4, 1.0, 4)] {
            let outliers = outliers(n, Config { cap, ..CONFIG }, now);
            for position in (0..usize::from(n)).cycle().take(100) {
                outliers.on_outcome(position, FAILURE, now, now, rng);
            }
            assert_eq!(out(&outliers).len(), expected, "{n} endpoints, cap {cap}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_reason_has_its_counter() {
        let metrics = Metrics::default();
        let ejections = metrics.cluster("outbound", "orders").ejections;
        for reason in [Reason::Consecutive, Reason::SuccessRate, Reason::Probe] {
            ejections.ejected(reason.label());
            let line = format!("reason=\"{}\"}} 1", reason.label());
            assert!(metrics.text().contains(&line), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_whose_time_is_over_counts_as_out_until_its_probe_succeeds() {
        let now = Instant::now();
        let rng = Rc::new(RefCell::new(RngTree::new(1).rng()));
        let outliers = outliers(2, CONFIG, now);
        for _ in 0..3 {
            outliers.on_outcome(0, FAILURE, now, now, &mut *rng.borrow_mut());
        }
        let later = now + 10 * S;
        for _ in 0..10 {
            outliers.on_outcome(1, FAILURE, later, later, &mut *rng.borrow_mut());
        }
        assert_eq!(out(&outliers), [0], "the cap is one of two");
        let mut probe = outliers.begin(0, later, None, &rng);
        assert_eq!(outliers.metrics.probes.get(), 1);
        probe.tell(Outcome::Success, later);
        outliers.on_outcome(1, FAILURE, later, later, &mut *rng.borrow_mut());
        assert_eq!(out(&outliers), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_picked_for_want_of_a_better_one_and_learns_nothing_does_not_end_the_probe() {
        let now = Instant::now();
        let rng = Rc::new(RefCell::new(RngTree::new(1).rng()));
        let outliers = outliers(1, CONFIG, now);
        for _ in 0..3 {
            outliers.on_outcome(0, FAILURE, now, now, &mut *rng.borrow_mut());
        }
        let later = now + 10 * S;
        let mut probe = outliers.begin(0, later, None, &rng);
        let mut other = outliers.begin(0, later, None, &rng);
        other.tell(Outcome::Unknown, later);
        assert!(!outliers.endpoints[0].is_available(later), "the probe is still under way");
        probe.tell(Outcome::Unknown, later);
        assert!(outliers.endpoints[0].is_available(later), "and now another one may go");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_opened_for_a_probe_may_carry_the_next_one_and_not_the_one_after() {
        let now = Instant::now();
        let rng = Rc::new(RefCell::new(RngTree::new(1).rng()));
        let outliers = outliers(1, CONFIG, now);
        let endpoint = &outliers.endpoints[0];
        assert_eq!(endpoint.stale_since(), None);
        for _ in 0..3 {
            outliers.on_outcome(0, FAILURE, now, now, &mut *rng.borrow_mut());
        }
        assert_eq!(endpoint.stale_since(), Some(now));
        let [first, second] = [now + 10 * S, now + 100 * S];
        for (begun, before) in [(first, now), (second, first)] {
            let mut probe = outliers.begin(0, begun, None, &rng);
            assert_eq!(
                endpoint.stale_since(),
                Some(before),
                "what the last probe opened is good for this one"
            );
            probe.tell(FAILURE, begun + S);
            assert_eq!(endpoint.stale_since(), Some(begun));
        }
        // A probe that is never answered teaches nothing, but what it went over is not tried again.
        let [third, fourth] = [second + 100 * S, second + 200 * S];
        let _silent = outliers.begin(0, third, None, &rng);
        let _next = outliers.begin(0, fourth, None, &rng);
        assert_eq!(endpoint.stale_since(), Some(third));
    }

    #[tokio::test(start_paused = true)]
    async fn a_low_success_rate_ejects_only_an_endpoint_that_is_worse_than_the_others() {
        let now = Instant::now();
        let rng = &mut RngTree::new(1).rng();
        // Of five requests one or two fail, never two in a row.
        let run = |outliers: &Outliers, sick: &[usize], rng: &mut StdRng| {
            for nth in 0..30 {
                for position in 0..3 {
                    let fails = sick.contains(&position) && matches!(nth % 5, 1 | 3);
                    let outcome = if fails { FAILURE } else { Outcome::Success };
                    outliers.on_outcome(position, outcome, now, now, rng);
                }
            }
        };
        let one = outliers(3, CONFIG, now);
        run(&one, &[1], rng);
        assert_eq!(out(&one), [1]);
        let most = outliers(3, CONFIG, now);
        run(&most, &[0, 1], rng);
        assert_eq!(out(&most).len(), 1, "as many as the cap allows");
        assert_ne!(out(&most), [2]);
        let all = outliers(3, CONFIG, now);
        run(&all, &[0, 1, 2], rng);
        assert_eq!(out(&all), [] as [usize; 0], "the fault is behind them");
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_are_something_to_compare_with_once_they_have_as_many_requests_as_it_takes() {
        let now = Instant::now();
        let rng = &mut RngTree::new(1).rng();
        let config = Config { consecutive_failures: 0, cap: 1.0, ..CONFIG };
        // Successes of ten at the first endpoint; successes and requests at the second, that are
        // told before.
        for (own, (good, requests), ejected) in [
            (4, (0, 9), true),
            (4, (0, 10), false),
            (4, (10, 10), true),
            (4, (5, 10), false),
            (3, (5, 10), true),
        ] {
            let metrics = Metrics::default();
            let outliers = counted(2, config, now, &metrics);
            let mut send = |position: usize, good, requests| {
                for nth in 0..requests {
                    let outcome = if nth < good { Outcome::Success } else { FAILURE };
                    let endpoint = &outliers.endpoints[position];
                    if nth + 1 < requests || position == 1 {
                        endpoint.on_outcome(outcome, now, now, &config);
                    } else {
                        outliers.on_outcome(position, outcome, now, now, rng);
                    }
                }
            };
            send(1, good, requests);
            send(0, own, 10);
            let what = format!("{own} of 10 beside {good} of {requests}");
            assert_eq!(!out(&outliers).is_empty(), ejected, "{what}");
            assert_eq!(metrics.text().contains("reason=\"success_rate\"} 1"), ejected, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_left_says_nothing_unless_it_had_waited_as_long_as_it_wanted() {
        let rng = Rc::new(RefCell::new(RngTree::new(1).rng()));
        for (limit, expected) in [(None, 0), (Some(2 * S), 0), (Some(S), 1)] {
            let now = Instant::now();
            let outliers = outliers(2, CONFIG, now);
            for _ in 0..3 {
                let attempt = outliers.begin(0, Instant::now(), limit.map(|l| Instant::now() + l), &rng);
                tokio::time::advance(S).await;
                drop(attempt);
            }
            assert_eq!(out(&outliers).len(), expected, "{limit:?}");
            assert_eq!(outliers.endpoints[0].pending(), 0);
        }
    }

    proptest! {
        #[test]
        fn never_more_endpoints_are_out_than_the_cap_allows(
            n in 1u16..8,
            cap in 0.0..=1.0f64,
            events in proptest::collection::vec((0usize..8, 0u8..6, 0u64..1500), 0..400),
        ) {
            let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            clock.unwrap().block_on(async {
                let rng = Rc::new(RefCell::new(RngTree::new(3).rng()));
                let outliers = outliers(n, Config { cap, consecutive_failures: 1, ..CONFIG }, Instant::now());
                let allowed = ((f64::from(n) * cap) as usize).max(1);
                for (position, what, wait) in events {
                    let position = position % usize::from(n);
                    tokio::time::advance(Duration::from_millis(wait)).await;
                    let now = Instant::now();
                    let mut attempt = outliers.begin(position, now, Some(now), &rng);
                    match what {
                        0 => attempt.tell(Outcome::Success, now),
                        1 => attempt.tell(Outcome::Unknown, now),
                        2 => drop(attempt),
                        _ => attempt.tell(FAILURE, now),
                    }
                    prop_assert!(out(&outliers).len() <= allowed);
                }
                Ok(())
            })?;
        }
    }
}
