//! The load generator: a closed loop of `n` requests in flight, on one thread.
//!
//! Each of the `n` clients sends its next request when the last one is answered. A closed loop
//! hides queues that build up (coordinated omission), so its latencies are for comparing paths at
//! the same concurrency; the lab has an open loop. It reads the CPU clocks of the processes it is
//! told to watch itself, at the first and at the last moment of what it measures, so that requests
//! and CPU time belong to the same window.

mod clients;
pub mod sliced;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use proxy::world::{KernelNet, Net};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::options::Protocol;
use crate::usage;

pub use clients::STREAMS;
use clients::{Load, Pace};

/// How long requests that are under way at the end may take to come back.
const GRACE: Duration = Duration::from_secs(5);
/// Clients that connect at a time when idle connections are opened: fewer than any queue on the way
/// holds.
const OPENERS: usize = 32;

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Where the app is.
    pub to: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Requests in flight.
    pub concurrency: u16,
    /// Seconds before anything is recorded.
    pub warm_up: f64,
    /// Seconds that are recorded.
    pub seconds: f64,
    /// Processes whose CPU time is read, by label.
    pub watch: BTreeMap<String, i32>,
    /// Instead of all that: this many connections, one request on each, then silence until it is
    /// killed. HTTP/1 and opaque bytes only.
    pub idle: u32,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LoadOutcome {
    /// Requests answered in the window; for bulk transfers, reads.
    pub requests: u64,
    /// Bytes of bodies received in the window.
    pub bytes: u64,
    /// Requests and connections that failed, at any time.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
    /// Length of the window.
    pub seconds: f64,
    /// Median of latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile of latency, microseconds.
    pub p99_us: f64,
    /// CPU time in the window, nanoseconds, by label; the load generator itself is `load`.
    pub cpu_ns: BTreeMap<String, u64>,
}

/// What all clients write to.
struct Recorder {
    begun: Cell<Option<Instant>>,
    over: Cell<bool>,
    latency: RefCell<Histogram<u64>>,
    outcome: RefCell<LoadOutcome>,
}

impl Pace for Recorder {
    async fn due(&self) -> Option<Instant> {
        (!self.over.get()).then(Instant::now)
    }

    fn answered(&self, sent: Instant, bytes: usize) {
        let Some(begun) = self.begun.get().filter(|_| !self.over.get()) else { return };
        let mut outcome = self.outcome.borrow_mut();
        outcome.requests += 1;
        outcome.bytes += bytes as u64;
        // A request of the warm-up that ends in the window counts for the rate, and its latency for
        // nothing.
        if sent >= begun {
            self.latency.borrow_mut().saturating_record(sent.elapsed().as_nanos() as u64);
        }
    }

    fn failed(&self, error: impl ToString) {
        let mut outcome = self.outcome.borrow_mut();
        outcome.errors += 1;
        outcome.first_error.get_or_insert_with(|| error.to_string());
    }
}

/// Runs a job and gives its outcome; an idle one never ends, and calls `held` when its connections
/// are open.
///
/// # Errors
/// If the processes to watch cannot be read. Failed requests are part of the outcome.
pub async fn run(net: KernelNet, job: Job, held: impl FnOnce(&LoadOutcome)) -> io::Result<LoadOutcome> {
    let recorder = Rc::new(Recorder {
        begun: Cell::new(None),
        over: Cell::new(false),
        // From 1 us (values are nanoseconds) to a minute, with three digits.
        latency: RefCell::new(
            Histogram::new_with_bounds(1_000, 60_000_000_000, 3).map_err(io::Error::other)?,
        ),
        outcome: RefCell::default(),
    });
    if job.idle > 0 {
        let _open = open_idle(&net, &job, &recorder).await;
        held(&recorder.outcome.borrow());
        return std::future::pending().await;
    }
    let mut clients = JoinSet::new();
    let load = Load { to: job.to, protocol: job.protocol, concurrency: job.concurrency, fresh: false };
    clients::start(&mut clients, &net, load, &recorder);

    let start = Instant::now();
    sleep_until(start + Duration::from_secs_f64(job.warm_up)).await;
    let before = cpu(&job.watch)?;
    let begun = Instant::now();
    recorder.begun.set(Some(begun));
    sleep_until(begun + Duration::from_secs_f64(job.seconds)).await;
    recorder.over.set(true);
    let window = begun.elapsed();
    let after = cpu(&job.watch)?;

    let deadline = Instant::now() + GRACE;
    while let Ok(Some(ended)) = timeout_at(deadline, clients.join_next()).await {
        if let Err(panic) = ended {
            recorder.failed(panic);
        }
    }
    for _ in 0..clients.len() {
        recorder.failed(format!("no answer for {} s", GRACE.as_secs()));
    }
    clients.abort_all();
    let mut outcome = recorder.outcome.take();
    let latency = recorder.latency.borrow();
    outcome.seconds = window.as_secs_f64();
    outcome.p50_us = latency.value_at_quantile(0.50) as f64 / 1e3;
    outcome.p99_us = latency.value_at_quantile(0.99) as f64 / 1e3;
    outcome.cpu_ns =
        after.into_iter().map(|(label, ns)| (label.clone(), ns.saturating_sub(before[&label]))).collect();
    Ok(outcome)
}

fn cpu(watch: &BTreeMap<String, i32>) -> io::Result<BTreeMap<String, u64>> {
    let own = ("load".to_owned(), std::process::id() as i32);
    watch.clone().into_iter().chain([own]).map(|(label, pid)| Ok((label, usage::cpu_ns(pid)?))).collect()
}

/// Opens the connections of an idle job and asks one request on each.
async fn open_idle(net: &KernelNet, job: &Job, recorder: &Rc<Recorder>) -> Vec<tokio::net::TcpStream> {
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..job.idle {
        if opening.len() == OPENERS {
            open.extend(opening.join_next().await.and_then(Result::ok).flatten());
        }
        let (net, to, protocol, recorder) = (net.clone(), job.to, job.protocol, recorder.clone());
        opening.spawn_local(async move {
            let asked = async {
                let mut io = net.connect(to, None).await?;
                match protocol.is_opaque() {
                    true => clients::ask_byte(&mut io).await?,
                    false => clients::ask_http1(&mut io, &mut Vec::new()).await?,
                }
                Ok::<_, io::Error>(io)
            };
            asked.await.inspect_err(|error| recorder.failed(error)).ok()
        });
    }
    while let Some(opened) = opening.join_next().await {
        open.extend(opened.ok().flatten());
    }
    recorder.outcome.borrow_mut().requests = open.len() as u64;
    open
}
