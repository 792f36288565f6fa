//! The sidecar's binary: reads the arguments and hands over to the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    proxy::cli::Cli::parse().execute()
}
