//! The kind of sidecar, and the configuration that it is given.
//!
//! One module for each kind. A kind that has no process (`none`) has no module either.

pub mod ours;
