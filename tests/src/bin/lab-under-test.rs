//! The `lab` binary under another name, so that tests of this package can run it.

use std::process::ExitCode;

fn main() -> ExitCode {
    lab::cli::main()
}
