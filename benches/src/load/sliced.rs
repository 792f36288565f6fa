//! Load in slices: short stretches at given moments, with silence between them.
//!
//! Two lanes that are measured against each other get slices that alternate, a few hundredths of a
//! second each. Whatever changes more slowly on the machine hits both alike. The moments are given
//! beforehand as values of CLOCK_MONOTONIC, which all processes of a machine share, so nobody has
//! to tell anybody to begin.
//!
//! A slice ends when every request that was begun in it has been answered. Only then are the CPU
//! clocks read, so that a slice has all the work of its requests, and none of others.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use proxy::world::KernelNet;
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::clients::{self, Load, Pace};
use super::cpu;
use crate::options::Protocol;

/// How long the requests of a slice may take to come back after its end.
const GRACE: Duration = Duration::from_secs(20);

/// What to do. By default nothing, on one connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Where the app is.
    pub to: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Requests in flight, at most.
    pub concurrency: u16,
    /// Whether each request gets a connection of its own. HTTP/1 only.
    pub fresh: bool,
    /// Requests are due at this rate, per second. 0: whenever the last one was answered.
    pub rate: f64,
    /// When each slice begins and ends, nanoseconds of CLOCK_MONOTONIC, in order.
    pub slices: Vec<(u64, u64)>,
    /// Slices that are not reported.
    pub warm_up: usize,
    /// Processes whose CPU time is read, by label.
    pub watch: BTreeMap<String, i32>,
}

impl Default for Job {
    fn default() -> Self {
        Job {
            to: SocketAddr::from(([0, 0, 0, 0], 0)),
            protocol: Protocol::Http1,
            concurrency: 1,
            fresh: false,
            rate: 0.0,
            slices: Vec::new(),
            warm_up: 0,
            watch: BTreeMap::new(),
        }
    }
}

/// What came of one slice.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Slice {
    /// Requests answered; for bulk transfers, reads.
    pub requests: u64,
    /// Bytes of bodies received.
    pub bytes: u64,
    /// From its first request to its last answer.
    pub seconds: f64,
    /// How late it began.
    pub late_us: f64,
    /// CPU time, nanoseconds, by label; the load generator itself is `load`.
    pub cpu_ns: BTreeMap<String, u64>,
    /// Latency of each request, nanoseconds, from when it was due.
    pub latencies_ns: Vec<u64>,
}

/// What came of a job.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sliced {
    /// Each slice behind the warm-up.
    pub slices: Vec<Slice>,
    /// The first failure of any request: then nothing above means anything.
    pub first_error: Option<String>,
}

/// What all clients share.
struct Gate {
    /// Whether the next request is due at once: within a slice of a closed loop.
    open: Cell<bool>,
    /// Requests of an open loop that nobody has begun, by when they were due.
    queue: RefCell<VecDeque<Instant>>,
    /// Clients hear of it when there is something to do.
    begins: Notify,
    under_way: Cell<usize>,
    /// Heard when nothing is under way.
    idle: Notify,
    slice: RefCell<Slice>,
    keeps_latencies: bool,
    first_error: RefCell<Option<String>>,
}

impl Pace for Gate {
    async fn due(&self) -> Option<Instant> {
        loop {
            let begins = self.begins.notified();
            let queued = self.queue.borrow_mut().pop_front();
            if let Some(due) = queued.or_else(|| self.open.get().then(Instant::now)) {
                self.under_way.set(self.under_way.get() + 1);
                return Some(due);
            }
            begins.await;
        }
    }

    fn answered(&self, due: Instant, bytes: usize) {
        let mut slice = self.slice.borrow_mut();
        slice.requests += 1;
        slice.bytes += bytes as u64;
        if self.keeps_latencies {
            slice.latencies_ns.push(due.elapsed().as_nanos() as u64);
        }
        self.under_way.set(self.under_way.get() - 1);
        if self.is_idle() {
            self.idle.notify_one();
        }
    }

    fn failed(&self, error: impl ToString) {
        self.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
        self.idle.notify_one();
    }
}

