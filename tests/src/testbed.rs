//! The real `lab` binary: started with scenarios of a test's own, watched from outside,
//! and read afterwards.
//!
//! Every run directory lies in a scratch folder of the bench, so the names in it are the ids of
//! this bench's runs and of no others: labs of other people may run on the same machine at the same
//! time. A run that is still going is looked into the way a person would do it, through
//! `/run/lab/<run>/ns/<instance>` and its log of events.
//!
//! Nothing here sleeps for a fixed time where something can be awaited: [`wait_until`] looks again
//! and again until a deadline, and the end of a lab is a message from a thread that waits for it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use lab::kernel::cleanup::REGISTRY;
use lab::kernel::probe;
use lab::metrics::{self, Sample};
use lab::sim::sweep;
use nix::fcntl::Flock;
use nix::poll::{PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

/// The longest that anything awaited may take: long enough for a machine that does four other
/// things as well.
pub const WITHIN: Duration = Duration::from_secs(30);
/// Runs at a time where many are to be made: they mostly wait.
const LANES: usize = 2;
/// How often a run is tried that says that the machine was too busy to judge.
const TRIES: usize = 3;
/// The exit code of such a run.
const INCONCLUSIVE: i32 = 4;

/// A place to run the lab in, and leave to do so.
pub struct Testbed {
    exe: &'static str,
    dir: TempDir,
    kernel: Arc<Flock<File>>,
}

/// A lab that was started and may still run.
pub struct Lab {
    child: Child,
    ended: mpsc::Receiver<()>,
    known: Vec<String>,
    out: PathBuf,
    said: PathBuf,
}

/// A lab that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it said, errors included.
    pub said: String,
    /// The directories of its runs, oldest first.
    pub runs: Vec<PathBuf>,
}

impl Testbed {
    /// A testbed for the binary `exe`, or `None` where the kernel cannot be used.
    pub fn new(exe: &'static str) -> Option<Testbed> {
        let kernel = Arc::new(crate::kernel()?);
        Some(Testbed { exe, dir: crate::open_folder(), kernel })
    }

    /// Hands to `done` what `each` makes of `items`, in their order, as soon as it is there.
    /// Two of them are made at a time, each in a testbed of its own.
    pub fn side_by_side<'t, T: Sync, R: Send>(
        &self,
        items: &'t [T],
        each: impl Fn(&Testbed, &T) -> R + Sync,
        mut done: impl FnMut(&'t T, R),
    ) {
        let at = |position: u64| &items[position as usize];
        let (exe, kernel) = (self.exe, &self.kernel);
        let make = |position| {
            let testbed = Testbed { exe, dir: crate::open_folder(), kernel: kernel.clone() };
            each(&testbed, at(position))
        };
        sweep(0..items.len() as u64, LANES, make, |position, made| {
            done(at(position), made);
            ControlFlow::Continue(())
        });
    }

    /// Where run directories are made.
    pub fn out(&self) -> PathBuf {
        self.dir.path().join("runs")
    }

    /// The ids of all runs so far.
    pub fn runs(&self) -> Vec<String> {
        runs(&self.out())
    }

