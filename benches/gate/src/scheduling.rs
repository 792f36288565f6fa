//! Which processor runs what is measured, and before what.
//!
//! In both forms the processes of a lane share one processor and run one after the other, each
//! until it has nothing left to do. Where they run side by side, chance decides how many frames one
//! finds when it reads what another writes, and with that how often it reads.

use std::io;
use std::process::Command;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The first and the last processor that this thread may use, which may be the same. Interrupts
/// usually go to the first.
pub fn processors() -> io::Result<(usize, usize)> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let mut all = 0..CpuSet::count();
    let first = all.find(is_allowed).ok_or_else(|| io::Error::other("this process may run nowhere"))?;
    Ok((first, all.rfind(is_allowed).unwrap_or(first)))
}

/// Keeps this thread, and all threads and processes that are started from it from now on, on one
/// processor. The rest of the machine has the others for itself.
///
/// Where the scheduler puts the four processes of a lane decides what it costs them to wake each
/// other, which is a tenth of the whole, and it decides that anew for each lane.
pub fn stay_on(processor: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

/// Lets processes run before all usual ones of their processor, in the order in which they are
/// woken: other work of the machine costs them nothing but caches. It takes the right to do so,
/// which some containers lack; then results are only noisier.
///
/// Not what builds namespaces and starts processes: it waits for the kernel's own threads, which
/// would not get to run.
pub fn come_first(pids: impl IntoIterator<Item = i32>) {
    for pid in pids {
        let _ = Command::new("chrt").args(["--all-tasks", "--fifo", "--pid", "1", &pid.to_string()]).output();
    }
}