impl Gate {
    fn is_idle(&self) -> bool {
        self.under_way.get() == 0 && self.queue.borrow().is_empty()
    }

    /// Lets requests begin for `length`.
    async fn pass(&self, begun: Instant, length: Duration, rate: f64) -> io::Result<()> {
        if rate == 0.0 {
            self.open.set(true);
            self.begins.notify_waiters();
            sleep_until(begun + length).await;
            self.open.set(false);
            return Ok(());
        }
        // A timer of its own: the runtime's know only milliseconds.
        let (between, all) =
            (Duration::from_secs_f64(1.0 / rate), (length.as_secs_f64() * rate).round() as u32);
        let timer = TimerFd::new(TimerClock::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        timer.set(Expiration::Interval(TimeSpec::from_duration(between)), TimerSetTimeFlags::empty())?;
        // It is no pipe, but it is waited for and read like one.
        let timer = Receiver::from_owned_fd_unchecked(OwnedFd::from(timer))?;
        let mut arrived = 0;
        while arrived < all {
            timer.readable().await?;
            let mut times = [0; 8];
            match timer.try_read(&mut times) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                read => read?,
            };
            for _ in 0..u64::from_ne_bytes(times) {
                if arrived < all {
                    arrived += 1;
                    self.queue.borrow_mut().push_back(begun + between * arrived);
                    self.begins.notify_one();
                }
            }
        }
        Ok(())
    }

    /// Waits until all that was begun is answered.
    async fn settle(&self) {
        let settled = timeout(GRACE, async {
            while !self.is_idle() && self.first_error.borrow().is_none() {
                self.idle.notified().await;
            }
        });
        if settled.await.is_err() {
            self.failed(format!("no answer for {} s", GRACE.as_secs()));
        }
    }
}

/// Runs a job.
///
/// # Errors
/// If the processes to watch cannot be read. A failed request is part of the outcome.
pub async fn run(net: KernelNet, job: Job) -> io::Result<Sliced> {
    let gate = Rc::new(Gate {
        open: Cell::new(false),
        queue: RefCell::default(),
        begins: Notify::new(),
        under_way: Cell::new(0),
        idle: Notify::new(),
        slice: RefCell::default(),
        keeps_latencies: job.protocol != Protocol::TcpBulk,
        first_error: RefCell::default(),
    });
    let mut clients = JoinSet::new();
    let Job { to, protocol, concurrency, fresh, .. } = job;
    clients::start(&mut clients, &net, Load { to, protocol, concurrency, fresh }, &gate);
    let mut done = Sliced::default();
    // The two clocks are the same one, but the runtime's cannot be made from a number.
    let (origin, zero) = (Instant::now(), monotonic_ns()?);
    let at = |ns: u64| origin + Duration::from_nanos(ns.saturating_sub(zero));
    for (nth, &(begin, end)) in job.slices.iter().enumerate() {
        sleep_until(at(begin)).await;
        gate.slice.take();
        let before = cpu(&job.watch)?;
        let begun = Instant::now();
        let late = begun.saturating_duration_since(at(begin));
        gate.pass(begun, Duration::from_nanos(end - begin), job.rate).await?;
        gate.settle().await;
        let seconds = begun.elapsed().as_secs_f64();
        let after = cpu(&job.watch)?;
        if gate.first_error.borrow().is_some() {
            break;
        }
        if nth >= job.warm_up {
            let cpu_ns = after.into_iter().map(|(label, ns)| {
                let spent = ns.saturating_sub(before[&label]);
                (label, spent)
            });
            let late_us = late.as_secs_f64() * 1e6;
            done.slices.push(Slice { seconds, late_us, cpu_ns: cpu_ns.collect(), ..gate.slice.take() });
        }
    }
    done.first_error = gate.first_error.take();
    // Connections stay open until the process is killed: closing them is work for sidecars that
    // somebody may still be counting.
    clients.detach_all();
    Ok(done)
}

/// CLOCK_MONOTONIC now, nanoseconds.
///
/// # Errors
/// If there is no such clock.
pub fn monotonic_ns() -> io::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(now.as_nanos() as u64)
}
