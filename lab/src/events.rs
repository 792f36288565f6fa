//! The log of a run: everything that happened, in order, for people and for the verdict.
//!
//! Its clock is that of the results: microseconds from the start of the measured part. When that
//! is, is known only once the mesh is up, so a log that is being written counts from its own
//! beginning until then; [`EventLog::finish`] sets all of it right. The time of day of each event
//! is right from the first.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use serde::Serialize;
use tokio::time::Instant;

use crate::readable;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Microseconds from the start of the measured part; of a run that never got so far, from the
    /// beginning of the log.
    pub at_us: i64,
    /// The time of day.
    pub time: String,
    /// What kind of thing: `up`, `ready`, `fault`, `revert`, `exit`, ...
    pub kind: &'static str,
    /// To what: an instance, a process, a timeline entry.
    pub subject: String,
    /// What exactly.
    pub detail: String,
}

/// The time of day at an instant, also if somebody sets the machine's clock meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    began: SystemTime,
}

impl Clock {
    /// It is `began` now.
    pub fn new(began: SystemTime) -> Self {
        Clock { start: Instant::now(), began }
    }

    /// The time of day then.
    pub fn at(&self, at: Instant) -> SystemTime {
        match at.checked_duration_since(self.start) {
            Some(after) => self.began + after,
            None => self.began - self.start.duration_since(at),
        }
    }

    /// The time of day now, as text.
    pub fn now(&self) -> String {
        readable::utc(self.at(Instant::now()))
    }
}

/// A log that both keeps its events and, if asked, writes each to a file as one line of JSON at
/// once, so that a crash loses nothing.
#[derive(Clone)]
pub struct EventLog {
    inner: Rc<Inner>,
}

struct Inner {
    clock: Clock,
    /// Where the measured part begins, microseconds after the log.
    zero_us: Cell<i64>,
    /// `at_us` counts from the beginning of the log.
    events: RefCell<Vec<Event>>,
    file: RefCell<Option<(File, PathBuf)>>,
    /// Why the first event that is not in the file is not there.
    missing: RefCell<Option<io::Error>>,
}

impl EventLog {
    /// An empty log that begins now, at this time of day.
    pub fn new(began: SystemTime) -> Self {
        EventLog::over(None, began)
    }

    /// The same, written to a file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn to(path: &Path, began: SystemTime) -> io::Result<Self> {
        Ok(EventLog::over(Some((File::create(path)?, path.to_owned())), began))
    }

    fn over(file: Option<(File, PathBuf)>, began: SystemTime) -> Self {
        let inner = Inner {
            clock: Clock::new(began),
            zero_us: Cell::new(0),
            events: RefCell::default(),
            file: RefCell::new(file),
            missing: RefCell::default(),
        };
        EventLog { inner: Rc::new(inner) }
    }

    /// Notes that something happened now.
    pub fn note(&self, kind: &'static str, subject: impl Into<String>, detail: impl Into<String>) {
        let now = Instant::now();
        let at_us = now.duration_since(self.inner.clock.start).as_micros() as i64;
        let time = readable::utc(self.inner.clock.at(now));
        let event = Event { at_us, time, kind, subject: subject.into(), detail: detail.into() };
        if let Some((file, _)) = &mut *self.inner.file.borrow_mut() {
            // A full disk must not end a run: the events stay in memory, and `finish` returns the
            // error.
            if let Err(error) = file.write_all(self.inner.line(&event).as_bytes()) {
                self.inner.missing.borrow_mut().get_or_insert(error);
            }
        }
        self.inner.events.borrow_mut().push(event);
    }

    /// Says when the measured part begins.
    pub fn zero(&self, t0: Instant) {
        let after = t0.saturating_duration_since(self.inner.clock.start);
        self.inner.zero_us.set(after.as_micros() as i64);
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Event> {
        self.inner.events.borrow().iter().map(|event| self.inner.shifted(event)).collect()
    }

    /// Writes the file anew by the one clock, whole or not at all.
    ///
    /// # Errors
    /// Why it, or one event before, could not be written.
    pub fn finish(&self) -> io::Result<()> {
        if let Some(error) = self.inner.missing.take() {
            return Err(error);
        }
        let Some((_, path)) = &*self.inner.file.borrow() else { return Ok(()) };
        let text: String = self.inner.events.borrow().iter().map(|event| self.inner.line(event)).collect();
        let unfinished = path.with_extension("part");
        std::fs::write(&unfinished, text)?;
        std::fs::rename(unfinished, path)
    }

    /// The log's clock.
    pub fn clock(&self) -> Clock {
        self.inner.clock
    }
}

impl Inner {
    fn shifted(&self, event: &Event) -> Event {
        Event { at_us: event.at_us - self.zero_us.get(), ..event.clone() }
    }

    fn line(&self, event: &Event) -> String {
        serde_json::to_string(&self.shifted(event)).expect("an event is plain data") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_count_from_the_measured_part_and_know_the_time_of_day() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let events = EventLog::to(&path, SystemTime::UNIX_EPOCH).expect("a log");
        events.note("up", "", "");
        events.zero(Instant::now() + Duration::from_secs(2));
        tokio::time::sleep(Duration::from_secs(3)).await;
        events.note("fault", "kill-1", "");
        events.finish().expect("written");
        let text = std::fs::read_to_string(&path).expect("the file");
        let at = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        let lines: Vec<_> = text.lines().map(at).collect();
        assert_eq!(lines[0]["at_us"], -2_000_000);
        assert_eq!(
            (&lines[1]["at_us"], &lines[1]["time"]),
            (&1_000_000.into(), &"1970-01-01T00:00:03.000000Z".into())
        );
        assert_eq!(events.events()[1].at_us, 1_000_000);
    }
}
