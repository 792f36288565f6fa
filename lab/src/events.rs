//! The log of a run: everything that happened, in order, for people and for the verdict.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use serde::Serialize;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Microseconds since the log began.
    pub at_us: u64,
    /// What kind of thing: `up`, `ready`, `fault`, `revert`, `exit`, ...
    pub kind: &'static str,
    /// To what: an instance, a process, a timeline entry.
    pub subject: String,
    /// What exactly.
    pub detail: String,
}

/// A log that both keeps its events and, if asked, writes each to a file as one line of JSON at once, so that a crash
/// loses nothing.
#[derive(Clone)]
pub struct EventLog {
    inner: Rc<Inner>,
}

struct Inner {
    start: tokio::time::Instant,
    events: RefCell<Vec<Event>>,
    file: RefCell<Option<std::fs::File>>,
    /// Why the first event that is not in the file is not there.
    missing: RefCell<Option<io::Error>>,
}

impl EventLog {
    /// An empty log whose clock starts now.
    pub fn new(file: Option<std::fs::File>) -> Self {
        let start = tokio::time::Instant::now();
        EventLog {
            inner: Rc::new(Inner {
                start,
                events: RefCell::default(),
                file: RefCell::new(file),
                missing: RefCell::default(),
            }),
        }
    }

    /// Notes that something happened now.
    pub fn note(&self, kind: &'static str, subject: impl Into<String>, detail: impl Into<String>) {
        let at_us = self.inner.start.elapsed().as_micros() as u64;
        let event = Event { at_us, kind, subject: subject.into(), detail: detail.into() };
        if let Some(file) = &mut *self.inner.file.borrow_mut() {
            let line = serde_json::to_string(&event).expect("an event is plain data") + "\n";
            // A full disk must not end a run: the events stay in memory, and who asks learns of it.
            if let Err(error) = file.write_all(line.as_bytes()) {
                self.inner.missing.borrow_mut().get_or_insert(error);
            }
        }
        self.inner.events.borrow_mut().push(event);
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Event> {
        self.inner.events.borrow().clone()
    }

    /// Whether every event so far is in the file.
    ///
    /// # Errors
    /// Why the first that is not could not be written. Told once.
    pub fn written(&self) -> io::Result<()> {
        self.inner.missing.take().map_or(Ok(()), Err)
    }

    /// When the log's clock began.
    pub fn start(&self) -> tokio::time::Instant {
        self.inner.start
    }
}
