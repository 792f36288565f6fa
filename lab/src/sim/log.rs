//! What the processes of a simulation say: every line of log of the sidecars, apps and load
//! generators, with its fields as they were and not as text.
//!
//! The log that operators read (`RUST_LOG=debug`) is also what the simulator's invariants are
//! judged by, so there is nothing that only tests can see. One subscriber serves the whole
//! operating-system process, because a subscriber for each simulation would lose lines while
//! another thread changes its own (tracing's cache of interest is global); where a line goes is
//! each thread's own affair. A line belongs to the simulated process whose task is being polled.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};
use std::rc::Rc;
use std::sync::OnceLock;

use proxy::telemetry::event::Fields;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use super::stack::now;

/// Those whose lines are kept.
const SPEAKERS: [&str; 2] = ["proxy", "lab"];

/// One line of log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// Virtual time, microseconds since the simulation began.
    pub at_us: u64,
    /// Who says it: `web/sidecar`.
    pub process: Rc<str>,
    /// How loud.
    pub level: Level,
    /// The message.
    pub text: String,
    fields: Vec<(&'static str, Value)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    Flag(bool),
    Text(String),
}

impl Fields for LogLine {
    fn number(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl LogLine {
    fn value(&self, field: &str) -> Option<&Value> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, value)| value)
    }
}

/// As the sidecar's own log writes it: the message, then the fields.
impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)?;
        for (name, value) in &self.fields {
            match value {
                Value::Number(number) => write!(f, " {name}={number}")?,
                Value::Flag(flag) => write!(f, " {name}={flag}")?,
                Value::Text(text) => write!(f, " {name}={text}")?,
            }
        }
        Ok(())
    }
}

thread_local! {
    /// Where lines go; `None`: nowhere.
    static LINES: RefCell<Option<Vec<LogLine>>> = const { RefCell::new(None) };
    static SPEAKING: RefCell<Option<Rc<str>>> = const { RefCell::new(None) };
}

/// Begins to keep what is said on this thread. False: in this program somebody else hears all that
/// is said, and nothing would come of it.
pub(super) fn listen() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let hears = *INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(Listener).is_ok());
    LINES.set(hears.then(Vec::new));
    hears
}

/// What was said on this thread since [`listen`].
pub(super) fn take() -> Vec<LogLine> {
    LINES.take().unwrap_or_default()
}

/// Adds what the lab itself has to say. Must be called inside the simulation.
pub(crate) fn note(text: String) {
    let at_us = now().unwrap_or_default() / 1000;
    let line = LogLine { at_us, process: "lab".into(), level: Level::INFO, text, fields: Vec::new() };
    LINES.with_borrow_mut(|lines| lines.iter_mut().for_each(|lines| lines.push(line.clone())));
}

/// While it lives, a process speaks.
pub(super) struct Speaking(Option<Rc<str>>);

impl Speaking {
    pub fn begin(process: &Rc<str>) -> Self {
        Speaking(SPEAKING.replace(Some(process.clone())))
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        SPEAKING.set(self.0.take());
    }
}

struct Listener;

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let root = metadata.target().split("::").next().unwrap_or_default();
        let heard = metadata.is_event() && SPEAKERS.contains(&root) && *metadata.level() <= Level::DEBUG;
        if heard { Interest::sometimes() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::DEBUG)
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        LINES.with_borrow(Option::is_some)
    }

    fn event(&self, event: &Event<'_>) {
        let Some(process) = SPEAKING.with_borrow(Clone::clone) else { return };
        let at_us = now().unwrap_or_default() / 1000;
        let (level, text) = (*event.metadata().level(), String::new());
        let mut line = LogLine { at_us, process, level, text, fields: Vec::new() };
        event.record(&mut line);
        LINES.with_borrow_mut(|lines| lines.get_or_insert_default().push(line));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Visit for LogLine {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), Value::Number(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.record_u64(field, value),
            Err(_) => self.record_debug(field, &value),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), Value::Flag(value)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.name(), Value::Text(value.to_owned())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{value:?}");
        } else {
            self.fields.push((field.name(), Value::Text(format!("{value:?}"))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;
    use crate::traffic::TrafficEvent;

    #[test]
    fn events_of_the_traffic_are_read_from_their_lines() {
        assert!(listen());
        let _speaking = Speaking::begin(&"orders-1/app".into());
        let emitted = TrafficEvent::emit_each();
        let read: Vec<_> = take().iter().filter_map(|line| TrafficEvent::read(&line.text, line)).collect();
        // What is logged with `{:?}` is read with its quotation marks.
        assert_eq!(
            read.iter().map(discriminant).collect::<Vec<_>>(),
            emitted.iter().map(discriminant).collect::<Vec<_>>()
        );
    }
}
