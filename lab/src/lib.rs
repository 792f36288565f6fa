//! A testbed that puts a service mesh on one Linux machine, breaks it on purpose, and says exactly
//! what it cost.
//!
//! Read it in the order that a scenario travels: [`scenario`] is what the file says, [`plan`] is
//! what follows from it (plain data that every other part builds on, so it imports none of them), a
//! [`world::World`] (the real [`kernel`] or the [`sim`]ulator) brings the plan to life, [`run`]
//! drives load and faults against it, [`verdict`] judges, [`report`] tells. [`history`] is all of
//! that for one seed in the simulator.

#![warn(missing_docs)]
#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic where nothing can be written: `proxy::output`"
)]

#[macro_use(errln, out, outln)]
extern crate proxy;

pub mod app;
pub mod cli;
pub mod events;
pub mod fabric;
pub mod fault;
pub mod glob;
pub mod history;
pub mod kernel;
pub mod load;
pub mod mesh;
pub mod metrics;
pub mod plan;
pub mod readable;
pub mod report;
pub mod run;
pub mod scenario;
pub mod search;
pub mod sidecar;
pub mod sim;
pub mod statistic;
pub mod swarm;
pub mod syntax;
pub mod traffic;
pub mod verdict;
pub mod world;
