//! The schedule of an open-loop generator, and the record of every request on it.
//!
//! Request k is due at `t0 + k / rate`, for negative k too, so a window of the measured part holds
//! the same requests in every run, whenever the generator was started. Each request is a task of
//! its own: none waits for another. Its latency counts from the due time, and what the generator
//! itself adds to it (`late_us`) is told apart.
//!
//! A failure is counted when it happens, so it may be quicker than any answer: judge latency
//! together with success. Every due request yields exactly one record. Left out: ramps, closed
//! loops and Poisson arrival.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use proxy::world::{Net, World};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::id::Id;
use super::pace::{Pace, TokioPace};
use super::record::{Outcome, Record};
use super::{AnyCaller, Callee, LoadJob, LoadTimes, RecordSink};
use crate::traffic::emit;

/// Requests under way at once, at most; above it a request is [`Outcome::Dropped`]. It bounds
/// memory and descriptors when nothing answers: 5 000 requests a second that all time out after 2 s
/// just fit.
pub const MAX_IN_FLIGHT: usize = 10_000;

/// Sends the requests of a load that are due from now until its end, and returns when the last one
/// has ended.
///
/// # Errors
/// If the load itself makes no sense (a method or path that HTTP cannot carry, a rate that is not
/// positive). A target that does not answer is no error but what the records tell.
pub async fn generate<N: Net>(world: World<N>, job: LoadJob) -> io::Result<()> {
    generate_paced(world, job, TokioPace).await
}

/// [`generate`] with a timer of the caller's choice.
///
/// # Errors
/// As [`generate`].
pub async fn generate_paced<N: Net>(world: World<N>, job: LoadJob, mut pace: impl Pace) -> io::Result<()> {
    let LoadJob { load, address, times: LoadTimes { t0, end }, sink } = job;
    let schedule = SendSchedule::new(t0, load.rate)?;
    let now = Instant::now();
    let begin = load.part.map_or(now, |part| now.max(t0 + part.from));
    let end = load.part.map_or(end, |part| end.min(t0 + part.to));
    let (target, timeout) = (&load.target, load.timeout);
    let callee = Callee { address, host: &target.host, port: target.port, timeout };
    let run = Rc::new(Generator {
        caller: AnyCaller::new(&target.call, world.net.clone(), callee)?,
        name: load.name,
        timeout,
        in_flight: Cell::new(0),
        idle: Notify::new(),
        sink,
    });
    let mut k = schedule.first(begin);
    loop {
        let due = schedule.due(k);
        if due.at >= end {
            break;
        }
        pace.until(due.at).await;
        match InFlight::begin(&run) {
            Some(in_flight_guard) => world.net.spawn("load", one(in_flight_guard, k, due)),
            None => run.record(due, due.at, due.at, Outcome::Dropped),
        }
        k += 1;
    }
    while run.in_flight.get() > 0 {
        run.idle.notified().await;
    }
    Ok(())
}

/// One request from its due time to its record.
async fn one<N: Net>(in_flight_guard: InFlight<N>, k: i64, due: Due) {
    let run = &in_flight_guard.0;
    let sent = Instant::now();
    let id = Id { load: &run.name, k };
    emit!(RequestSent { id });
    let outcome = timeout_at(sent + run.timeout, run.caller.call(id)).await.unwrap_or(Outcome::Timeout);
    emit!(RequestEnded { id, outcome });
    run.record(due, sent, Instant::now(), outcome);
}

/// What the requests of one generator share.
struct Generator<N: Net> {
    caller: AnyCaller<N>,
    name: String,
    timeout: Duration,
    in_flight: Cell<usize>,
    /// Told when nothing is under way any more.
    idle: Notify,
    sink: RecordSink,
}

impl<N: Net> Generator<N> {
    fn record(&self, due: Due, sent: Instant, ended: Instant, outcome: Outcome) {
        let since = |at: Instant| at.saturating_duration_since(due.at).as_micros() as u64;
        (self.sink)(Record { due_us: due.us, latency_us: since(ended), late_us: since(sent), outcome });
    }
}

/// A place among the requests under way, given back on drop, also if the task is aborted.
struct InFlight<N: Net>(Rc<Generator<N>>);

impl<N: Net> InFlight<N> {
    fn begin(run: &Rc<Generator<N>>) -> Option<Self> {
        let now = run.in_flight.get();
        if now >= MAX_IN_FLIGHT {
            return None;
        }
        run.in_flight.set(now + 1);
        Some(InFlight(run.clone()))
    }
}

impl<N: Net> Drop for InFlight<N> {
    fn drop(&mut self) {
        let left = self.0.in_flight.get() - 1;
        self.0.in_flight.set(left);
        if left == 0 {
            self.0.idle.notify_one();
        }
    }
}

/// When requests are due.
#[derive(Debug, Clone, Copy)]
struct SendSchedule {
    t0: Instant,
    rate: f64,
}

/// A due time, twice.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    /// Microseconds from t0.
    us: i64,
}

impl SendSchedule {
    fn new(t0: Instant, rate: f64) -> io::Result<Self> {
        if rate.is_finite() && rate > 0.0 {
            Ok(SendSchedule { t0, rate })
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a rate of {rate}/s")))
        }
    }

    /// Each due time is computed from t0 and not from the one before, so that errors do not add up.
    fn due(&self, k: i64) -> Due {
        let ns = (k as f64 * 1e9 / self.rate).round() as i64;
        let distance = Duration::from_nanos(ns.unsigned_abs());
        let at = if ns < 0 { self.t0 - distance } else { self.t0 + distance };
        Due { at, us: ns.div_euclid(1_000) }
    }

    /// The first request that is not yet overdue at `now`.
    fn first(&self, now: Instant) -> i64 {
        let ahead = now.saturating_duration_since(self.t0).as_secs_f64();
        let behind = self.t0.saturating_duration_since(now).as_secs_f64();
        let mut k = ((ahead - behind) * self.rate).floor() as i64 - 1;
        while self.due(k).at < now {
            k += 1;
        }
        k
    }
}

#[cfg(test)]
mod tests;
