//! A service-mesh sidecar.

#![warn(missing_docs)]

pub mod config;
pub mod world;
