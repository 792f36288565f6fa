//! A service-mesh sidecar.

#![warn(missing_docs)]

pub mod capture;
pub mod cli;
pub mod config;
pub mod world;
