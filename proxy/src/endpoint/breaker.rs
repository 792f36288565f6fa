//! When an endpoint is left alone: after a run of failures, for a while that doubles each time.
//!
//! ```text
//! closed --N failures in a row--> ejected --time over--> half-open --success--> closed
//!                                    ^                       |
//!                                    +-------failure---------+
//! ```
//! Half-open admits one request at a time as a probe. Consecutive failures and not a rate, because a dead process fails
//! every request and that is what this machine is for; Linkerd's consecutive-failures breaker works the same way. Times
//! and limits: [`crate::config::Breaker`]. How many may be ejected together is the cluster's business: it says
//! `may_eject`.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Breaker as Config;

/// The state machine of one endpoint.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    state: State,
    /// Ejections since the last success, for the doubling.
    ejections: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Ejected {
        until: Instant,
    },
    /// Only what was sent `since` the probe counts: older requests saw the endpoint before it was left alone. The probe
    /// may never come back (its client went away); after `until` another one may go.
    HalfOpen {
        since: Instant,
        until: Instant,
    },
}

impl Default for State {
    fn default() -> Self {
        State::Closed { failures: 0 }
    }
}

/// How long a probe may take before another one may go.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// A change that operators want to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Left alone for this long.
    Ejected(Duration),
    /// Back in use.
    Restored,
}

