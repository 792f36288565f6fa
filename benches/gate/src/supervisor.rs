//! The process in front of the one that compares. It ends all that was started when it is asked to
//! end, and leaves nothing behind in the folder for temporary files.
//!
//! The other process has a folder of its own for these, in which its children make theirs, and a
//! process group. So neither has to know how to clean up, wherever it is when the signal comes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use benches::roles;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid, getpid, getppid};
use proxy::errln;
use proxy::world::{SystemWall, Wall};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::caller::Caller;

/// Tells the other process which its supervisor is.
const SUPERVISOR: &str = "SIDELAB_GATE_SUPERVISOR";
/// What folders for temporary files are called.
const PREFIX: &str = "sidelab-regression-";
/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// How old the folder of a dead run is at least: a younger one may just be made.
const DEAD_AFTER: Duration = Duration::from_secs(60);
/// The exit code of a run that was asked to end.
const INTERRUPTED: u8 = 130;

/// Whether this process has a supervisor. It dies with it from now on.
///
/// # Errors
/// If the kernel refuses.
pub fn has_one() -> io::Result<bool> {
    let supervised = std::env::var(SUPERVISOR).is_ok_and(|pid| pid == getppid().to_string());
    if supervised {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    Ok(supervised)
}

/// Starts this program again with the same arguments, and answers with its exit code.
///
/// # Errors
/// If it cannot be started.
pub fn supervise(caller: Option<&Caller>) -> io::Result<u8> {
    let temporary = std::env::temp_dir();
    sweep(&temporary, DEAD_AFTER);
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    // As long as this is open, nobody sweeps it.
    let _locked = Flock::lock(File::open(folder.path())?, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| io::Error::from(error))?;
    // Sidecars have users of their own.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    if let Some(caller) = caller {
        caller.own(folder.path())?;
    }
    // What is orphaned becomes a child of this process, which so can see that it is gone.
    prctl::set_child_subreaper(true)?;
    let ended = roles::here(async {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).env("TMPDIR", folder.path());
        command.env(SUPERVISOR, getpid().to_string()).process_group(0).stdin(Stdio::null());
        let child = command.spawn()?;
        let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));
        let ended = until_it_ends(child, group).await;
        gone().await;
        ended
    })?;
    let Some(status) = ended else {
        errln!("interrupted: there is no verdict");
        return Ok(INTERRUPTED);
    };
    if let Some(signal) = status.signal() {
        return Err(io::Error::other(format!("the comparison was killed by signal {signal}")));
    }
    Ok(u8::try_from(status.code().unwrap_or_default()).unwrap_or(u8::MAX))
}

/// `None` if a signal came first.
async fn until_it_ends(mut child: Child, group: Option<Pid>) -> io::Result<Option<ExitStatus>> {
    let [mut interrupt, mut terminate, mut hang_up] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    let ended = tokio::select! {
        ended = child.wait() => Some(ended?),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        _ = hang_up.recv() => None,
    };
    if let Some(group) = group {
        // Nobody may be left in it.
        let _ = killpg(group, Signal::SIGKILL);
    }
    child.wait().await?;
    Ok(ended)
}

/// Waits until the orphans are gone: each dies with its parent.
async fn gone() {
    let all = async {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(GONE_WITHIN, all).await;
}

/// Removes the folders of runs that are dead: killed, or in a machine that crashed.
fn sweep(temporary: &Path, older_than: Duration) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let is_ours = |name: &OsStr| name.to_string_lossy().starts_with(PREFIX);
        let Ok(found) = entry.metadata() else { continue };
        let age = found.modified().ok().and_then(|at| SystemWall.now().duration_since(at).ok());
        if !is_ours(&entry.file_name())
            || !found.is_dir()
            || age.is_none_or(|age| age < older_than)
            || !(geteuid().is_root() || found.uid() == geteuid().as_raw())
        {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        if Flock::lock(folder, FlockArg::LockExclusiveNonblock).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_dead_runs_are_swept_and_those_of_living_ones_are_not() {
        let temporary = tempfile::tempdir().unwrap();
        let [dead, alive, other] = ["sidelab-regression-a", "sidelab-regression-b", "sidelab-gate-c"]
            .map(|name| temporary.path().join(name));
        for folder in [&dead, &alive, &other] {
            fs::create_dir_all(folder.join("sidelab-bench-x")).unwrap();
        }
        let lock = Flock::lock(File::open(&alive).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        sweep(temporary.path(), DEAD_AFTER);
        assert!(dead.exists(), "it may just be made");
        sweep(temporary.path(), Duration::ZERO);
        assert_eq!([&dead, &alive, &other].map(|folder| folder.exists()), [false, true, true]);
        drop(lock);
    }
}
