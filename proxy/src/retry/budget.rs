//! How many retries a cluster can afford.
//!
//! A bucket of tokens, one for each retry. A success pays in a share of a token, and a trickle
//! comes with time, so that a cluster with little to do can retry at all; the bucket holds so many
//! and no more. Paying by *successes* is the point: with a budget that counts requests, as tower's
//! and Envoy's, what fails pays for its own repetition, and in simulation an incident of 1.5 s
//! became a collapse for good. gRPC's throttle (proposal A6) is funded by successes too.
//!
//! What follows: retries are never more than the reserve, plus the trickle, plus the share of the
//! successes, over any stretch of time. An attempt that nobody had begun with when it failed is not
//! charged: its repetition takes its place, and no endpoint does more work than it was asked for.
//!
//! One bucket for all workers, without a lock: two atomics, each changed by compare and exchange.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use crate::config::RetryBudget;

/// Parts of a token.
const TOKEN: u64 = 1_000_000;

/// The bucket of a cluster.
#[derive(Debug)]
pub struct Budget {
    /// Millionths of a token.
    level: AtomicU64,
    begun: Instant,
    /// Up to when the trickle has been paid in, nanoseconds after `begun`.
    paid_to: AtomicU64,
}

impl Budget {
    /// A full bucket: the first failure may come before the first success.
    pub fn new(config: &RetryBudget, now: Instant) -> Self {
        Budget { level: AtomicU64::new(most(config)), begun: now, paid_to: AtomicU64::new(0) }
    }

    /// Pays in for a success. Whether that made a difference.
    pub fn deposit(&self, config: &RetryBudget) -> bool {
        self.pay_in((config.share * TOKEN as f64) as u64, config)
    }

    /// Takes a token out for a retry. False: there is none, and so no retry.
    pub fn withdraw(&self, config: &RetryBudget, now: Instant) -> bool {
        self.trickle(config, now);
        // After a reload the reserve may be smaller than what is there.
        let taken =
            self.level.fetch_update(Relaxed, Relaxed, |level| level.min(most(config)).checked_sub(TOKEN));
        taken.is_ok()
    }

    /// Whole tokens that are there.
    pub fn tokens(&self) -> u64 {
        self.level.load(Relaxed) / TOKEN
    }

    fn pay_in(&self, amount: u64, config: &RetryBudget) -> bool {
        let most = most(config);
        // The usual case: nothing fails and the bucket is full. Then this is a read.
        let paid = |level: u64| (level < most).then(|| level.saturating_add(amount).min(most));
        self.level.fetch_update(Relaxed, Relaxed, paid).is_ok()
    }

    fn trickle(&self, config: &RetryBudget, now: Instant) {
        let rate = u128::from(config.per_second);
        if rate == 0 {
            return;
        }
        let elapsed = now.saturating_duration_since(self.begun).as_nanos();
        let paid_to = self.paid_to.load(Relaxed);
        // A thousandth of the rate in millionths of a token for each nanosecond.
        let amount = elapsed.saturating_sub(u128::from(paid_to)) * rate / 1000;
        // What the amount stands for and not all that has passed, or the fractions would get lost;
        // rounded up.
        let next = paid_to.saturating_add(u64::try_from((amount * 1000).div_ceil(rate)).unwrap_or(u64::MAX));
        if amount > 0 && self.paid_to.compare_exchange(paid_to, next, Relaxed, Relaxed).is_ok() {
            self.pay_in(u64::try_from(amount).unwrap_or(u64::MAX), config);
        }
    }
}

fn most(config: &RetryBudget) -> u64 {
    u64::from(config.reserve) * TOKEN
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    fn config(share: f64, per_second: u32, reserve: u32) -> RetryBudget {
        RetryBudget { share, per_second, reserve }
    }

    fn drain(budget: &Budget, config: &RetryBudget, now: Instant) -> u64 {
        let mut taken = 0;
        while budget.withdraw(config, now) {
            taken += 1;
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn five_successes_pay_for_one_retry_and_time_for_a_trickle() {
        let (config, now) = (config(0.2, 1, 20), Instant::now());
        let budget = Budget::new(&config, now);
        assert!(!budget.deposit(&config), "it begins full");
        assert_eq!(budget.tokens(), 20);
        assert_eq!((drain(&budget, &config, now), budget.tokens()), (20, 0));
        assert!((0..4).all(|_| budget.deposit(&config)));
        assert!(!budget.withdraw(&config, now));
        budget.deposit(&config);
        assert_eq!(drain(&budget, &config, now), 1);
        assert_eq!(drain(&budget, &config, now + 3 * S), 3);
        assert_eq!(drain(&budget, &config, now + 1000 * S), 20, "no more than the reserve is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_smaller_reserve_holds_at_once() {
        let now = Instant::now();
        let budget = Budget::new(&config(0.2, 1, 20), now);
        assert_eq!(drain(&budget, &config(0.2, 1, 5), now), 5);
    }

    #[test]
    fn workers_that_draw_at_the_same_time_never_take_more_than_there_is() {
        let (config, now) = (config(0.5, 0, 100), Instant::now());
        let budget = Budget::new(&config, now);
        let taken: u64 = std::thread::scope(|scope| {
            let work = || {
                (0..1000)
                    .map(|_| {
                        budget.deposit(&config);
                        u64::from(budget.withdraw(&config, now)) + u64::from(budget.withdraw(&config, now))
                    })
                    .sum::<u64>()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!(taken <= 100 + 4000 / 2, "{taken}");
        assert!(taken + budget.tokens() >= 1000, "{taken}");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Deposit,
        Withdraw,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => (0..3_000_000_000_u64).prop_map(Step::Pass),
            4 => Just(Step::Deposit),
            8 => Just(Step::Withdraw),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_reserve_and_what_was_paid_in(
            (steps, percent, per_second, reserve) in (steps(), 0_u32..=100, 0_u32..20, 1_u32..50)
        ) {
            let config = config(f64::from(percent) / 100.0, per_second, reserve);
            let begun = Instant::now();
            let budget = Budget::new(&config, begun);
            let (mut now, mut paid, mut taken) = (begun, 0.0, 0_u64);
            // Over every stretch that ends now: what was taken less what was paid in, at most the
            // reserve.
            let mut worst = 0.0_f64;
            for step in steps {
                let mut gain = 0.0;
                match step {
                    Step::Pass(nanos) => {
                        now += Duration::from_nanos(nanos);
                        gain = f64::from(per_second) * nanos as f64 / 1e9;
                    }
                    Step::Deposit => {
                        budget.deposit(&config);
                        gain = config.share;
                    }
                    Step::Withdraw => {
                        if budget.withdraw(&config, now) {
                            taken += 1;
                            gain = -1.0;
                        }
                    }
                }
                paid += gain.max(0.0);
                worst = (worst - gain).max(0.0);
                prop_assert!(worst <= f64::from(reserve) + 1e-3, "{} over {}", worst, reserve);
                prop_assert!(taken as f64 <= f64::from(reserve) + paid + 1e-3);
                prop_assert!(budget.tokens() <= u64::from(reserve));
            }
        }
    }
}
