//! What a process used, as the kernel counts it.
//!
//! CPU time is the sum over the process's threads of the first number of
//! /proc/PID/task/TID/schedstat: nanoseconds on a CPU, user and system together. It is not sampled
//! by ticks, so windows of a second can be told apart. Work that the kernel does for a process in
//! interrupts is counted for whoever happened to run, here as in every such tool. A thread that
//! ends takes its time with it; sidecars, apps and load generators keep theirs.

use std::fs;
use std::io;

/// Nanoseconds that all threads of `pid` have spent on CPUs.
///
/// # Errors
/// If there is no such process, or the kernel was built without CONFIG_SCHED_INFO.
pub fn cpu_ns(pid: i32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // It ended between being listed and being read (which is ESRCH if its file was open by
            // then).
            Err(_) if path.parent().is_some_and(|task| !task.exists()) => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        sum += first_number(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text:?}", path.display()))
        })?;
    }
    Ok(sum)
}

fn first_number(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Memory of a process, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Resident, with what it shares with others (program text).
    pub rss: u64,
    /// Resident and its own.
    pub private: u64,
}

/// Memory of `pid` now, from /proc/PID/smaps_rollup. Kernel memory of its sockets is not in it.
///
/// # Errors
/// If there is no such process or it may not be looked at.
pub fn memory(pid: i32) -> io::Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
    Ok(parse_memory(&text))
}

fn parse_memory(rollup: &str) -> Memory {
    let mut memory = Memory::default();
    for line in rollup.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let kib = first_number(value).unwrap_or(0);
        match key {
            "Rss" => memory.rss = kib,
            "Private_Clean" | "Private_Dirty" => memory.private += kib,
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_what_is_clean_and_what_is_dirty() {
        let text = "00400000-7ffd ---p 00000000 00:00 0 [rollup]\nRss:      9000 kB\nPss:  8000 kB\n\
                    Shared_Clean: 1000 kB\nPrivate_Clean:     500 kB\nPrivate_Dirty:  7500 kB\n";
        assert_eq!(parse_memory(text), Memory { rss: 9000, private: 8000 });
    }

    #[test]
    fn a_thread_that_ends_while_it_is_looked_at_is_no_error() {
        let own = std::process::id() as i32;
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::spawn(|| {}).join().unwrap();
                }
            });
            for _ in 0..2_000 {
                cpu_ns(own).unwrap();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn cpu_time_only_grows_while_a_process_computes() {
        let own = std::process::id() as i32;
        let before = cpu_ns(own).unwrap();
        // The kernel accounts at the latest when this thread is next scheduled, so it computes
        // until it shows.
        while cpu_ns(own).unwrap() == before {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
    }
}