    /// A scratch folder that every user may enter, for what the programs of a scenario need.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A scenario of the test's own.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.toml"));
        std::fs::write(&path, text).expect("a scenario in the scratch folder");
        path
    }

    /// Starts `lab SCENARIO ARGS`.
    pub fn start(&self, scenario: &Path, args: &[&str]) -> Lab {
        let known = self.runs();
        let said = self.dir.path().join("said");
        let log = File::create(&said).expect("a file for what the lab says");
        let mut command = Command::new(self.exe);
        command.arg(scenario).args(args).arg("--out").arg(self.out());
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a second handle")).stdout(log);
        let child = command.spawn().expect("the lab starts");
        let (tell, ended) = mpsc::channel();
        let pid = Pid::from_raw(child.id() as i32);
        std::thread::spawn(move || {
            // Without reaping: the id stays taken until `Lab` lets it go, so a signal can never hit
            // a stranger.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_err() {}
            // Nobody listens any more if the test has failed.
            let _ = tell.send(());
        });
        Lab { child, ended, known, out: self.out(), said }
    }

    /// Runs `lab SCENARIO ARGS` to its end.
    pub fn run(&self, scenario: &Path, args: &[&str]) -> Ended {
        self.start(scenario, args).end(Duration::from_secs(120))
    }

    /// The same, again if the machine was too busy to say.
    ///
    /// # Panics
    /// If it says so every time: then the test has nothing to judge.
    pub fn run_conclusive(&self, scenario: &Path, args: &[&str]) -> Ended {
        conclusive(|| self.run(scenario, args))
    }

    /// `lab clean`, and what it said.
    pub fn clean(&self) -> String {
        let done = Command::new(self.exe).arg("clean").output().expect("lab clean runs");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

/// Tries again while a run is inconclusive.
///
/// # Panics
/// If it never says anything else.
pub fn conclusive(mut run: impl FnMut() -> Ended) -> Ended {
    let mut last = String::new();
    for _ in 0..TRIES {
        let ended = run();
        if ended.code() != INCONCLUSIVE {
            return ended;
        }
        eprintln!("inconclusive, once more: {}", ended.said);
        last = ended.said;
    }
    panic!("this machine was too busy {TRIES} times in a row: {last}");
}

impl Lab {
    /// The process id of the lab.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal to the lab, if it still runs.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("its id is not let go before it is reaped");
    }

    /// Waits for its end, but no longer than `time`; says whether it came.
    pub fn ends_within(&self, time: Duration) -> bool {
        self.ended.recv_timeout(time).is_ok()
    }

    /// Waits for its end and reads what it left.
    ///
    /// # Panics
    /// If it does not end within `time`.
    pub fn end(mut self, time: Duration) -> Ended {
        if !self.ends_within(time) {
            self.signal(Signal::SIGKILL);
            panic!("the lab did not end within {time:?}: {}", self.said());
        }
        self.reap()
    }

    /// Kills it with SIGKILL and waits until it is dead.
    pub fn kill(mut self) -> Ended {
        self.signal(Signal::SIGKILL);
        self.reap()
    }

    fn reap(&mut self) -> Ended {
        let status = self.child.wait().expect("the lab is our child");
        let new = runs(&self.out).into_iter().filter(|id| !self.known.contains(id));
        Ended { status, said: self.said(), runs: new.map(|id| self.out.join(id)).collect() }
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Waits until its first run has a directory.
    pub fn run_dir(&self) -> PathBuf {
        let mut first = None;
        wait_until("the run has a directory", || {
            first = runs(&self.out).into_iter().find(|id| !self.known.contains(id));
            first.is_some() || self.is_over()
        });
        self.out.join(first.unwrap_or_else(|| panic!("the lab ended without a run: {}", self.said())))
    }

    /// Waits until every app and sidecar is ready; gives the run's directory.
    pub fn up(&self) -> PathBuf {
        let run = self.run_dir();
        wait_until("the mesh is up", || {
            let up = events(&run).iter().any(|e| e["kind"] == "up");
            assert!(up || !self.is_over(), "the lab ended before it was up: {}", self.said());
            up
        });
        run
    }

    /// Waits until the mesh is up and load runs; gives the run's directory.
    pub fn under_load(&self) -> PathBuf {
        let run = self.run_dir();
        wait_until("load runs", || {
            let ready =
                events(&run).iter().any(|e| e["kind"] == "start" && text(&e["subject"]).starts_with("load"));
            assert!(ready || !self.is_over(), "the lab ended before there was load: {}", self.said());
            ready
        });
        run
    }

    fn is_over(&self) -> bool {
        let id = Id::Pid(Pid::from_raw(self.pid()));
        let state = waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG);
        !matches!(state, Ok(nix::sys::wait::WaitStatus::StillAlive))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A failed test must not leave a lab behind; after `reap` there is none and both do
        // nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Its exit code; minus the number of the signal if one ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or_default())
    }

    /// What a run left as `results.json`.
    ///
    /// # Panics
    /// If there is no such run, or it left no results.
    pub fn results(&self, run: usize) -> Value {
        let dir = self.runs.get(run).unwrap_or_else(|| panic!("there is no run {run}: {}", self.said));
        let text = std::fs::read_to_string(dir.join(lab::report::RESULTS));
        let text = text.unwrap_or_else(|e| panic!("{}: {e}: {}", dir.display(), self.said));
        serde_json::from_str(&text).expect("results are JSON")
    }

    /// # Panics
    /// If it did not end with `code`; shows what the lab said.
    pub fn expect(&self, code: i32) {
        assert_eq!(self.code(), code, "{}", self.said);
    }
}

