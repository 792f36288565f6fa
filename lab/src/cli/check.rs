//! `lab check`

use std::path::PathBuf;
use std::process::ExitCode;

use super::{INVALID, PASSED, read};
use crate::readable::count;

/// Looks at every file, also after a wrong one.
pub(super) fn run(scenarios: &[PathBuf]) -> ExitCode {
    let mut code = PASSED;
    for path in scenarios {
        match read(path) {
            Ok(scenario) => {
                let plan = scenario.plan(scenario.sidecars()[0]);
                outln!(
                    "{}: ok: {}, {}, {}, {}",
                    path.display(),
                    count(plan.instances.len(), "instance"),
                    count(plan.loads.len(), "load"),
                    count(plan.timeline.len(), "fault"),
                    count(plan.expectations.len(), "expectation"),
                );
            }
            Err(_) => code = INVALID,
        }
    }
    ExitCode::from(code)
}
