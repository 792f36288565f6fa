//! What a program prints. A full disk or a reader that has gone is a normal event, at which
//! `println!` and `eprintln!` panic. Here the first failure of standard output is said and
//! remembered, and decides the exit code ([`has_failed`]); what standard error does not take is
//! lost.

use std::fmt::Arguments;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

static FAILED: AtomicBool = AtomicBool::new(false);

/// Whether something that was to be printed is lost.
pub fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

/// Writes to standard output.
pub fn print(text: Arguments<'_>) {
    if has_failed() {
        return;
    }
    let mut out = std::io::stdout().lock();
    let written = out.write_fmt(text).and_then(|()| out.flush());
    remember(written);
}

fn remember(written: std::io::Result<()>) {
    if let Err(error) = written {
        FAILED.store(true, Ordering::Relaxed);
        report(format_args!("cannot write to standard output: {error}"));
    }
}

/// The arguments of this process.
///
/// # Errors
/// If they ask for help or the version, or are not valid: then all that there is to say has been
/// printed, and the code says which.
pub fn arguments<A: clap::Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|said| {
        let printed = said.print();
        if !said.use_stderr() {
            remember(printed.and_then(|()| std::io::stdout().flush()));
        }
        ExitCode::from(said.exit_code() as u8)
    })
}

/// Writes a line to standard error.
pub fn report(line: Arguments<'_>) {
    let mut text = line.to_string();
    text.push('\n');
    // There is nowhere to say that it failed.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// `print!`, but see [`crate::output`].
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => {
        $crate::output::print(format_args!($($text)*))
    };
}

/// `println!`, but see [`crate::output`].
#[macro_export]
macro_rules! outln {
    () => {
        $crate::output::print(format_args!("\n"))
    };
    ($($text:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// `eprintln!`, but see [`crate::output`].
#[macro_export]
macro_rules! errln {
    ($($text:tt)*) => {
        $crate::output::report(format_args!($($text)*))
    };
}
