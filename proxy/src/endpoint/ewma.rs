//! Peak-EWMA: a latency average that believes bad news at once and good news slowly.
//!
//! A sample above the average replaces it, one below pulls it down with weight `1 - exp(-age /
//! decay)`; without samples the average fades towards zero, so an endpoint that was once slow is
//! tried again. From Twitter's Finagle (`PeakEwma.scala`), also used by Linkerd and tower.
//!
//! Fading alone is not enough: after one answer that took 3 s, an endpoint among others that take 5
//! ms would see no request for `10 s * ln(600)`, a minute. So an endpoint that is picked after it
//! was long unused ([`defaults::EXPLORE_AFTER`]) starts anew: its next answer replaces the average,
//! whatever it is. And a request that never was answered counts for as long as it had waited, since
//! it would have taken longer still: a process that hangs gives no samples at all.
//!
//! An endpoint that was never heard from is tried at once, by one request at a time, as in Finagle.
//! Linkerd assumes 30 ms from the start instead: beside replicas that answer in one millisecond a
//! new one would get its first request after half a minute.
//!
//! Failures are quick, and an endpoint that only fails gives no samples, so its average would fade
//! until it is the cheapest of all and draws every request to it: a sinkhole. Where outlier
//! detection may not eject one more, or is switched off, nothing else stands in the way. So recent
//! failures count as if they were active requests, which is what Google's SRE book advises (chapter
//! 20, "Load Balancing in the Datacenter"): the first of a run as one, the second as two and so on,
//! or the one that fails quickest of several would keep the load for long. The average does not
//! fade while they go on.
//!
//! They count as [`defaults::MOST_FAILURES`] at most. Where all endpoints are so busy that requests
//! run out of time, all of them fail. The one with the longest run by chance would get nothing and
//! leave its load to the others, which would keep them busy. An endpoint with a longer run than
//! that has an average of [`EWMA_START`] at least: its answers are quick but worth nothing.
//!
//! Successes take failures away, each more of them than the one before
//! ([`defaults::FORGIVEN_AFTER`]), and the first one not all: an endpoint that fails three requests
//! in ten succeeds after most failures. Forgiven each time, it got half of the load of three
//! replicas while the others' averages kept one pause of 30 ms, for twice the decay time. But an
//! endpoint that starts anew, after a time without use or an ejection, owes nothing after one
//! success.
//!
//! [`defaults::EXPLORE_AFTER`]: crate::config::defaults::EXPLORE_AFTER
//! [`defaults::FORGIVEN_AFTER`]: crate::config::defaults::FORGIVEN_AFTER
//! [`defaults::MOST_FAILURES`]: crate::config::defaults::MOST_FAILURES

use std::time::Duration;

use tokio::time::Instant;

use crate::config::defaults::{EWMA_DECAY, EWMA_START, FORGIVEN_AFTER, MOST_FAILURES};
use crate::mutant::Mutant;

const START_NS: f64 = EWMA_START.as_nanos() as f64;

/// The average, in nanoseconds.
#[derive(Debug, Clone)]
pub struct PeakEwma {
    value: f64,
    at: Instant,
    /// What it was after the last answer.
    last: f64,
    /// How the last requests ended.
    run: Run,
    /// What failures count as, faded by the time since.
    failures: f64,
    /// Whether there ever was a sample.
    known: bool,
    /// Whether the next answer replaces the average.
    renewing: bool,
    /// Whether a success takes away all failures.
    forgiving: bool,
}

/// Requests in a row that ended alike.
#[derive(Debug, Clone, Copy)]
enum Run {
    Failures(u32),
    Successes(u32),
}

impl PeakEwma {
    /// The average of nothing.
    pub fn new(now: Instant) -> Self {
        PeakEwma {
            value: 0.0,
            at: now,
            last: 0.0,
            run: Run::Successes(0),
            failures: 0.0,
            known: false,
            renewing: false,
            forgiving: false,
        }
    }

    /// The average at `now`, faded by the time since the last look; zero if nothing was ever
    /// observed.
    pub fn get(&mut self, now: Instant) -> f64 {
        self.fade(now);
        self.value
    }

    /// The same for those who only look, and leave no trace of it.
    pub fn faded(&self, now: Instant) -> f64 {
        self.value * (-now.saturating_duration_since(self.at).as_secs_f64() / EWMA_DECAY.as_secs_f64()).exp()
    }

