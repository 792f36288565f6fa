//! The load generator as a process of its own, inside an instance's network namespace.
//!
//! It resolves the target's name the way any program there would, so that the namespace's
//! `/etc/hosts` is part of what is tested, runs [`generate_paced`] on real sockets, and writes each
//! record as a line to its standard output. Times cross the process border as CLOCK_MONOTONIC
//! nanoseconds, which every process of a machine shares.
//!
//! A thread of its own writes: if the reader falls behind, memory grows instead of the schedule
//! slipping.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use proxy::world::{KernelNet, RngTree, SystemWall, World, raise_nofile};
use tokio::time::{Instant, MissedTickBehavior};

use super::generate::generate_paced;
use super::pace::TimerPace;
use super::{Load, LoadJob, LoadTimes, RecordSink};

/// How often records are handed to the reader.
const FLUSH: Duration = Duration::from_millis(50);

/// Runs the load of `spec_json` (a [`Load`] as JSON): the measured part starts at `start_ns` and
/// the load ends at `until_ns`, both CLOCK_MONOTONIC. Requests are due from now on; those before
/// `start_ns` are the warm-up.
///
/// Ends with 1 and a message on standard error if the load or the name of its target makes no
/// sense, or if nobody reads the records.
pub fn run(spec_json: &str, start_ns: u64, until_ns: u64) -> ExitCode {
    let outcome = serde_json::from_str(spec_json)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("not a load: {e}")))
        .and_then(|load| drive(load, start_ns, until_ns, io::stdout()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            errln!("load: {e}");
            ExitCode::FAILURE
        }
    }
}

/// CLOCK_MONOTONIC now, nanoseconds: what [`run`] counts in.
///
/// # Errors
/// Never on Linux; the system call has an error to return.
pub fn monotonic_ns() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

fn drive(load: Load, start_ns: u64, until_ns: u64, out: impl Write + Send + 'static) -> io::Result<()> {
    let address = resolve(&load.target.host, load.target.port)?;
    if let Err(e) = raise_nofile() {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let times = LoadTimes { t0: instant(start_ns)?, end: instant(until_ns)? };
        let (lines, writer) = writer(out);
        let text = Rc::new(RefCell::new(String::new()));
        let world = World::new(KernelNet::default(), SystemWall, RngTree::new(load.seed));
        let sink: RecordSink = {
            let text = text.clone();
            Rc::new(move |record| writeln!(text.borrow_mut(), "{record}").expect("a string takes all"))
        };
        let job = LoadJob { load, address, times, sink };
        let generated = generate_paced(world, job, TimerPace::new()?);
        let flushed = async {
            let mut tick = tokio::time::interval(FLUSH);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if lines.send(text.take()).is_err() {
                    break;
                }
            }
        };
        let done = tokio::select! {
            biased;
            done = generated => done,
            () = flushed => Ok(()),
        };
        // Both fail only if the writer has ended early, and then it says why.
        let _ = lines.send(text.take());
        drop(lines);
        writer.join().expect("the writer does not panic")?;
        done
    })
}

/// A thread that writes what it is sent to `out`, until the sender is dropped.
fn writer(
    mut out: impl Write + Send + 'static,
) -> (mpsc::Sender<String>, std::thread::JoinHandle<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel::<String>();
    let thread = std::thread::spawn(move || {
        for text in receiver {
            if !text.is_empty() {
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
        }
        Ok(())
    });
    (sender, thread)
}

/// The first IPv4 address of a name, or the first at all.
fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let unknown = |why: String| io::Error::new(io::ErrorKind::NotFound, why);
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|e| unknown(format!("the name `{host}` does not resolve: {e}")))?
        .collect();
    let best = found.iter().find(|a| a.is_ipv4()).or(found.first());
    best.copied().ok_or_else(|| unknown(format!("the name `{host}` has no address")))
}

/// The instant of a CLOCK_MONOTONIC time, which may have passed.
fn instant(ns: u64) -> io::Result<Instant> {
    let (clock, now) = (monotonic_ns()?, Instant::now());
    let distance = Duration::from_nanos(ns.abs_diff(clock));
    let there = if ns >= clock { now.checked_add(distance) } else { now.checked_sub(distance) };
    there.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no such time: {ns} ns")))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::load::{CallKind, Outcome, Record, Target, TcpCall};

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe that nobody reads.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A load on a port that nothing listens on: the socket is bound and never listens.
    fn refused() -> (Load, socket2::Socket) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let load = Load {
            name: "calls".into(),
            from: 0,
            target: Target { host: "localhost".into(), port, call: CallKind::Tcp(TcpCall {}) },
            rate: 100.0,
            timeout: Duration::from_secs(1),
            part: None,
            seed: 1,
        };
        (load, socket)
    }

    #[test]
    fn every_request_of_the_measured_part_becomes_a_line() {
        let (load, _socket) = refused();
        let out = Out::default();
        let start = monotonic_ns().unwrap() + 500_000_000;
        drive(load, start, start + 200_000_000, out.clone()).unwrap();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let records: Vec<Record> = text.lines().map(|l| Record::from_line(l).unwrap()).collect();
        assert!(records.iter().all(|r| r.outcome == Outcome::Connect), "{text}");
        let mut due: Vec<i64> = records.iter().map(|r| r.due_us).filter(|d| *d >= 0).collect();
        due.sort_unstable();
        assert_eq!(due, (0..20).map(|k| k * 10_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_that_went_away_ends_the_load_with_an_error() {
        let (load, _socket) = refused();
        let start = monotonic_ns().unwrap();
        let error = drive(load, start, start + 3_600_000_000_000, Closed).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_name_that_does_not_resolve_is_an_error_that_says_so() {
        let (mut load, _socket) = refused();
        // A label of more than 63 characters cannot be looked up, whatever resolver there is.
        load.target.host = "x".repeat(64);
        let error = drive(load, 0, 0, Out::default()).unwrap_err();
        assert!(error.to_string().contains("does not resolve"), "{error}");
    }
}
