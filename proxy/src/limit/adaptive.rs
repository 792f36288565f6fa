//! How many requests to have in flight at once, found out and not configured: as many as do not
//! make latency grow.
//!
//! The gradient algorithm of Netflix's concurrency-limits (`Gradient2Limit`), which Envoy's
//! adaptive concurrency filter follows too: latency of the last moment is compared with usual
//! latency. As long as it is not much higher, the limit grows by a queue's worth each time; where
//! it is, work is queueing somewhere, and the limit falls in proportion. What is refused costs next
//! to nothing; what would queue costs everybody.
//!
//! Usual latency is where the two differ. Netflix's average goes along with a long overload until
//! that is usual; Envoy lowers the limit to the least every minute to measure without a queue. Here
//! it goes along only while the limit is not reached, since then nothing queues on its account; and
//! if it has been reached for a minute without a break, half of it is tried for two moments, and
//! what the second one shows is usual from then on.
//!
//! Samples are gathered for a window and enter as their mean, as in Netflix's `WindowedLimit`:
//! single requests differ more than load does. Pure: time is passed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Adaptive as Config;
use crate::config::defaults::ADAPTIVE_DOWN;
use crate::config::defaults::ADAPTIVE_REACHED;
use crate::config::defaults::{
    ADAPTIVE_LONG, ADAPTIVE_SAMPLES, ADAPTIVE_SMOOTHING, ADAPTIVE_TOLERANCE, ADAPTIVE_WINDOW,
};

/// A adaptive concurrency limit.
#[derive(Debug, Clone)]
pub struct Gradient {
    limit: f64,
    /// Latency without a queue, seconds; `None` before the first window is over.
    usual: Option<f64>,
    /// Windows that it is the average of, up to the most.
    windows: u32,
    /// Windows in a row in which the limit was reached.
    reached: u32,
    measuring: Option<Measuring>,
    window: Window,
}

/// Half of the limit is tried.
#[derive(Debug, Clone, Copy)]
struct Measuring {
    /// The limit to go back to.
    limit: f64,
    /// Whether what was in flight before has had a window to end.
    settled: bool,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    ends: Option<Instant>,
    sum: f64,
    samples: u32,
    /// Requests that were dropped or timed out.
    drops: u32,
    /// Most requests in flight.
    busiest: u32,
}

impl Window {
    const EMPTY: Window = Window { ends: None, sum: 0.0, samples: 0, drops: 0, busiest: 0 };
}

/// What a request was like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sample {
    /// It was answered after this time.
    Answered(Duration),
    /// It timed out, or was refused for overload.
    Dropped,
}

