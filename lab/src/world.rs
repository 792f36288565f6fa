//! What load, faults, verdict and report know of the world they act on: the kernel and the
//! simulator alike.
//!
//! Methods take `&self`: faults, their reverts, load and sampling run side by side, and a revert
//! must never queue behind another fault. All of it happens on one thread, so nothing asks for
//! `Send`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::fault::Entry;
use crate::load::{Load, LoadTimes, RecordSink};
use crate::metrics::Scrape;

/// A place where a plan can be brought to life.
#[allow(async_fn_in_trait, reason = "every caller is generic and runs on one thread")]
pub trait World {
    /// Which world this is.
    fn kind(&self) -> WorldKind;

    /// Brings the plan up and returns when every process is ready and interception is proven to
    /// work.
    async fn up(&self) -> Result<(), Error>;

    /// Puts a fault in force. Returns when it bites.
    async fn apply(&self, entry: &Entry) -> Result<(), Error>;

    /// Takes a fault back. Returns when it no longer bites and, for a kill, when the processes are
    /// ready again.
    async fn revert(&self, entry: &Entry) -> Result<(), Error>;

    /// What proves that the fault really bit, as named counters (`killed`, `dropped_packets`, ...).
    async fn evidence(&self, entry: &Entry) -> BTreeMap<String, f64>;

    /// Runs a load generator from now until the end of `times`, hands every finished request to
    /// `sink`, and returns when the last one has ended.
    async fn load(&self, load: &Load, times: LoadTimes, sink: RecordSink) -> Result<(), Error>;

    /// The metrics of every process, whether it runs or not, and of the world itself (packet
    /// counters, process starts).
    async fn metrics(&self) -> Vec<Scrape>;

    /// The same with nothing left out that is too costly to read often.
    async fn final_metrics(&self) -> Vec<Scrape> {
        self.metrics().await
    }

    /// The plan's processes that ended so far although nothing asked them to, in the order of their
    /// ends.
    async fn ended(&self) -> Vec<ProcessExit>;

    /// How far the world itself can be trusted.
    async fn fidelity(&self) -> Fidelity;

    /// Takes everything down and says what was left behind.
    async fn down(&self) -> Result<(), Error>;
}

/// Which world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorldKind {
    /// Real processes and packets, real time.
    Kernel,
    /// The simulator, virtual time.
    Simulator,
}

/// A process that ended although nothing asked it to.
#[derive(Debug, Clone)]
pub struct ProcessExit {
    /// `orders-1/app`
    pub process: String,
    /// When, if the world knows.
    pub at: Option<Instant>,
    /// How: `exit status: 7`.
    pub how: String,
    /// What it said last, oldest first.
    pub log_tail: Vec<String>,
}

/// How far the world itself can be trusted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Fidelity {
    /// `bridge`, `netem`, `wire`, or `simulated`.
    pub link_backend: String,
    /// Packets that the wire carried.
    pub packets: u64,
    /// How late the wire released packets, microseconds: median.
    pub lateness_p50_us: f64,
    /// How late the wire released packets, microseconds: 99th percentile.
    pub lateness_p99_us: f64,
    /// How late the wire released packets, microseconds: worst.
    pub lateness_max_us: f64,
    /// Packets lost outside the model (full queues of the kernel).
    pub overflow: u64,
    /// Anything else that the reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// Why the world could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something; says what and how to get it.
    #[error("{0}")]
    Machine(String),
    /// Something of the plan failed to start or to answer; says what, with the tail of its log.
    #[error("{0}")]
    Failed(String),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}
