//! Real processes: started inside a node, watched until the kernel says that they ended, their
//! words kept.
//!
//! A child joins its control group, starts its own session, drops to its own user and asks to be
//! killed when the lab dies, all before it runs a line of its own code. Its output goes through one
//! pipe to a log file, each line with the time of day, and the last lines are kept for error
//! messages.
//!
//! Invariants: a signal never reaches a recycled process id, because the waiting thread reaps under
//! the same lock under which signals are sent; nothing inherits the lab's terminal or environment.
#![allow(unsafe_code, reason = "pre_exec is unsafe by nature; see the one block below")]

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Gid, Pid, SysconfVar, Uid, getppid, setgid, setgroups, setsid, setuid, sysconf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::cgroup::Cgroup;
use crate::events::Clock;

/// Lines kept for error messages.
const LAST_LINES: usize = 20;
/// Open files of a child: enough for thousands of connections, with two sockets each.
const NOFILE: u64 = 65_536;
/// Variables of the lab's own environment that children may see.
const PASSED_ON: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "RUST_LOG", "RUST_BACKTRACE"];

/// How long the end of a process is kept back until all that it said has been read.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(200);

/// A log file with time stamps that remembers its last lines.
#[derive(Debug)]
pub struct Log {
    clock: Clock,
    inner: Mutex<(File, VecDeque<String>)>,
    /// A line could not be written.
    gaps: AtomicBool,
}

impl Log {
    /// Appends to `path`, with the times of `clock`.
    pub fn open(path: &Path, clock: Clock) -> io::Result<Arc<Log>> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Arc::new(Log { clock, inner: Mutex::new((file, VecDeque::new())), gaps: AtomicBool::new(false) }))
    }

    /// Adds one line.
    pub fn write(&self, line: &str) {
        let at = self.clock.now();
        let (file, last) = &mut *lock(&self.inner);
        // A full disk must not end a run; the last lines stay in memory.
        if writeln!(file, "{at} {line}").is_err() {
            self.gaps.store(true, Ordering::Relaxed);
        }
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    }

    /// Whether lines are missing from the file.
    pub fn has_gaps(&self) -> bool {
        self.gaps.load(Ordering::Relaxed)
    }

    /// The last lines, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        lock(&self.inner).1.iter().cloned().collect()
    }

    /// The end of an error message: what the process said last.
    pub fn log_tail(&self) -> String {
        match self.last_lines() {
            lines if lines.is_empty() => String::from("; it said nothing"),
            lines => format!("; its log tail:\n    {}", lines.join("\n    ")),
        }
    }
}

/// Where standard output goes. Standard error always goes to the log.
#[derive(Debug)]
pub enum Output {
    /// Into the log, in one order with standard error.
    Log,
    /// Line by line to a reader.
    Lines(mpsc::UnboundedSender<String>),
}

/// A process to start.
#[derive(Debug)]
pub struct Launch {
    /// `orders-1/app`, for people.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Added to the little that is passed on.
    pub env: Vec<(String, String)>,
    /// Where relative paths begin.
    pub directory: PathBuf,
    /// User and group.
    pub uid: u32,
    /// Joined first, through the entrance; opened beforehand, because the node's own /sys shows no
    /// groups.
    pub cgroup: Option<(Cgroup, File)>,
    /// The entrances of groups with limits.
    pub limits: Vec<File>,
    /// What it says.
    pub log: Arc<Log>,
    /// Where standard output goes.
    pub output: Output,
}

/// A process ended.
#[derive(Debug, Clone)]
pub struct Exit {
    /// Whose.
    pub name: String,
    /// How.
    pub status: ExitStatus,
    /// When.
    pub at: Instant,
    /// Whether the lab had asked for it.
    pub expected: bool,
    /// What it said.
    pub log: Arc<Log>,
}

#[derive(Debug)]
struct Shared {
    /// Gone once the process is reaped.
    child: Option<Child>,
    /// The lab is about to end it.
    expected: bool,
}

