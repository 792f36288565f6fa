//! Peak-EWMA: a latency average that believes bad news at once and good news slowly.
//!
//! A sample above the average replaces it, one below pulls it down with weight `1 - exp(-age / decay)`; without samples
//! the average fades towards zero, so an endpoint that was once slow is tried again. From Twitter's Finagle
//! (`PeakEwma.scala`), also used by Linkerd and tower.
//!
//! Fading alone is not enough: after one answer that took 3 s, an endpoint among others that take 5 ms would see no request
//! for `10 s * ln(600)`, a minute. So whoever is picked after long neglect ([`defaults::EXPLORE_AFTER`]) starts anew: its
//! next answer replaces the average, whatever it is. And a request that never was answered counts for as long as it had
//! waited, since it would have taken longer still: a process that hangs gives no samples at all.
//!
//! [`defaults::EXPLORE_AFTER`]: crate::config::defaults::EXPLORE_AFTER
//!
//! An endpoint that was never heard from is tried at once, by one request at a time, as in Finagle. Linkerd assumes
//! 30 ms from the start instead: beside replicas that answer in one millisecond a new one would get its first request
//! after half a minute.
//!
//! Failures are quick, and an endpoint that only fails gives no samples, so its average would fade until it is the
//! cheapest of all and draws every request to it: a sinkhole. Where the breaker may not eject one more, or is switched off,
//! nothing else stands in the way. So recent failures count as if they were requests in hand, which is what Google's SRE
//! book advises (chapter 20, "Load Balancing in the Datacenter"): the first of a run as one, the second as two and so
//! on, or the one that fails quickest of several would keep the load for long. The average does not fade while they go on,
//! and the first success ends it.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::defaults::{EWMA_DECAY, EWMA_START};
use crate::mutant;

/// The average, in nanoseconds.
#[derive(Debug, Clone)]
pub struct PeakEwma {
    value: f64,
    at: Instant,
    /// What it was after the last answer.
    last: f64,
    /// Failures since the last success.
    run: u32,
    /// What they count as, faded by the time since.
    failures: f64,
    /// Whether there ever was a sample.
    known: bool,
    /// Whether the next answer replaces the average.
    renewing: bool,
}

impl PeakEwma {
    /// The average of nothing.
    pub fn new(now: Instant) -> Self {
        PeakEwma { value: 0.0, at: now, last: 0.0, run: 0, failures: 0.0, known: false, renewing: false }
    }

    /// The average at `now`, faded by the time since the last look; zero if nothing was ever observed.
    pub fn get(&mut self, now: Instant) -> f64 {
        self.fade(now);
        self.value
    }

    /// What a further request would cost at an endpoint with `pending` requests in hand, nanoseconds: latency times
    /// queue, and the queue is the shorter the larger the endpoint's `weight` (1 for an average one). Recent failures are in
    /// the queue. An unknown endpoint costs nothing while it is idle, and [`EWMA_START`] a request while it is being tried.
    ///
    /// The request itself is not divided by the weight: idle endpoints are told apart by latency only, and get their shares
    /// because they are drawn by weight. Busy ones hold requests in proportion to it.
    pub fn cost(&mut self, now: Instant, pending: u32, weight: f64) -> f64 {
        self.fade(now);
        let queue = f64::from(pending) + self.failures;
        let latency = match self.known {
            true => self.value,
            false if queue == 0.0 => 0.0,
            false => EWMA_START.as_nanos() as f64,
        };
        latency * (queue / weight + 1.0)
    }

    /// Takes the time that an answer took.
    pub fn observe(&mut self, now: Instant, sample: Duration) {
        let sample = sample.as_nanos() as f64;
        let keep = self.fade(now);
        if std::mem::take(&mut self.renewing) || sample > self.value {
            self.value = sample;
        } else {
            self.value += sample * (1.0 - keep);
        }
        self.last = self.value;
        self.known = true;
    }