impl Breaker {
    /// Whether a request may go to the endpoint.
    pub fn admits(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Ejected { until } | State::HalfOpen { until, .. } => now >= until,
        }
    }

    /// Whether the endpoint is ejected at `now`; a probe does not end an ejection, only its success does.
    pub fn is_ejected(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Ejected { until } => now < until,
            State::HalfOpen { .. } => true,
        }
    }

    /// Notes that a request goes to the endpoint; after an ejection that one is the probe.
    pub fn on_begin(&mut self, now: Instant) {
        if let State::Ejected { until } | State::HalfOpen { until, .. } = self.state
            && now >= until
        {
            self.state = State::HalfOpen { since: now, until: now + PROBE_PATIENCE };
        }
    }

    /// Notes the success of a request that was sent at `begun`. One from before the probe does not end an ejection.
    pub fn on_success(&mut self, begun: Instant) -> Option<Transition> {
        match self.state {
            State::Closed { .. } => {
                *self = Breaker::default();
                None
            }
            State::HalfOpen { since, .. } if begun >= since => {
                *self = Breaker::default();
                Some(Transition::Restored)
            }
            State::Ejected { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Notes the failure of a request that was sent at `begun`. `may_eject` is false while too many of the cluster's
    /// endpoints are ejected already.
    pub fn on_failure(
        &mut self,
        begun: Instant,
        now: Instant,
        config: &Config,
        may_eject: bool,
    ) -> Option<Transition> {
        match self.state {
            State::Closed { failures } => {
                let failures = failures.saturating_add(1);
                self.state = State::Closed { failures };
                let trips = config.consecutive_failures > 0 && failures >= config.consecutive_failures;
                (trips && may_eject).then(|| self.eject(now, config))
            }
            State::HalfOpen { since, .. } if begun >= since => Some(self.eject(now, config)),
            // Requests from before the ejection fail too; they must not prolong it.
            State::Ejected { .. } | State::HalfOpen { .. } => None,
        }
    }

    fn eject(&mut self, now: Instant, config: &Config) -> Transition {
        let time = config.base.saturating_mul(1 << self.ejections.min(20)).min(config.max);
        self.ejections += 1;
        self.state = State::Ejected { until: now + time };
        Transition::Ejected(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);
    const CONFIG: Config = Config { consecutive_failures: 3, base: S, max: Duration::from_secs(5), cap: 0.5 };

    fn now() -> Instant {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        clock.expect("a runtime").block_on(async { Instant::now() })
    }

    fn fail(breaker: &mut Breaker, now: Instant, times: u32) -> Option<Transition> {
        (0..times).map(|_| breaker.on_failure(now, now, &CONFIG, true)).last().flatten()
    }

    #[test]
    fn three_failures_in_a_row_eject_and_a_success_in_between_does_not_let_them_add_up() {
        let (mut breaker, now) = (Breaker::default(), now());
        assert_eq!(fail(&mut breaker, now, 2), None);
        breaker.on_success(now);
        assert_eq!(fail(&mut breaker, now, 2), None);
        assert_eq!(fail(&mut breaker, now, 1), Some(Transition::Ejected(S)));
        assert!(!breaker.admits(now) && breaker.is_ejected(now));
    }

    #[test]
    fn a_single_probe_decides_after_the_ejection() {
        let (mut breaker, start) = (Breaker::default(), now());
        fail(&mut breaker, start, 3);
        let now = start + S;
        assert!(breaker.admits(now));
        breaker.on_begin(now);
        assert!(!breaker.admits(now), "the probe is under way");
        assert_eq!(breaker.on_failure(now, now, &CONFIG, true), Some(Transition::Ejected(2 * S)));
        let now = now + 2 * S;
        breaker.on_begin(now);
        assert_eq!(breaker.on_success(now), Some(Transition::Restored));
        assert!(breaker.admits(now));
        assert_eq!(fail(&mut breaker, now, 3), Some(Transition::Ejected(S)), "the doubling starts anew");
    }

    #[test]
    fn a_lost_probe_does_not_shut_the_endpoint_out_for_ever() {
        let (mut breaker, start) = (Breaker::default(), now());
        fail(&mut breaker, start, 3);
        breaker.on_begin(start + S);
        assert!(breaker.admits(start + S + PROBE_PATIENCE));
    }

    #[test]
    fn a_stale_success_does_not_end_an_ejection() {
        let (mut breaker, now) = (Breaker::default(), now());
        fail(&mut breaker, now, 3);
        assert_eq!(breaker.on_success(now), None);
        assert!(breaker.is_ejected(now));
    }

    #[test]
    fn only_requests_sent_since_the_probe_decide_in_its_stead() {
        let (mut breaker, start) = (Breaker::default(), now());
        fail(&mut breaker, start, 3);
        breaker.on_begin(start + S);
        assert_eq!(breaker.on_success(start), None, "a slow answer from before the ejection");
        assert_eq!(breaker.on_failure(start, start + S, &CONFIG, true), None);
        assert!(!breaker.admits(start + S), "the probe is still under way");
        assert_eq!(breaker.on_success(start + S), Some(Transition::Restored));
    }

    #[test]
    fn nothing_is_ejected_when_the_cluster_forbids_it_or_the_feature_is_off() {
        let (mut breaker, now) = (Breaker::default(), now());
        for _ in 0..10 {
            assert_eq!(breaker.on_failure(now, now, &CONFIG, false), None);
        }
        let off = Config { consecutive_failures: 0, ..CONFIG };
        assert_eq!(breaker.on_failure(now, now, &off, true), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Begin,
        Succeed,
        Fail,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..4000).prop_map(Step::Wait),
            Just(Step::Begin),
            Just(Step::Succeed),
            Just(Step::Fail)
        ]
    }

    proptest! {
        #[test]
        fn an_ejection_is_never_shorter_than_its_time_nor_longer_than_the_maximum(steps in proptest::collection::vec(step(), 0..200)) {
            let mut breaker = Breaker::default();
            let mut now = now();
            let mut until = None;
            for step in steps {
                match step {
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Begin => breaker.on_begin(now),
                    Step::Succeed => if breaker.on_success(now) == Some(Transition::Restored) {
                        prop_assert!(until.take().is_some_and(|until| now >= until), "restored too early");
                    },
                    Step::Fail => if let Some(Transition::Ejected(time)) = breaker.on_failure(now, now, &CONFIG, true) {
                        prop_assert!(time >= CONFIG.base && time <= CONFIG.max);
                        prop_assert!(until.is_none_or(|until| now >= until), "ejected twice at once");
                        until = Some(now + time);
                    },
                }
                if until.is_some_and(|until| now < until) {
                    prop_assert!(!breaker.admits(now));
                }
            }
        }
    }
}