/// A running or finished process.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: Arc<Log>,
    cgroup: Option<Cgroup>,
    shared: Arc<Mutex<Shared>>,
    exit: watch::Receiver<Option<Exit>>,
    waiter: Mutex<Option<JoinHandle<()>>>,
}

impl Process {
    /// Starts `launch` in the calling thread's namespaces; `exits` hears of its end. The calling
    /// thread must outlive it.
    pub fn spawn(launch: Launch, exits: mpsc::UnboundedSender<Exit>) -> io::Result<Process> {
        let Launch { name, argv, env, directory, uid, cgroup, limits, log, output } = launch;
        let (program, arguments) =
            argv.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program"))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).env_clear().env("LANG", "C").env("HOME", "/");
        for key in PASSED_ON {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        command.envs(env).stdin(Stdio::null());

        let (to_log, from_child) = io::pipe().map(|(reader, writer)| (writer, reader))?;
        let mut lines = None;
        match output {
            Output::Log => {
                command.stdout(to_log.try_clone()?);
            }
            Output::Lines(sender) => {
                let (reader, writer) = io::pipe()?;
                command.stdout(writer);
                lines = Some((reader, sender));
            }
        }
        command.stderr(to_log);

        let (cgroup, entrance) = cgroup.unzip();
        prepare(&mut command, entrance.into_iter().chain(limits).collect(), uid)?;
        let child = command.spawn().map_err(|e| {
            let program = program.display();
            io::Error::new(e.kind(), format!("{program} as user {uid}: {e}"))
        })?;
        // The command holds the pipes' write ends; with them open the readers would never see the
        // end.
        drop(command);

        let pid = Pid::from_raw(child.id() as i32);
        let words = log.clone();
        // Nothing is ever sent: the sender is dropped when the log has all that the process said.
        let (reading, said_all) = std::sync::mpsc::channel::<()>();
        std::thread::Builder::new().name(format!("log:{name}")).spawn(move || {
            read_lines(from_child, |l| words.write(&l));
            drop(reading);
        })?;
        if let Some((reader, sender)) = lines {
            std::thread::Builder::new().name(format!("out:{name}")).spawn(move || {
                read_lines(reader, |l| {
                    let _ = sender.send(l);
                });
            })?;
        }
        let shared = Arc::new(Mutex::new(Shared { child: Some(child), expected: false }));
        let (tell, exit) = watch::channel(None);
        let (waited, whose, said) = (shared.clone(), name.clone(), log.clone());
        let waiter = std::thread::Builder::new()
            .name(format!("wait:{name}"))
            .spawn(move || wait(pid, (whose, said), &said_all, &waited, &tell, &exits))?;
        Ok(Process { name, pid, log, cgroup, shared, exit, waiter: Mutex::new(Some(waiter)) })
    }

    /// `orders-1/app`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, on this machine.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// What it says.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Whether it has not been seen to end.
    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Its end, without waiting.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> Exit {
        let mut exit = self.exit.clone();
        // The waiter tells before it drops its sender; should it have died, the process is unknown
        // and thus gone.
        match exit.wait_for(Option::is_some).await.ok().and_then(|e| e.clone()) {
            Some(exit) => exit,
            None => std::future::pending().await,
        }
    }

    /// Sends `signal` to the process and all of its group. False if it has ended already.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let mut shared = lock(&self.shared);
        if shared.child.is_none() {
            return Ok(false);
        }
        if matches!(signal, Signal::SIGKILL | Signal::SIGTERM) {
            shared.expected = true;
        }
        killpg(self.pid, signal)?;
        Ok(true)
    }

    /// The state letter of /proc/PID/stat; `None` once it is gone.
    pub fn state(&self) -> Option<char> {
        fields(&self.stat()?)?.next()?.chars().next()
    }

    /// What it has used of the machine; `None` once it is gone.
    pub fn usage(&self) -> Option<Usage> {
        if !self.is_running() {
            return None;
        }
        // The clock of a process is exact, and the times in its stat are of hundredths of a second.
        let clock = clock_gettime(clock_getcpuclockid(self.pid).ok()?).ok()?;
        let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
        let resident_bytes = resident_pages(&self.stat()?)? * page as f64;
        Some(Usage { cpu_seconds: Duration::from(clock).as_secs_f64(), resident_bytes })
    }

