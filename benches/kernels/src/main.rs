//! Runs one part of the sidecar's hot path a given number of times, so that callgrind can count
//! what it takes.
//!
//! `kernels` alone lists the parts. `kernels NAME TIMES` runs one of them: a few times first, so
//! that tables and lazily made values are there, and then `TIMES` times within [`measured`], the
//! one function for which callgrind collects. So the count does not depend on what preparation
//! costs.
//!
//! Everything is deterministic: no clock decides anything, chance has a seed, and nothing waits.
//! The gate compiles this program against the proxy of both revisions. So it asks for little of the
//! proxy's interface, and for each part alone; what needs sockets is counted in the whole sidecar.

mod cases;
mod streams;

use std::process::ExitCode;

/// Runs before the count, which are not counted.
const WARM_UP: usize = 32;

/// A part of the hot path.
pub struct Kernel {
    /// Its name in reports and in `ci/regression.toml`.
    pub name: &'static str,
    /// Makes what it needs for this many runs, and gives one run.
    pub prepare: fn(usize) -> Box<dyn FnMut()>,
}

/// What callgrind collects: see `--toggle-collect` in the gate.
#[inline(never)]
fn measured(run: &mut dyn FnMut(), times: usize) {
    for _ in 0..times {
        run();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = || cases::ALL.iter().chain(streams::ALL);
    let (name, times) = match arguments.as_slice() {
        [] => {
            let names: Vec<_> = all().map(|kernel| kernel.name).collect();
            proxy::outln!("{}", names.join("\n"));
            return ExitCode::SUCCESS;
        }
        [name, times] => (name, times.parse::<usize>()),
        _ => {
            proxy::errln!("kernels [NAME TIMES]");
            return ExitCode::from(2);
        }
    };
    let (Some(kernel), Ok(times)) = (all().find(|kernel| kernel.name == name), times) else {
        proxy::errln!("no kernel {name}, or no number of times; `kernels` alone lists them");
        return ExitCode::from(2);
    };
    let mut run = (kernel.prepare)(WARM_UP + times);
    for _ in 0..WARM_UP {
        run();
    }
    measured(&mut *run, times);
    ExitCode::SUCCESS
}
