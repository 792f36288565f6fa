//! A built-in app as a process of its own, inside an instance's network namespace.

use std::io;
use std::process::ExitCode;

use proxy::world::{KernelNet, RngTree, SystemWall, World, raise_nofile};

use super::{AppSpec, RegistryData, serve};

/// Runs the app of `spec_json` (an [`AppSpec`] as JSON) on real sockets, on this
/// thread, until the process is ended from outside.
///
/// Ends with 1 and a message on standard error if the description makes no sense or a port is
/// taken.
pub fn run(spec_json: &str, seed: u64) -> ExitCode {
    match start(spec_json, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            errln!("app: {e}");
            ExitCode::FAILURE
        }
    }
}

fn start(spec_json: &str, seed: u64) -> io::Result<()> {
    let spec: AppSpec = serde_json::from_str(spec_json)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("not an app: {e}")))?;
    if let Err(e) = raise_nofile() {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Which choices race is the kernel's choice anyway.
    let rng = RngTree::new(seed).child(&spec.instance, 0);
    let world = World::new(KernelNet::default(), SystemWall, rng);
    tokio::task::LocalSet::new().block_on(&runtime, serve(world, spec, RegistryData::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_that_makes_no_sense_ends_with_an_error_that_says_so() {
        assert!(start("{}", 1).unwrap_err().to_string().starts_with("not an app: missing field `instance`"));
        let program = r#"{"instance": "x", "port": 80, "kind": {"cmd": ["nginx"]}}"#;
        assert!(start(program, 1).unwrap_err().to_string().contains("`nginx`"));
    }
}
