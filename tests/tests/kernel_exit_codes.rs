//! Exit codes of the kernel world (`docs/exit-codes.md`), by the real binary.

use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tests::bench::{Bench, WITHIN};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

fn scenario(app: &str) -> String {
    format!(
        r#"
[scenario]
name = "short"
warmup = "0s"
duration = "500ms"
[service.web]
[service.orders]
port = 8080
app = {app}
[load.calls]
from = "web"
url = "http://orders:8080/"
rate = "50/s"
[[expect]]
that = ["calls.requests > 0"]
"#
    )
}

/// A file system of few bytes, gone with this.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path, bytes: usize) -> Self {
        std::fs::create_dir_all(at).expect("a folder");
        let size = format!("size={bytes},mode=755");
        mount(Some("small"), at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).expect("a mount");
        Small(at)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn results_that_cannot_be_written_are_3_and_not_passed() {
    let Some(bench) = Bench::new(EXE) else { return };
    let scenario = bench.write("full", &scenario("{ http = {} }").replace("500ms", "2s"));
    let out = bench.out();
    let _small = Small::mount(&out, 1 << 20);
    let lab = bench.start(&scenario, &[]);
    lab.under_load();
    std::fs::write(out.join("filler"), vec![0; 2 << 20]).expect_err("a full disk");
    let ended = lab.end(WITHIN);
    ended.expect(3);
    assert!(ended.said.contains("the results could not be written: No space left"), "{}", ended.said);
}

#[test]
fn a_mesh_that_does_not_come_up_is_3() {
    let Some(bench) = Bench::new(EXE) else { return };
    let scenario = bench.write("exits", &scenario("{ cmd = [\"false\"] }"));
    let ended = bench.run(&scenario, &[]);
    ended.expect(3);
    assert!(ended.said.contains("orders/app ended before it was ready: exit status: 1"), "{}", ended.said);
}

#[test]
fn a_program_that_is_missing_is_3_and_is_called_missing() {
    let Some(bench) = Bench::new(EXE) else { return };
    // A folder that only root may enter makes the kernel say "permission denied" of what is nowhere.
    let closed = bench.dir().join("closed");
    std::fs::create_dir(&closed).expect("a folder");
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("closed");
    let path = format!("{}:{}", closed.display(), std::env::var("PATH").unwrap_or_default());
    for program in ["no-such-program", "/no/such/program"] {
        let scenario = bench.write("missing", &scenario(&format!("{{ cmd = [\"{program}\"] }}")));
        let output =
            Command::new(EXE).env("PATH", &path).arg(&scenario).arg("--out").arg(bench.out()).output();
        let output = output.expect("the lab runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(&format!("`{program}` was not found")), "{said}");
    }
}

#[test]
fn what_is_interrupted_is_130() {
    let Some(bench) = Bench::new(EXE) else { return };
    let text = scenario("{ http = {} }").replace("500ms", "60s");
    let scenario = bench.write("long", &text);
    let lab = bench.start(&scenario, &[]);
    lab.under_load();
    lab.signal(nix::sys::signal::Signal::SIGINT);
    lab.end(WITHIN).expect(130);
}
