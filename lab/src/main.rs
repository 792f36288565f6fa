//! The `lab` binary.

use std::process::ExitCode;

/// A simulated run allocates some thirty thousand times, mostly what it frees at once: a tenth of
/// its time is saved.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lab::cli::main()
}
