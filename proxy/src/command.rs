//! The app as a child of its sidecar: `proxy run -- command`. They live and die together, which is
//! what a job's container needs that would otherwise never end (istio#11045).
//!
//! The app starts when the sidecar is ready, gets SIGTERM when requests to it have been drained,
//! SIGKILL when it does not end in time, and is killed by the kernel if the sidecar itself dies.
//! Its exit code becomes the sidecar's.
//!
//! The app runs with the groups and the limits that the sidecar was started with, whatever that has
//! changed for itself ([`Inherited`]). Interception rules must tell the two apart: the sidecar
//! alone takes the exempt group, or sets a mark on its connections.
//!
//! What it leaves out: reaping of processes that the app abandons; a container that needs it starts
//! an init first.

#![allow(unsafe_code, reason = "pre_exec is unsafe by nature; see the one block below")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, ResGid, getgroups, getpid, getppid, getresgid, setgid, setgroups, setresgid};
use tokio::process::Child;

/// The app.
#[derive(Debug)]
pub struct App {
    child: Child,
    pid: Pid,
}

/// What the process was started with and changes for itself. The app gets it back.
#[derive(Debug)]
pub struct Inherited {
    files: (u64, u64),
    /// Set once the process has taken another group.
    groups: Option<(ResGid, Vec<Gid>)>,
}

impl Inherited {
    /// What this process has now.
    ///
    /// # Errors
    /// What `getrlimit` says.
    pub fn now() -> io::Result<Self> {
        Ok(Inherited { files: getrlimit(Resource::RLIMIT_NOFILE)?, groups: None })
    }

    /// Takes a group, and no other, so that rules which exempt it tell this process from its app.
    /// Must come before anything is dialled: a socket belongs to the group in which it was made.
    ///
    /// # Errors
    /// If this process may not: it takes CAP_SETGID.
    pub fn become_group(&mut self, group: u32) -> io::Result<()> {
        self.groups = Some((getresgid()?, getgroups()?));
        let group = Gid::from_raw(group);
        setgroups(&[group])
            .and_then(|()| setgid(group))
            .map_err(|e| io::Error::other(format!("cannot take group {group} (it takes CAP_SETGID): {e}")))
    }

    /// Gives everything back to the calling process. Only system calls.
    fn restore(&self) -> Result<(), Errno> {
        let (soft, hard) = self.files;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        if let Some((ids, groups)) = &self.groups {
            setgroups(groups)?;
            setresgid(ids.real, ids.effective, ids.saved)?;
        }
        Ok(())
    }
}

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {command}: {error}")]
pub struct SpawnError {
    command: String,
    error: io::Error,
}

impl SpawnError {
    /// As a shell gives it: 127 if there is no such command, 126 if it cannot be run.
    pub fn exit_code(&self) -> u8 {
        if self.error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

/// Starts a command. It must not be empty.
///
/// # Errors
/// If it cannot be started.
pub fn start(command: &[OsString], inherited: Inherited) -> Result<App, SpawnError> {
    let mut start = tokio::process::Command::new(&command[0]);
    start.args(&command[1..]);
    let sidecar = getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; all of these are
    // plain system calls, and an error is a number, as only that reaches the parent.
    unsafe {
        start.pre_exec(move || {
            // First, because the kernel forgets the signal of the next line when a process changes
            // its group.
            inherited.restore()?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The sidecar may have died before the call. In a container its own id is often 1.
            if getppid() != sidecar {
                return Err(Errno::ESRCH.into());
            }
            Ok(())
        });
    }
    let child =
        start.spawn().map_err(|error| SpawnError { command: command[0].display().to_string(), error })?;
    let pid = child.id().expect("it has not been waited for");
    Ok(App { child, pid: Pid::from_raw(pid as i32) })
}

impl App {
    /// Waits until it ends. Cancel-safe, and may be called again.
    ///
    /// # Errors
    /// What `waitpid` says.
    pub async fn wait(&mut self) -> io::Result<u8> {
        self.child.wait().await.map(exit_code)
    }

    /// Asks it to end, waits for that, and kills it after `limit`.
    ///
    /// # Errors
    /// What `waitpid` says.
    pub async fn stop(&mut self, limit: Duration) -> io::Result<u8> {
        // It is not reaped before `wait` is done, so the id cannot be somebody else's. It may be
        // dead already.
        let _ = kill(self.pid, Signal::SIGTERM);
        if let Ok(ended) = tokio::time::timeout(limit, self.wait()).await {
            return ended;
        }
        tracing::warn!(?limit, "the app did not end in time and is killed");
        self.child.start_kill()?;
        self.wait().await
    }
}

/// As a shell gives it: the code, or 128 and the number of the signal.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    // The kernel keeps eight bits of a code, and signals end at 64.
    code as u8
}