    fn stat(&self) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()
    }

    /// Ends whatever the process left running after its own end.
    pub fn kill_rest(&self) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), Cgroup::kill)
    }

    /// Kills the process with all it started and blocks until the kernel confirmed its end.
    pub fn kill_and_reap(&self) {
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.kill_rest();
        if let Some(waiter) = lock(&self.waiter).take() {
            let _ = waiter.join();
        }
    }
}

/// The fields of a /proc/PID/stat from the third on, which is the state.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    // The name before it is in parentheses and may itself hold spaces and parentheses.
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

/// What a process has used of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Seconds of CPU, its own and the kernel's for it.
    pub cpu_seconds: f64,
    /// Bytes of memory that it holds now.
    pub resident_bytes: f64,
}

/// The pages of memory that a process holds, from its /proc/PID/stat.
fn resident_pages(stat: &str) -> Option<f64> {
    fields(stat)?.nth(21)?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn read_lines(from: impl io::Read, mut line: impl FnMut(String)) {
    let mut from = BufReader::new(from);
    let mut buffer = Vec::new();
    while let Ok(1..) = from.read_until(b'\n', &mut buffer) {
        line(String::from_utf8_lossy(&buffer).trim_end().to_owned());
        buffer.clear();
    }
}

/// Has the child, before it runs a line of its own code, join the control groups behind
/// `entrances`, start a session, become user `uid` and die with the lab.
fn prepare(command: &mut Command, entrances: Vec<File>, uid: u32) -> io::Result<()> {
    let lab = nix::unistd::getpid();
    let (_, allowed) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; every call below is a
    // bare system call on values prepared beforehand, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            for entrance in &entrances {
                nix::unistd::write(entrance, b"0")?;
            }
            setsid()?;
            // Raising the hard limit takes a capability that a container's root may lack.
            setrlimit(Resource::RLIMIT_NOFILE, NOFILE, NOFILE)
                .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, allowed.min(NOFILE), allowed))?;
            setgroups(&[])?;
            setgid(Gid::from_raw(uid))?;
            setuid(Uid::from_raw(uid))?;
            // After setuid, which clears it.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != lab {
                // The lab died before the line above.
                return Err(Errno::ESRCH.into());
            }
            Ok(())
        });
    }
    Ok(())
}

fn wait(
    pid: Pid,
    (name, log): (String, Arc<Log>),
    said_all: &std::sync::mpsc::Receiver<()>,
    shared: &Mutex<Shared>,
    tell: &watch::Sender<Option<Exit>>,
    exits: &mpsc::UnboundedSender<Exit>,
) {
    // Without reaping: until the lock is held the id must stay taken, or a signal could hit a
    // stranger.
    while let Err(Errno::EINTR) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {}
    let at = Instant::now();
    let (status, expected) = {
        let mut shared = lock(shared);
        let status = shared.child.take().map(|mut child| child.wait());
        (status, shared.expected)
    };
    let status = status.and_then(Result::ok).unwrap_or_else(|| ExitStatus::from_raw(0));
    // The tail of its log may still be in the pipe. What it left running may hold the pipe open for
    // ever.
    let _ = said_all.recv_timeout(LAST_WORDS_WITHIN);
    let exit = Exit { name, status, at, expected, log };
    // Before the watch: whoever saw the end there must find it in the channel too.
    let _ = exits.send(exit.clone());
    tell.send_replace(Some(exit));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_use_of_a_process_is_read_whatever_its_name() {
        let stat = "7 (a) 1 (b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 999 8192 25 1 2 3";
        assert_eq!(resident_pages(stat), Some(25.0));
        assert_eq!(fields(stat).and_then(|mut fields| fields.next()), Some("S"));
        assert_eq!(resident_pages("7 (gone"), None);
    }
}
