//! The sidecar's binary: reads the arguments and hands over to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    proxy::cli::main()
}