    /// A request has failed.
    pub fn failed(&mut self, now: Instant) {
        if mutant::is_planted("sinkhole") {
            return;
        }
        self.fade(now);
        self.run = self.run.saturating_add(1);
        self.failures += f64::from(self.run);
        self.value = self.value.max(self.last);
    }

    /// A request has succeeded: failures are history.
    pub fn succeeded(&mut self) {
        (self.run, self.failures) = (0, 0.0);
    }

    /// Takes the time that a request has waited which was never answered. It can only raise the average, and makes an
    /// unknown endpoint known only if it is long: a quick refusal says nothing about how long answers take.
    pub fn waited(&mut self, now: Instant, waited: Duration) {
        let sample = waited.as_nanos() as f64;
        self.renewing = false;
        self.known |= waited >= EWMA_START;
        if self.known && sample > self.get(now) {
            self.value = sample;
            self.last = sample;
        }
    }

    /// Forgets the average as soon as there is an answer to replace it.
    pub fn renew(&mut self) {
        self.renewing = true;
    }

    /// Lets average and failures fade up to `now`, and says what share of them is left.
    fn fade(&mut self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let keep = (-age.as_secs_f64() / EWMA_DECAY.as_secs_f64()).exp();
        self.value *= keep;
        self.failures *= keep;
        keep
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
        ewma.observe(now, 5 * MS);
        assert_eq!(ewma.get(now), 5e8);
        let later = ewma.get(now + EWMA_DECAY);
        assert!((later - 5e8 / std::f64::consts::E).abs() < 1e3, "{later}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_only_fails_grows_dearer_and_never_fades_until_it_succeeds() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.observe(now, 5 * MS);
        let mut before = ewma.cost(now, 0, 1.0);
        for second in 1..60 {
            let now = now + second * EWMA_DECAY / 10;
            ewma.failed(now);
            let cost = ewma.cost(now, 0, 1.0);
            assert!(cost >= before.min(10.0 * 5e6), "{second}: {cost} after {before}");
            before = cost;
        }
        assert!(before > 9.0 * 5e6, "{before}");
        ewma.succeeded();
        assert_eq!(ewma.cost(now + 6 * EWMA_DECAY, 0, 1.0), ewma.get(now + 6 * EWMA_DECAY));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_endpoint_is_tried_by_one_request_at_a_time() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        assert_eq!(ewma.cost(now, 0, 1.0), 0.0);
        assert_eq!(ewma.cost(now, 2, 1.0), 3.0 * EWMA_START.as_nanos() as f64);
        ewma.observe(now, MS);
        assert_eq!((ewma.cost(now, 0, 1.0), ewma.cost(now, 2, 1.0)), (1e6, 3e6));
        assert_eq!(
            (ewma.cost(now, 0, 2.0), ewma.cost(now, 2, 2.0)),
            (1e6, 2e6),
            "twice the weight, half the queue"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_after_long_neglect_replaces_the_average_and_later_ones_do_not() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.observe(now, 3000 * MS);
        ewma.renew();
        assert_eq!(ewma.get(now), 3e9, "the answer is not there yet");
        ewma.observe(now, 5 * MS);
        assert_eq!(ewma.get(now), 5e6);
        ewma.observe(now, MS);
        assert_eq!(ewma.get(now), 5e6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_never_answered_counts_for_as_long_as_it_waited_if_that_is_long() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.waited(now, MS);
        assert_eq!(ewma.cost(now, 0, 1.0), 0.0, "a quick refusal leaves it unknown");
        ewma.waited(now, 1000 * MS);
        assert_eq!(ewma.cost(now, 0, 1.0), 1e9);
        ewma.waited(now, MS);
        assert_eq!(ewma.get(now), 1e9, "it never lowers the average");
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
                if gap % 7 == 0 {
                    ewma.renew();
                }
                prop_assert!(ewma.value >= 0.0 && ewma.value <= largest.as_nanos() as f64);
            }
        }
    }
}