impl Gradient {
    /// Begins with the configured limit.
    pub fn new(config: &Config) -> Self {
        Gradient {
            limit: f64::from(config.initial),
            usual: None,
            windows: 0,
            reached: 0,
            measuring: None,
            window: Window::EMPTY,
        }
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Adds a request that ended at `now`, when `in_flight` were under way including itself.
    pub fn add(&mut self, sample: Sample, in_flight: u32, now: Instant, config: &Config) {
        let window = &mut self.window;
        let ends = *window.ends.get_or_insert(now + ADAPTIVE_WINDOW);
        window.busiest = window.busiest.max(in_flight);
        match sample {
            Sample::Answered(time) => {
                window.sum += time.as_secs_f64();
                window.samples += 1;
            }
            Sample::Dropped => window.drops += 1,
        }
        if now >= ends && window.samples + window.drops >= ADAPTIVE_SAMPLES {
            let full = std::mem::replace(window, Window::EMPTY);
            self.update(full, config);
        }
    }

    fn update(&mut self, window: Window, config: &Config) {
        let (least, most) = (f64::from(config.min), f64::from(config.max));
        if window.samples == 0 {
            // Nothing but drops: half, as for a lost packet.
            self.limit = (self.limit / 2.0).clamp(least, most);
            return;
        }
        let latency = window.sum / f64::from(window.samples);
        if let Some(measuring) = self.measuring {
            if measuring.settled {
                self.usual = Some(latency);
                self.limit = measuring.limit.clamp(least, most);
                self.measuring = None;
            } else {
                self.measuring = Some(Measuring { settled: true, ..measuring });
            }
            return;
        }
        let busiest = f64::from(window.busiest);
        let is_reached = busiest >= self.limit.floor() * ADAPTIVE_REACHED;
        self.reached = if is_reached { self.reached + 1 } else { 0 };
        if self.reached >= ADAPTIVE_LONG {
            self.reached = 0;
            self.measuring = Some(Measuring { limit: self.limit, settled: false });
            self.limit = (self.limit / 2.0).max(least);
            return;
        }
        let usual = self.follow(latency, is_reached);
        if busiest < self.limit / 2.0 {
            // What is not used says nothing about whether it would be too much.
            return;
        }
        let dropped = f64::from(window.drops) / f64::from(window.samples + window.drops);
        let gradient = (ADAPTIVE_TOLERANCE * usual / latency.max(f64::MIN_POSITIVE)).clamp(0.5, 1.0);
        let queue = if window.drops > 0 { 0.0 } else { self.limit.sqrt() };
        let aimed = self.limit * gradient * (1.0 - dropped / 2.0) + queue;
        let smoothed = self.limit * (1.0 - ADAPTIVE_SMOOTHING) + aimed * ADAPTIVE_SMOOTHING;
        self.limit = smoothed.clamp(least, most);
    }

    /// What is usual after a window of this latency: quickly down, slowly up, and not up while the
    /// limit is reached.
    fn follow(&mut self, latency: f64, is_reached: bool) -> f64 {
        self.windows = (self.windows + 1).min(ADAPTIVE_LONG);
        let usual = self.usual.unwrap_or(latency);
        let share = if latency < usual {
            1.0 / f64::from(self.windows.min(ADAPTIVE_DOWN))
        } else if is_reached {
            0.0
        } else {
            1.0 / f64::from(self.windows)
        };
        let usual = usual + (latency - usual) * share;
        self.usual = Some(usual);
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: Config = Config { initial: 20, min: 2, max: 500 };
    const MS: Duration = Duration::from_millis(1);

    fn now() -> Instant {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        clock.expect("a runtime").block_on(async { Instant::now() })
    }

    /// A server that takes `time` for a request, under as many requests as the limit allows; the
    /// limit after `windows`.
    fn windows_of(
        gradient: &mut Gradient,
        now: &mut Instant,
        windows: u32,
        time: impl Fn(f64) -> Duration,
    ) -> u32 {
        for _ in 0..windows {
            let in_flight = gradient.limit();
            let time = time(f64::from(in_flight));
            for _ in 0..ADAPTIVE_SAMPLES {
                gradient.add(Sample::Answered(time), in_flight, *now, &CONFIG);
            }
            *now += ADAPTIVE_WINDOW;
            gradient.add(Sample::Answered(time), in_flight, *now, &CONFIG);
        }
        gradient.limit()
    }

    /// One with `places` that each take 10 ms for a request.
    fn served(gradient: &mut Gradient, now: &mut Instant, places: f64, windows: u32) -> u32 {
        windows_of(gradient, now, windows, |in_flight| MS.mul_f64(10.0 * (in_flight / places).max(1.0)))
    }

    #[test]
    fn the_limit_settles_where_queueing_begins_and_stays_there_for_half_an_hour() {
        let (mut gradient, mut now) = (Gradient::new(&CONFIG), now());
        for windows in [300, 18_000] {
            let limit = served(&mut gradient, &mut now, 50.0, windows);
            assert!((50..=100).contains(&limit), "{limit}");
        }
    }

    #[test]
    fn the_limit_falls_when_places_are_lost_and_recovers_with_them() {
        let (mut gradient, mut now) = (Gradient::new(&CONFIG), now());
        let before = served(&mut gradient, &mut now, 50.0, 300);
        let slow = served(&mut gradient, &mut now, 5.0, 40);
        assert!(slow < before / 4, "{before} then {slow}");
        let after = served(&mut gradient, &mut now, 50.0, 300);
        assert!(after.abs_diff(before) < 10, "{before} then {after}");
    }

    #[test]
    fn work_that_takes_longer_for_good_is_usual_within_two_minutes() {
        let (mut gradient, mut now) = (Gradient::new(&CONFIG), now());
        let before = served(&mut gradient, &mut now, 50.0, 300);
        let slower = |gradient: &mut Gradient, now: &mut Instant, windows| {
            windows_of(gradient, now, windows, |in_flight| MS.mul_f64(20.0 * (in_flight / 50.0).max(1.0)))
        };
        assert!(slower(&mut gradient, &mut now, 100) < before / 2, "it looks like a queue at first");
        let after = slower(&mut gradient, &mut now, 1100);
        assert!(after.abs_diff(before) < 10, "{before} then {after}");
    }

    #[test]
    fn a_limit_that_is_not_reached_does_not_grow() {
        let (mut gradient, mut now) = (Gradient::new(&CONFIG), now());
        for _ in 0..1000 {
            now += ADAPTIVE_WINDOW / 5;
            gradient.add(Sample::Answered(MS), 3, now, &CONFIG);
        }
        assert_eq!(gradient.limit(), 20);
    }

    #[test]
    fn nothing_but_drops_halves_it() {
        let (mut gradient, mut now) = (Gradient::new(&CONFIG), now());
        for _ in 0..ADAPTIVE_SAMPLES {
            gradient.add(Sample::Dropped, 20, now, &CONFIG);
        }
        now += ADAPTIVE_WINDOW;
        gradient.add(Sample::Dropped, 20, now, &CONFIG);
        assert_eq!(gradient.limit(), 10);
    }

    /// Ends a window: so many answers that took `time` each, and drops, with `in_flight` under way.
    fn window(
        gradient: &mut Gradient,
        now: &mut Instant,
        answers: (u32, Duration),
        drops: u32,
        in_flight: u32,
    ) {
        let (answers, time) = answers;
        for _ in 0..answers - 1 {
            gradient.add(Sample::Answered(time), in_flight, *now, &CONFIG);
        }
        for _ in 0..drops {
            gradient.add(Sample::Dropped, in_flight, *now, &CONFIG);
        }
        *now += ADAPTIVE_WINDOW;
        gradient.add(Sample::Answered(time), in_flight, *now, &CONFIG);
    }

    #[test]
    fn a_window_moves_the_limit_as_the_formula_says() {
        // Answers and drops of a window after one of 20 answers in 10 ms; the gradient, the share
        // that is dropped, and whether there is room for a queue.
        for (answers, drops, gradient, dropped, queue) in [
            ((50, 10 * MS), 0, 1.0, 0.0, true),
            ((20, 20 * MS), 0, 1.5 * 10.0 / 20.0, 0.0, true),
            ((20, 100 * MS), 0, 0.5, 0.0, true),
            ((30, 10 * MS), 10, 1.0, 0.25, false),
            ((10, 25 * MS), 10, 1.5 * 10.0 / 25.0, 0.5, false),
        ] {
            let (mut limited, mut now) = (Gradient::new(&CONFIG), now());
            window(&mut limited, &mut now, (20, 10 * MS), 0, 20);
            let before = limited.limit;
            assert!((before - (20.0 + 0.2 * 20.0_f64.sqrt())).abs() < 1e-9, "{before}");
            window(&mut limited, &mut now, answers, drops, 24);
            let room = if queue { before.sqrt() } else { 0.0 };
            let aimed = before * gradient * (1.0 - dropped / 2.0) + room;
            let expected = before * 0.8 + aimed * 0.2;
            assert!((limited.limit - expected).abs() < 1e-9, "{answers:?}: {} for {expected}", limited.limit);
        }
    }

    #[test]
    fn a_window_takes_its_time_and_its_samples_and_half_the_limit_is_enough_to_judge_by() {
        let (mut gradient, mut now) = (Gradient::new(&CONFIG), now());
        for _ in 0..5 * ADAPTIVE_SAMPLES {
            gradient.add(Sample::Answered(MS), 10, now, &CONFIG);
        }
        assert_eq!(gradient.limit, 20.0, "it is not over");
        now += ADAPTIVE_WINDOW;
        gradient.add(Sample::Answered(MS), 10, now, &CONFIG);
        assert!(gradient.limit > 20.0);
        let before = gradient.limit;
        for _ in 0..ADAPTIVE_SAMPLES - 1 {
            now += ADAPTIVE_WINDOW;
            gradient.add(Sample::Answered(MS), 20, now, &CONFIG);
        }
        assert_eq!(gradient.limit, before, "one sample is missing");
        gradient.add(Sample::Answered(MS), 20, now, &CONFIG);
        assert!(gradient.limit > before);
    }

    #[test]
    fn after_a_minute_at_the_limit_half_of_it_shows_what_is_usual() {
        let (mut gradient, mut now) = (Gradient::new(&CONFIG), now());
        windows_of(&mut gradient, &mut now, ADAPTIVE_LONG - 1, |_| 10 * MS);
        let before = gradient.limit;
        let in_flight = gradient.limit();
        window(&mut gradient, &mut now, (20, 10 * MS), 0, in_flight);
        assert_eq!(gradient.limit, before / 2.0);
        window(&mut gradient, &mut now, (20, 40 * MS), 0, in_flight / 2);
        assert_eq!(gradient.limit, before / 2.0, "what was in flight before has a window to end");
        window(&mut gradient, &mut now, (20, 30 * MS), 0, in_flight / 2);
        assert_eq!(gradient.limit, before);
        assert!((gradient.usual.unwrap() - 0.030).abs() < 1e-9, "{:?}", gradient.usual);
    }

    #[test]
    fn usual_latency_falls_quickly_and_rises_slowly_and_not_at_the_limit() {
        let mut gradient = Gradient::new(&CONFIG);
        let mut follow = |latency, is_reached, expected: f64| {
            let usual = gradient.follow(latency, is_reached);
            assert!((usual - expected).abs() < 1e-9, "{usual} for {expected}");
        };
        follow(10.0, false, 10.0);
        follow(20.0, false, 15.0);
        follow(9.0, false, 13.0);
        follow(9.0, true, 12.0);
        follow(100.0, true, 12.0);
        (0..15).for_each(|_| follow(12.0, false, 12.0));
        follow(33.0, false, 13.0);
        follow(3.0, false, 12.0);
    }

    proptest! {
        #[test]
        fn the_limit_never_leaves_its_range(
            samples in proptest::collection::vec((0u64..100_000, any::<bool>(), 0u32..1000, 0u64..300), 0..500),
        ) {
            let (mut gradient, mut now) = (Gradient::new(&CONFIG), now());
            for (micros, answered, in_flight, wait) in samples {
                now += Duration::from_millis(wait);
                let time = Duration::from_micros(micros);
                let sample = if answered { Sample::Answered(time) } else { Sample::Dropped };
                gradient.add(sample, in_flight, now, &CONFIG);
                prop_assert!((CONFIG.min..=CONFIG.max).contains(&gradient.limit()));
            }
        }
    }
}
