//! Records of requests; and as lines of text, for the pipe from a load generator's process: `due
//! latency late outcome`, times in microseconds, the outcome a word or an HTTP status.

use std::fmt::{self, Display};
use std::io;
use std::rc::Rc;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One request that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Intended start, microseconds from the start of the measured part; negative during the
    /// warm-up.
    pub due_us: i64,
    /// From the intended start to the last byte, microseconds.
    pub latency_us: u64,
    /// How late the generator itself was in sending it, microseconds.
    pub late_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// What gets every record, in the order in which requests end.
pub type RecordSink = Rc<dyn Fn(Record)>;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered as it should be.
    Ok,
    /// An HTTP status of 400 or more.
    Status(u16),
    /// The connection could not be opened.
    Connect,
    /// The connection broke before the answer was complete.
    Reset,
    /// No answer in time.
    Timeout,
    /// An answer that is not what was asked for.
    Mismatch,
    /// Never sent: too many requests were already under way.
    Dropped,
}

impl Outcome {
    /// How a request ended whose connection could not be made. A reset comes from somebody who has
    /// accepted, and is told here only if it was as fast as the answer to that.
    pub(super) fn of_connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset => Outcome::Reset,
            _ => Outcome::Connect,
        }
    }
}

impl Record {
    /// One line, without its end.
    pub fn to_line(&self) -> String {
        self.to_string()
    }

    /// What [`Record::to_line`] wrote; `None` for anything else.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let record = Record {
            due_us: words.next()?.parse().ok()?,
            latency_us: words.next()?.parse().ok()?,
            late_us: words.next()?.parse().ok()?,
            outcome: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(record)
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.due_us, self.latency_us, self.late_us, self.outcome)
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Status(code) => return write!(f, "{code}"),
            Outcome::Ok => "ok",
            Outcome::Connect => "connect",
            Outcome::Reset => "reset",
            Outcome::Timeout => "timeout",
            Outcome::Mismatch => "mismatch",
            Outcome::Dropped => "dropped",
        })
    }
}

/// Not the name of an [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an outcome")]
pub struct NotAnOutcome;

impl FromStr for Outcome {
    type Err = NotAnOutcome;

    fn from_str(word: &str) -> Result<Self, NotAnOutcome> {
        Ok(match word {
            "ok" => Outcome::Ok,
            "connect" => Outcome::Connect,
            "reset" => Outcome::Reset,
            "timeout" => Outcome::Timeout,
            "mismatch" => Outcome::Mismatch,
            "dropped" => Outcome::Dropped,
            code => Outcome::Status(code.parse().map_err(|_| NotAnOutcome)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Ok),
            any::<u16>().prop_map(Outcome::Status),
            Just(Outcome::Connect),
            Just(Outcome::Reset),
            Just(Outcome::Timeout),
            Just(Outcome::Mismatch),
            Just(Outcome::Dropped),
        ]
    }

    proptest! {
        #[test]
        fn a_record_comes_back_from_its_line(
            due_us: i64, latency_us: u64, late_us: u64, outcome in outcome()
        ) {
            let record = Record { due_us, latency_us, late_us, outcome };
            prop_assert_eq!(Record::from_line(&record.to_line()), Some(record));
        }
    }

    #[test]
    fn only_a_reset_says_that_somebody_had_accepted() {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut};
        assert_eq!(Outcome::of_connect(ConnectionReset.into()), Outcome::Reset);
        for kind in [ConnectionRefused, HostUnreachable, TimedOut] {
            assert_eq!(Outcome::of_connect(kind.into()), Outcome::Connect, "{kind}");
        }
    }

    #[test]
    fn a_line_that_is_cut_or_garbled_is_no_record() {
        assert!(Record::from_line("-12 345 6 503").is_some());
        for line in ["", "12", "12 345 6", "12 345 6 okay", "12 345 -6 ok", "12 345 6 ok more"] {
            assert_eq!(Record::from_line(line), None, "{line}");
        }
    }
}
