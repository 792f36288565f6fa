//! Open-loop load: requests leave on time whether or not earlier ones were answered, and latency
//! counts from the intended start, so that a stall is seen by every request that it held up (Tene's
//! "coordinated omission").
//!
//! [`generate()`] keeps the schedule and is generic over the network, so both worlds run the same
//! generator; `http` and `tcp` make one request each; [`pace`] waits for the next due time;
//! [`process`] is the generator as a process of its own inside a network namespace.

pub mod generate;
mod grpc;
mod http;
mod id;
#[cfg(test)]
mod memory;
pub mod pace;
pub mod process;
mod record;
mod tcp;

pub use generate::{MAX_IN_FLIGHT, generate};
pub use record::{Outcome, Record};
