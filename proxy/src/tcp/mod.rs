//! Opaque bytes, both ways.

mod copy;

pub use copy::{Moved, both_ways};
