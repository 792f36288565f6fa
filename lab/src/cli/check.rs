//! `lab check`

use std::path::PathBuf;
use std::process::ExitCode;

use super::{INVALID, PASSED, read};

/// Looks at every file, also after a wrong one.
pub(super) fn run(scenarios: &[PathBuf]) -> ExitCode {
    let mut code = PASSED;
    for path in scenarios {
        match read(path) {
            Ok(scenario) => {
                let plan = scenario.plan(scenario.sidecars()[0]);
                println!(
                    "{}: ok: {} instances, {} loads, {} faults, {} expectations",
                    path.display(),
                    plan.instances.len(),
                    plan.loads.len(),
                    plan.timeline.len(),
                    plan.expectations.len(),
                );
            }
            Err(_) => code = INVALID,
        }
    }
    ExitCode::from(code)
}