    /// What a further request would cost at an endpoint with `pending` active requests,
    /// nanoseconds: latency times queue, and the queue is the shorter the larger the endpoint's
    /// `weight` (1 for an average one). Recent failures are in the queue. An unknown endpoint costs
    /// nothing while it is idle, and [`EWMA_START`] a request while it is being tried.
    ///
    /// The request itself is not divided by the weight: idle endpoints are told apart by latency
    /// only, and get their shares because they are drawn by weight. Busy ones hold requests in
    /// proportion to it.
    pub fn cost(&mut self, now: Instant, pending: u32, weight: f64) -> f64 {
        self.fade(now);
        let queue = f64::from(pending) + self.failures;
        let latency = match self.known {
            true => self.value,
            false if queue == 0.0 => 0.0,
            false => START_NS,
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
        if Mutant::Sinkhole.is_planted() {
            return;
        }
        self.fade(now);
        let run = if let Run::Failures(before) = self.run { before.saturating_add(1) } else { 1 };
        self.run = Run::Failures(run);
        self.forgiving = false;
        let run = f64::from(run);
        self.failures = (self.failures + run).min(MOST_FAILURES);
        let fills_it_alone = run * (run + 1.0) / 2.0 > MOST_FAILURES;
        let least = if fills_it_alone { self.last.max(START_NS) } else { self.last };
        self.value = self.value.max(least);
    }

    /// A request has succeeded: the more of them in a row, the more of the failures is history.
    pub fn succeeded(&mut self) {
        let run = if let Run::Successes(before) = self.run { before.saturating_add(1) } else { 1 };
        self.run = Run::Successes(run);
        let all = std::mem::take(&mut self.forgiving) || run >= FORGIVEN_AFTER;
        let left = if all { 0 } else { FORGIVEN_AFTER - run };
        self.failures *= f64::from(left) / f64::from(FORGIVEN_AFTER);
    }

    /// Takes the time that a request has waited which was never answered. It can only raise the
    /// average, and makes an unknown endpoint known only if it is long: a quick refusal says
    /// nothing about how long answers take.
    pub fn waited(&mut self, now: Instant, waited: Duration) {
        let sample = waited.as_nanos() as f64;
        self.renewing = false;
        self.known |= waited >= EWMA_START;
        if self.known && sample > self.get(now) {
            self.value = sample;
            self.last = sample;
        }
    }

    /// Forgets the average as soon as there is an answer to replace it, and failures if that is a
    /// success.
    pub fn renew(&mut self) {
        (self.renewing, self.forgiving) = (true, true);
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
    async fn a_smaller_sample_counts_for_the_time_since_the_last_and_failures_fade_alike() {
        let (now, left) = (Instant::now(), (-1.0_f64).exp());
        let mut ewma = PeakEwma::new(now);
        ewma.observe(now, 500 * MS);
        assert!((ewma.faded(now + EWMA_DECAY) - 5e8 * left).abs() < 1e-3, "for those who only look");
        ewma.observe(now + EWMA_DECAY, 100 * MS);
        let expected = 5e8 * left + 1e8 * (1.0 - left);
        assert!((ewma.get(now + EWMA_DECAY) - expected).abs() < 1e-3);
        let mut ewma = PeakEwma::new(now);
        ewma.observe(now, MS);
        ewma.failed(now);
        ewma.failed(now);
        let cost = ewma.cost(now + EWMA_DECAY, 0, 1.0);
        assert!((cost - 1e6 * left * (1.0 + 3.0 * left)).abs() < 1e-3, "{cost}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_only_fails_grows_dearer_and_never_fades_until_it_is_back() {
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
        ewma.renew();
        ewma.succeeded();
        assert_eq!(ewma.cost(now + 6 * EWMA_DECAY, 0, 1.0), ewma.get(now + 6 * EWMA_DECAY));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_forgiven_by_a_run_of_successes_and_not_by_the_first() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.observe(now, MS);
        ewma.failed(now);
        ewma.failed(now);
        assert_eq!(ewma.cost(now, 0, 1.0), 4e6, "one and two active");
        ewma.succeeded();
        ewma.succeeded();
        assert_eq!(ewma.cost(now, 0, 1.0), (1.0 + 3.0 * 31.0 / 32.0 * 30.0 / 32.0) * 1e6);
        ewma.failed(now);
        assert_eq!(
            ewma.cost(now, 0, 1.0),
            (2.0 + 3.0 * 31.0 / 32.0 * 30.0 / 32.0) * 1e6,
            "the first of its run"
        );
        (0..FORGIVEN_AFTER).for_each(|_| ewma.succeeded());
        assert_eq!(ewma.cost(now, 0, 1.0), 1e6);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_count_for_so_much_and_who_only_fails_is_not_taken_for_quick() {
        let now = Instant::now();
        let cost = |latency, failures| {
            let mut ewma = PeakEwma::new(now);
            ewma.observe(now, latency);
            (0..failures).for_each(|_| ewma.failed(now));
            ewma.cost(now, 0, 1.0)
        };
        assert_eq!(cost(MS, 5), 16e6);
        assert_eq!(cost(MS, 6), 17.0 * START_NS);
        assert_eq!(cost(MS, 1000), 17.0 * START_NS);
        assert_eq!(cost(100 * MS, 1000), 17.0 * 1e8);
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_three_requests_in_ten_costs_several_times_its_latency() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.observe(now, MS);
        let mut rng = crate::world::RngTree::new(1).rng();
        let mut cost = 0.0;
        for _ in 0..1000 {
            if rand::RngExt::random_bool(&mut rng, 0.3) {
                ewma.failed(now)
            } else {
                ewma.succeeded()
            }
            cost += ewma.cost(now, 0, 1.0) / 1000.0;
        }
        assert!((8e6..17e6).contains(&cost), "{cost}");
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
    async fn the_first_answer_after_it_was_long_unused_replaces_the_average_and_later_ones_do_not() {
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
