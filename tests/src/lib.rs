//! Tests across both crates live in `tests/`; this library holds what they share.

pub mod left;
pub mod server;
pub mod testbed;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

/// A scenario of the workspace's `scenarios` folder.
pub fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios").join(format!("{name}.toml"))
}

/// A scratch folder that every user may enter: sidecars and apps run as other users.
///
/// # Panics
/// If there cannot be one.
pub fn open_folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), all).expect("leave for other users to enter");
    dir
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

/// A scenario that ends soon; `app` is the app of `orders`, `rate` the load's, `that` what is
/// expected.
pub fn short_scenario(app: &str, rate: &str, that: &str) -> String {
    format!(
        r#"
[scenario]
name = "short"
warmup = "0s"
duration = "500ms"
[service.web]
[service.orders]
port = 8080
protocol = "http"
app = {app}
[load.calls]
from = "web"
url = "http://orders:8080/"
rate = "{rate}"
timeout = "10s"
[[expect]]
that = ["{that}"]
"#
    )
}
