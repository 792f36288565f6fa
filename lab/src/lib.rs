//! A testbed that puts a service mesh on one Linux machine, breaks it on purpose, and says exactly
//! what it cost.
//!
//! # As a library
//!
//! A scenario is read from a file by [`scenario::parse`], or built. [`simulate`] runs it for one
//! seed in the simulator, [`run_on_kernel`] on real network namespaces.
//!
//! ```
//! # use std::time::Duration;
//! # use lab::scenario::{Scenario, builder::*};
//! let scenario = Scenario::builder("a replica dies")
//!     .duration(Duration::from_secs(3))
//!     .service(ServiceSpec::new("web"))
//!     .service(ServiceSpec::new("orders").replicas(3).http(8080, HttpSpec::default()))
//!     .load(LoadSpec::new("calls", "web", "http://orders:8080/", 100))
//!     .fault(FaultSpec::kill("orders-0").at(Duration::from_secs(1)))
//!     .expect(ExpectSpec::that(&["calls.errors == 0"]))
//!     .build()?;
//! let history = lab::simulate(&scenario, 1)?;
//! assert!(history.passed(), "{:?}", history.reasons());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! These are what it is made for: [`scenario`] with its builder, [`simulate`] and
//! [`run_on_kernel`], the [`History`] and the [`Report`] that they give, and [`report`], which
//! writes a report and reads it again. Below them, tests use the parts one by one: [`plan`],
//! [`sim`], [`kernel`], [`fabric`], [`swarm`], [`search`] and the vocabulary of their plain data.
//! Everything else is private.
//!
//! # Inside
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
pub mod authority;
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
pub(crate) mod readable;
pub mod report;
pub mod run;
pub mod scenario;
pub mod search;
pub(crate) mod sidecar;
pub mod sim;
pub mod statistic;
pub mod swarm;
pub mod syntax;
pub mod traffic;
pub mod verdict;
pub mod world;

use std::rc::Rc;

use history::{History, Keep};
use kernel::KernelWorld;
use run::{Report, Silent};
use scenario::Scenario;
use sim::SimFailure;
use world::Error;

/// Runs a scenario for one seed in the simulator, with the first kind of sidecar that it asks for.
///
/// # Errors
/// If the simulator cannot run the scenario, or the run did not come to its end.
pub fn simulate(scenario: &Scenario, seed: u64) -> Result<History, SimFailure> {
    history::history(scenario, scenario.sidecars()[0], seed, Keep::default())
}

/// Runs a scenario on the kernel, with the first kind of sidecar that it asks for. That takes as
/// long as the scenario says, needs root, and must not be called from asynchronous code.
///
/// # Errors
/// If the machine lacks something, or the mesh does not come up.
pub fn run_on_kernel(scenario: &Scenario, options: kernel::Options) -> Result<Report, Error> {
    let (plan, events) = (scenario.plan(scenario.sidecars()[0]), options.events.clone());
    kernel::runtime()?.block_on(async {
        let world = KernelWorld::new(plan.clone(), options)?;
        run::run(&plan, &world, &events, Rc::new(Silent), std::future::pending()).await
    })
}