/// A number in a JSON document.
///
/// # Panics
/// If there is none.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// A text in a JSON document; empty if there is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What a process counted over a whole run, from the totals of its results; 0 if it never counted.
pub fn total(results: &Value, process: &str, counter: &str) -> f64 {
    results["totals"][process][counter].as_f64().unwrap_or(0.0)
}

/// The element of an array whose `name` is `name`.
///
/// # Panics
/// If there is none.
pub fn named<'a>(array: &'a Value, name: &str) -> &'a Value {
    let found = array.as_array().into_iter().flatten().find(|e| e["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {array:#}"))
}

/// The summary of a load.
///
/// # Panics
/// If there is no such load.
pub fn load<'a>(results: &'a Value, name: &str) -> &'a Value {
    let load = &results["loads"][name];
    assert!(load.is_object(), "no load {name}");
    load
}

/// The run directories in `out`, oldest first.
fn runs(out: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(out) else { return Vec::new() };
    let made = |e: &std::fs::DirEntry| e.metadata().and_then(|m| m.created()).ok();
    let mut runs: Vec<_> =
        entries.flatten().map(|e| (made(&e), e.file_name().to_string_lossy().into_owned())).collect();
    runs.sort();
    runs.into_iter().map(|(_, name)| name).collect()
}

/// The log of events of a run, as far as it is written.
pub fn events(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The process id of a process of a run, from the log of events: of its newest start.
///
/// # Panics
/// If it was never started.
pub fn pid_of(run: &Path, process: &str) -> i32 {
    let events = events(run);
    let start = events.iter().rfind(|e| e["kind"] == "start" && e["subject"] == process);
    let pid = start.and_then(|e| text(&e["detail"]).strip_prefix("process ")?.parse().ok());
    pid.unwrap_or_else(|| panic!("{process} was never started"))
}

/// Runs `f` on a thread inside the network namespace of an instance of a run that is up.
///
/// # Panics
/// If there is no such namespace, or `f` panics.
pub fn inside<T: Send>(run: &Path, instance: &str, f: impl FnOnce() -> T + Send) -> T {
    let id = run.file_name().expect("a run has a name");
    let path = Path::new(REGISTRY).join(id).join("ns").join(instance);
    let namespace = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    std::thread::scope(|threads| {
        let worker = threads.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
            f()
        });
        worker.join().expect("the thread in the namespace")
    })
}

/// GETs a page from a loopback port of an instance.
///
/// # Errors
/// If nothing listens there, or does not answer.
pub fn page(run: &Path, instance: &str, port: u16, path: &str) -> io::Result<(u16, String)> {
    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    inside(run, instance, || probe::get(from, path, Duration::from_secs(5)))
}

/// A counter of the metrics page on a loopback port of an instance, summed over the label sets that
/// hold `labels`.
///
/// # Panics
/// If the page cannot be read.
pub fn counter(run: &Path, instance: &str, port: u16, name: &str, labels: &[(&str, &str)]) -> f64 {
    let (_, text) = page(run, instance, port, "/metrics").expect("a metrics page");
    sum(&metrics::parse(instance, &text), name, labels)
}

/// The sum of the samples called `name` whose labels hold `labels`.
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let holds = |s: &&Sample| labels.iter().all(|(k, v)| s.labels.has(k, v));
    samples.iter().filter(|s| *s.name == *name).filter(holds).map(|s| s.value).sum()
}

/// Looks again and again until `condition` holds.
///
/// # Panics
/// If it does not within [`WITHIN`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {WITHIN:?}: {what}");
        // Only the timeout of poll: there is nothing to wake up for.
        let _ = poll(&mut [], PollTimeout::from(5_u8));
    }
}
