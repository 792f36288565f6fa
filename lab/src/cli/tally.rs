//! How far a sweep over seeds has got, while it runs and at its end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The count of a sweep.
pub(super) struct Tally {
    bar: ProgressBar,
    seeds: u64,
    simulated: Duration,
    requests: u64,
}

impl Tally {
    /// Shows that `seeds` are to come.
    pub fn new(seeds: u64) -> Self {
        let bar = ProgressBar::new(seeds);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}");
        bar.set_style(style.expect("the template is right"));
        Tally { bar, seeds: 0, simulated: Duration::ZERO, requests: 0 }
    }

    /// One seed is done.
    pub fn done(&mut self) {
        self.bar.inc(1);
        self.seeds += 1;
    }

    /// It took so much virtual time and made so many requests.
    pub fn add(&mut self, simulated: Duration, requests: u64) {
        self.simulated += simulated;
        self.requests += requests;
    }

    /// Prints what came of `name`, in a line, and returns how many seeds are done.
    pub fn tell(self, name: &str) -> u64 {
        let elapsed = self.bar.elapsed().as_secs_f64();
        self.bar.finish_and_clear();
        outln!(
            "{name}: {} {} in {elapsed:.1} s, {:.1} seeds/s, {:.0} s simulated, {} requests",
            self.seeds,
            if self.seeds == 1 { "seed" } else { "seeds" },
            self.seeds as f64 / elapsed,
            self.simulated.as_secs_f64(),
            self.requests,
        );
        self.seeds
    }
}
