//! Tests across both crates live in `tests/`; this library holds what they share.

pub mod left;
pub mod server;
pub mod testbed;

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// A scenario of the workspace's `scenarios` folder.
pub fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios").join(format!("{name}.toml"))
}

/// Leave to use the kernel, or `None` if this process may not. Tests that measure must not run side
/// by side, so only one holds it at a time.
///
/// # Panics
/// If kernel tests are required (`LAB_REQUIRE_KERNEL=1`) and cannot run: in CI nothing is skipped
/// silently.
pub fn kernel() -> Option<Flock<File>> {
    if let Err(why) = lab::kernel::doctor::require() {
        assert!(std::env::var_os("LAB_REQUIRE_KERNEL").is_none(), "kernel tests are required: {why}");
        eprintln!("skipped: {why}");
        return None;
    }
    let path = std::env::temp_dir().join("lab-kernel-tests.lock");
    let file = File::create(path).expect("a lock file");
    Some(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("the lock"))
}
