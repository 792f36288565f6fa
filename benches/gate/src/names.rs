//! The names of all measures, and patterns of them.

use lab::glob::glob;

use crate::failure::Failure;
use crate::{full, quick};

/// What is counted in kernels. Which kernels there are is known once they are built.
const OF_KERNELS: [&str; 2] = ["instructions/kernel", "allocations/kernel"];

/// All measures that `pattern` describes, with one kernel that stands for those that it may.
pub fn described(pattern: &str) -> Vec<String> {
    let fixed = quick::names_of_sidecars().into_iter().chain(full::names());
    fixed.filter(|name| glob(pattern, name)).chain(of_kernels(pattern)).collect()
}

/// Whether `pattern` may describe a measure of kernels.
fn is_of_kernels(pattern: &str) -> bool {
    !of_kernels(pattern).is_empty()
}

/// Whether `pattern` can describe nothing else.
pub fn is_of_kernels_only(pattern: &str) -> bool {
    described(pattern) == of_kernels(pattern)
}

fn of_kernels(pattern: &str) -> Vec<String> {
    let Some((what, kernel)) = pattern.rsplit_once('/') else { return Vec::new() };
    // A star in the name of the example: what covers it covers all that the pattern means.
    let is_named = !kernel.is_empty();
    let of = OF_KERNELS.iter().filter(|of| is_named && glob(what, of));
    of.map(|of| format!("{of}/{kernel}")).collect()
}

/// The measures of the form that need a threshold.
pub fn of_form(is_full: bool, counts: bool) -> Vec<String> {
    let counted = if counts { quick::names_of_sidecars() } else { Vec::new() };
    counted.into_iter().chain(if is_full { full::names() } else { Vec::new() }).collect()
}

/// Checks what was asked for with `--measures`.
///
/// # Errors
/// Names each pattern that describes nothing that is measured in this form.
pub fn check(patterns: &[String], is_full: bool, counts: bool) -> Result<(), Failure> {
    let mistakes: Vec<String> = patterns
        .iter()
        .filter_map(|pattern| {
            let any = |names: Vec<String>| names.iter().any(|name| glob(pattern, name));
            let is_counted = any(quick::names_of_sidecars()) || is_of_kernels(pattern);
            let is_timed = any(full::names());
            match (is_counted && counts, is_timed && is_full) {
                (false, false) if is_timed => Some(format!("`{pattern}` takes --full")),
                (false, false) if is_counted => {
                    Some(format!("`{pattern}` is counted, which --no-counts leaves out"))
                }
                (false, false) => Some(format!("no measure is called `{pattern}`")),
                _ => None,
            }
        })
        .collect();
    if mistakes.is_empty() { Ok(()) } else { Err(Failure::invalid(mistakes.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_must_describe_something_that_is_measured() {
        let check = |patterns: &[&str], is_full, counts| {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            check(&patterns, is_full, counts).err().map(|failure| (failure.code, failure.words))
        };
        let wrong = |words: &str| Some((2, words.to_owned()));
        assert_eq!(check(&[], false, true), None);
        assert_eq!(check(&["*/http1/*", "instructions/kernel/x"], false, true), None);
        assert_eq!(check(&["p99/*"], true, false), None);
        assert_eq!(check(&["p99/*"], false, true), wrong("`p99/*` takes --full"));
        let none = "no measure is called `nope`\nno measure is called ``";
        assert_eq!(check(&["nope", "cpu/*/*", ""], true, true), wrong(none));
        let left_out = "`system-calls/*/*` is counted, which --no-counts leaves out";
        assert_eq!(check(&["system-calls/*/*"], true, false), wrong(left_out));
    }
}
