//! What callgrind counts: instructions, system calls, and calls of the allocator.
//!
//! A profile is text, and all of it that is read here is the line with the totals and, for the
//! allocator, the lines that say which function was called how often. So no counting allocator has
//! to be built into anything: the program that is measured is the one that is shipped.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;

/// Functions that give memory. What they call of each other inside has other names.
const ALLOCATORS: [&str; 13] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "mi_malloc",
    "mi_calloc",
    "mi_zalloc",
    "mi_realloc",
    "mi_malloc_aligned",
    "mi_zalloc_aligned",
    "mi_realloc_aligned",
];

/// Counts of one profile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions executed in user space.
    pub instructions: u64,
    /// Calls that ask for memory.
    pub allocations: u64,
    /// System calls.
    pub system_calls: u64,
}

/// What runs a program under callgrind, up to the program. Profiles are written to `out`, in which
/// `%p` is the process.
pub fn command(out: &Path, more: &[&str]) -> Vec<String> {
    let mut words = ["valgrind", "--tool=callgrind", "--collect-systime=yes", "--dump-line=no"]
        .map(String::from)
        .to_vec();
    words.push(format!("--callgrind-out-file={}", out.display()));
    words.extend(more.iter().map(ToString::to_string));
    words
}

/// Runs `program` with nothing in its environment and counts within `function`.
///
/// # Errors
/// If valgrind is missing, the program fails, or nothing was counted.
pub fn count(program: &Path, arguments: &[&str], function: &str) -> io::Result<Counts> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("profile");
    let toggle = format!("--toggle-collect={function}");
    let words = command(&out, &["--collect-atstart=no", "--vgdb=no", &toggle]);
    let mut run = Command::new(&words[0]);
    // The environment lies on the stack, and moves what is on it.
    run.args(&words[1..]).arg(program).args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
    let done = run.output().map_err(|e| io::Error::new(e.kind(), format!("valgrind: {e}")))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(io::Error::other(format!(
            "{} {arguments:?}: {}\n{said}",
            program.display(),
            done.status
        )));
    }
    parse(&std::fs::read_to_string(out)?)
}

/// Reads a profile.
///
/// # Errors
/// If it has no totals, or they are 0: then nothing was collected.
pub fn parse(profile: &str) -> io::Result<Counts> {
    let invalid =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("callgrind's profile {what}"));
    let mut counts = Counts::default();
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut callee = "";
    let mut events: Vec<&str> = Vec::new();
    for line in profile.lines() {
        if let Some(list) = line.strip_prefix("events:") {
            events = list.split_whitespace().collect();
        } else if let Some(totals) = line.strip_prefix("summary:").or_else(|| line.strip_prefix("totals:")) {
            for (event, total) in events.iter().zip(totals.split_whitespace()) {
                let total = total.parse().map_err(|_| invalid("has totals that are no numbers"))?;
                match *event {
                    "Ir" => counts.instructions = total,
                    "sysCount" => counts.system_calls = total,
                    _ => {}
                }
            }
        } else if let Some(called) = line.strip_prefix("cfn=") {
            callee = name(called, &mut names);
        } else if let Some(defined) = line.strip_prefix("fn=") {
            name(defined, &mut names);
        } else if let Some(calls) = line.strip_prefix("calls=") {
            // `malloc'2` is a recursion; the linker's symbols may have a version behind an `@`.
            let plain = callee.split(['\'', '@']).next().unwrap_or_default();
            if ALLOCATORS.contains(&plain) {
                let times = calls.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
                counts.allocations += times.ok_or_else(|| invalid("has calls that are no number"))?;
            }
        }
    }
    if counts.instructions == 0 { Err(invalid("is empty: nothing was collected")) } else { Ok(counts) }
}

/// Names are written once, behind a number in parentheses, and later only the number.
fn name<'p>(text: &'p str, names: &mut BTreeMap<&'p str, &'p str>) -> &'p str {
    match text.split_once(' ') {
        Some((number, name)) if number.starts_with('(') => {
            names.insert(number, name);
            name
        }
        _ => names.get(text).copied().unwrap_or(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "version: 1\nevents: Ir sysCount sysTime\nsummary: 4000 7 90\n\n\
        fl=(1) a.c\nfn=(10) malloc\n5 100\n\nfn=(11) run\n1 20\ncfn=(10)\ncalls=12 5\n1 100\n\
        cfi=(2) b.c\ncfn=(12) realloc\ncalls=3 9\n2 50\ncfn=(13) _int_malloc\ncalls=99 1\n2 1\n\
        fn=(14) other\ncfn=(10)\ncalls=1 5\n1 8\ncfn=(15) malloc_usable_size\ncalls=50 1\n1 1\ntotals: 4000 7 90\n";

    #[test]
    fn calls_of_the_allocator_are_added_up_over_all_callers() {
        let counts = Counts { instructions: 4000, allocations: 16, system_calls: 7 };
        assert_eq!(parse(PROFILE).unwrap(), counts);
    }

    #[test]
    fn a_profile_in_which_nothing_was_collected_is_an_error() {
        for profile in ["", "events: Ir\nsummary: 0\n", "events: Ir\n"] {
            assert!(parse(profile).unwrap_err().to_string().contains("nothing was collected"), "{profile:?}");
        }
        assert!(parse("events: Ir\nsummary: many\n").is_err());
    }
}
