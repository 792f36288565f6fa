//! What a scenario file says, and every way in which it can be wrong.
//!
//! [`model`] mirrors the file key for key, `parse` turns text into it with the place of every word kept, and
//! `validate` collects all mistakes at once, each pointing at its words and suggesting the fix.

pub mod model;
pub mod units;
