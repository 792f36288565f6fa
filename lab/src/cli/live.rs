//! How a run is getting on, in one line that is rewritten on a terminal and in one line a phase elsewhere.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::load::{Outcome, Record};
use crate::run::Progress;

/// The line.
pub(super) struct Line {
    bar: ProgressBar,
    terminal: bool,
    phase: RefCell<String>,
    done: Cell<u64>,
    failed: Cell<u64>,
}

impl Line {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is right"));
        bar.enable_steady_tick(Duration::from_millis(120));
        let terminal = io::stderr().is_terminal();
        Line { bar, terminal, phase: RefCell::default(), done: Cell::new(0), failed: Cell::new(0) }
    }

    fn show(&self, clock: &str) {
        let (done, failed) = (self.done.get(), self.failed.get());
        self.bar.set_message(format!("{} {clock}  {done} requests, {failed} failed", self.phase.borrow()));
    }
}

impl Progress for Line {
    fn phase(&self, what: &str) {
        *self.phase.borrow_mut() = what.to_owned();
        match self.terminal {
            true => self.show(""),
            false => println!("{what}"),
        }
    }

    fn request(&self, _: usize, record: &Record) {
        self.done.set(self.done.get() + 1);
        if record.outcome != Outcome::Ok {
            self.failed.set(self.failed.get() + 1);
        }
    }

    fn tick(&self, at: Duration, of: Duration) {
        self.show(&format!("{:.1} of {:.1} s", at.as_secs_f64(), of.as_secs_f64()));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
