//! The app as a child of its sidecar: `proxy run -- command`. They live and die together, which is what a job's container
//! needs that would otherwise never end (istio#11045).
//!
//! The app starts when the sidecar is ready, gets SIGTERM when requests to it have been drained, SIGKILL when it does not
//! end in time, and is killed by the kernel if the sidecar itself dies. Its exit code becomes the sidecar's.
//!
//! The app runs with the rights that the sidecar was started with. Interception rules must tell the two apart: the
//! sidecar alone takes the exempt group ([`become_group`]), or sets a mark on its connections.
//!
//! What it leaves out: reaping of processes that the app abandons; a container that needs it starts an init first.

#![allow(unsafe_code, reason = "pre_exec is unsafe by nature; see the one block below")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, setgid, setgroups};
use tokio::process::Child;

/// The app.
#[derive(Debug)]
pub struct App {
    child: Child,
    pid: Pid,
}

/// Starts a command. It must not be empty.
///
/// # Errors
/// If it cannot be started.
pub fn start(command: &[OsString]) -> io::Result<App> {
    let named = |e: io::Error| {
        io::Error::new(e.kind(), format!("cannot start {}: {e}", command[0].to_string_lossy()))
    };
    let mut start = tokio::process::Command::new(&command[0]);
    start.args(&command[1..]);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl and getppid are plain system calls.
    unsafe {
        start.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The sidecar may have died before the call.
            if nix::unistd::getppid() == Pid::from_raw(1) && std::process::id() != 1 {
                return Err(io::Error::other("the sidecar is gone"));
            }
            Ok(())
        });
    }
    let child = start.spawn().map_err(named)?;
    let pid = child.id().expect("it has not been waited for");
    Ok(App { child, pid: Pid::from_raw(pid as i32) })
}

/// Takes a group, and no other, so that rules which exempt it tell this process from its app.
///
/// # Errors
/// If this process may not: it takes CAP_SETGID.
pub fn become_group(group: u32) -> io::Result<()> {
    let group = Gid::from_raw(group);
    setgroups(&[group])
        .and_then(|()| setgid(group))
        .map_err(|e| io::Error::other(format!("cannot take group {group} (it takes CAP_SETGID): {e}")))
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
        // It is not reaped before `wait` is done, so the id cannot be somebody else's. It may be dead already.
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
