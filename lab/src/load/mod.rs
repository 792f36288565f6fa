//! Open-loop load: requests leave on time whether or not earlier ones were answered, and latency
//! counts from the intended start, so that a stall is seen by every request that it held up (Tene's
//! "coordinated omission").
//!
//! [`generate()`] keeps the schedule and is generic over the network, so both worlds run the same
//! generator; `http` and `tcp` make one request each; [`pace`] waits for the next due time;
//! [`process`] is the generator as a process of its own inside a network namespace.

use serde::{Deserialize, Serialize};

pub mod generate;
mod grpc;
mod http;
#[cfg(test)]
mod memory;
pub mod pace;
pub mod process;
mod record;
mod tcp;

pub use generate::{MAX_IN_FLIGHT, generate};

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
