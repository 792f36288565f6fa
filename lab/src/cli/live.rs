//! How a run is getting on: one line that is rewritten on a terminal, one line for each phase and
//! fault elsewhere. All of it goes to standard error, so that standard output is the report alone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::load::{Outcome, Record};
use crate::report::terminal::time;
use crate::run::Progress;

/// What the line shows of rate and latency is of this long, microseconds.
const RECENT_US: i64 = 1_000_000;

/// The line.
pub(super) struct ProgressLine {
    bar: ProgressBar,
    terminal: bool,
    phase: RefCell<String>,
    in_force: RefCell<Vec<String>>,
    recent: RefCell<Recent>,
    done: Cell<u64>,
    failed: Cell<u64>,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is right"));
        bar.enable_steady_tick(Duration::from_millis(120));
        ProgressLine {
            bar,
            terminal,
            phase: RefCell::default(),
            in_force: RefCell::default(),
            recent: RefCell::default(),
            done: Cell::new(0),
            failed: Cell::new(0),
        }
    }

    /// Says something that stays, above the line.
    pub(super) fn say(&self, words: &str) {
        match self.terminal {
            true => self.bar.suspend(|| errln!("{words}")),
            false => errln!("{words}"),
        }
    }

    /// Takes the line away for good.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for ProgressLine {
    fn phase(&self, what: &str) {
        *self.phase.borrow_mut() = what.to_owned();
        self.bar.set_message(what.to_owned());
        if !self.terminal {
            self.say(what);
        }
    }

    fn request(&self, _: usize, record: &Record) {
        self.done.set(self.done.get() + 1);
        if record.outcome != Outcome::Ok {
            self.failed.set(self.failed.get() + 1);
        }
        self.recent.borrow_mut().add(record);
    }

    fn tick(&self, at: Duration, of: Duration) {
        let (rate, p99) = self.recent.borrow_mut().look(at.as_micros() as i64);
        let p99 = p99.map_or_else(|| "-".to_owned(), |us| time(us as f64));
        let mut words = format!(
            "{} {:>4.1} of {:.1} s  {rate:>5}/s  p99 {p99:>8}  {} requests, {} failed",
            self.phase.borrow(),
            at.as_secs_f64(),
            of.as_secs_f64(),
            self.done.get(),
            self.failed.get(),
        );
        let in_force = self.in_force.borrow();
        if !in_force.is_empty() {
            words += &format!("  [{}]", in_force.join(", "));
        }
        self.bar.set_message(words);
    }

    fn fault(&self, name: &str, in_force: bool) {
        let mut faults = self.in_force.borrow_mut();
        faults.retain(|fault| fault != name);
        if in_force {
            faults.push(name.to_owned());
        }
        if !self.terminal {
            self.say(&format!("{name} {}", if in_force { "is in force" } else { "is over" }));
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.end();
    }
}

/// The requests that ended in the last second: end and latency, microseconds.
#[derive(Default)]
struct Recent(VecDeque<(i64, u64)>);

impl Recent {
    fn add(&mut self, record: &Record) {
        // Never sent, so it has neither an end nor a latency.
        if record.outcome != Outcome::Dropped {
            self.0.push_back((record.due_us.saturating_add_unsigned(record.latency_us), record.latency_us));
        }
    }

    /// Their number, and their latency at the 99th percentile.
    fn look(&mut self, now_us: i64) -> (usize, Option<u64>) {
        self.0.retain(|(end, _)| *end > now_us - RECENT_US);
        let mut latencies: Vec<u64> = self.0.iter().map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        (latencies.len(), latencies.get((latencies.len() * 99).div_ceil(100).saturating_sub(1)).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_second_counts() {
        let mut recent = Recent::default();
        for k in 0..200 {
            let outcome = if k == 199 { Outcome::Dropped } else { Outcome::Ok };
            recent.add(&Record { due_us: k * 10_000, latency_us: k as u64, late_us: 0, outcome });
        }
        // Those that ended after 1 s: 100 to 198, all later than they were due by as many
        // microseconds.
        assert_eq!(recent.look(2_000_000), (99, Some(198)));
        assert_eq!(recent.look(9_000_000), (0, None));
    }
}
