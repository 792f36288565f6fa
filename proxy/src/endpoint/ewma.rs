//! Peak-EWMA: a latency average that believes bad news at once and good news slowly.
//!
//! A sample above the average replaces it, one below pulls it down with weight `1 - exp(-age / decay)`; without samples
//! the average fades towards zero, so an endpoint that was once slow is tried again. From Twitter's Finagle
//! (`PeakEwma.scala`), also used by Linkerd and tower.
//!
//! An endpoint that was never heard from is tried at once, by one request at a time, as in Finagle. Linkerd assumes
//! 30 ms from the start instead: beside replicas that answer in one millisecond a new one would get its first request
//! after half a minute.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::defaults::{EWMA_DECAY, EWMA_START};

/// The average, in nanoseconds.
#[derive(Debug, Clone)]
pub struct PeakEwma {
    value: f64,
    at: Instant,
    /// Whether anything was ever heard of the endpoint, good or bad.
    known: bool,
}

impl PeakEwma {
    /// The average of nothing.
    pub fn new(now: Instant) -> Self {
        PeakEwma { value: 0.0, at: now, known: false }
    }

    /// The average at `now`, faded by the time since the last look; zero if nothing was ever observed.
    pub fn get(&mut self, now: Instant) -> f64 {
        if self.known {
            self.observe(now, Duration::ZERO);
        }
        self.value
    }

    /// What a further request would cost at an endpoint with `pending` requests in hand, nanoseconds: latency times
    /// queue. An unknown endpoint costs nothing while it is idle, and [`EWMA_START`] a request while it is being tried.
    pub fn cost(&mut self, now: Instant, pending: u32) -> f64 {
        let latency = match (self.known, pending) {
            (false, 0) => 0.0,
            (false, _) => EWMA_START.as_nanos() as f64,
            (true, _) => self.get(now),
        };
        latency * f64::from(pending + 1)
    }

    /// Notes that the endpoint failed. That says nothing about its latency (a refusal is quick, and would attract load),
    /// but ends an unknown endpoint's benefit of the doubt.
    pub fn fail(&mut self, now: Instant) {
        if !self.known {
            self.observe(now, EWMA_START);
        }
    }

    /// Takes a sample.
    pub fn observe(&mut self, now: Instant, sample: Duration) {
        self.known = true;
        let sample = sample.as_nanos() as f64;
        let age = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        if sample > self.value {
            self.value = sample;
        } else {
            let keep = (-age.as_secs_f64() / EWMA_DECAY.as_secs_f64()).exp();
            self.value = self.value * keep + sample * (1.0 - keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_peak_counts_at_once_and_fades_over_the_decay_time() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.observe(now, 500 * MS);
        assert_eq!(ewma.get(now), 5e8);
        let later = ewma.get(now + EWMA_DECAY);
        assert!((later - 5e8 / std::f64::consts::E).abs() < 1e3, "{later}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_endpoint_is_tried_by_one_request_at_a_time() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        assert_eq!(ewma.cost(now, 0), 0.0);
        assert_eq!(ewma.cost(now, 2), 3.0 * EWMA_START.as_nanos() as f64);
        ewma.observe(now, MS);
        assert_eq!((ewma.cost(now, 0), ewma.cost(now, 2)), (1e6, 3e6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_ends_the_benefit_of_the_doubt_but_is_no_sample() {
        let now = Instant::now();
        let mut unknown = PeakEwma::new(now);
        unknown.fail(now);
        assert_eq!(unknown.cost(now, 0), EWMA_START.as_nanos() as f64);
        let mut known = PeakEwma::new(now);
        known.observe(now, MS);
        known.fail(now);
        assert_eq!(known.cost(now, 0), 1e6);
    }

    proptest! {
        #[test]
        fn the_average_never_exceeds_the_largest_sample(samples in proptest::collection::vec((0u64..10_000, 0u64..2_000), 1..50)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let mut now = runtime.block_on(async { Instant::now() });
            let mut ewma = PeakEwma::new(now);
            let mut largest = Duration::ZERO;
            for (gap, sample) in samples {
                now += Duration::from_millis(gap);
                let sample = Duration::from_millis(sample);
                largest = largest.max(sample);
                ewma.observe(now, sample);
                prop_assert!(ewma.value >= 0.0 && ewma.value <= largest.as_nanos() as f64);
            }
        }
    }
}
