//! The gate as scripts start it: what it says, and the code that it ends with. It measures nothing
//! here, because that takes root, valgrind and minutes; `ci/prove` does.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const SETTINGS: &str = "[[threshold]]\nmeasures = ['*/*', '*/*/*']\nchange = 0.01\nreason = 'r'\n";

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_regression"));
    program.env_remove("REGRESSION_BASE").env_remove("CARGO_TARGET_DIR").env_remove("CARGO");
    program
}

fn regression(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the gate starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A clone with some commits, each of which is a branch too. None has a sidecar, so all have the
/// same.
struct Clone(TempDir);

impl Clone {
    fn new() -> Clone {
        let clone = Clone(tempfile::tempdir().unwrap());
        clone.git(&["init", "--quiet", "--initial-branch=main"]);
        clone.write(".gitignore", "/target\n");
        clone.commit("before");
        clone.write("ci/regression.toml", SETTINGS);
        clone.commit("first");
        clone.write("README", "second");
        clone.commit("help");
        clone
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.path()).args(["-c", "user.name=a", "-c", "user.email=a@b.example"]);
        let done = git.args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", said(&done));
    }

    fn commit(&self, title: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "-m", title]);
        self.git(&["branch", title]);
    }

    /// The gate in this clone, which is the current folder.
    fn gate(&self) -> Command {
        let mut gate = program();
        gate.arg("--clone").arg(self.path()).current_dir(self.path());
        gate
    }

    fn expect(&self, code: i32, arguments: &[&str], words: &str) {
        self.expect_of(self.gate().args(arguments), code, words);
    }

    fn expect_of(&self, gate: &mut Command, code: i32, words: &str) {
        let done = gate.output().unwrap();
        assert_eq!(done.status.code(), Some(code), "{gate:?}: {}", said(&done));
        assert!(said(&done).contains(words), "{words:?} is not what {gate:?} says: {}", said(&done));
    }
}

#[test]
fn help_lists_the_exit_codes() {
    let help = regression(&["--help"]);
    assert!(help.status.success());
    for words in ["1    a regression", "4    not enough evidence", "--full"] {
        assert!(said(&help).contains(words), "{}", said(&help));
    }
    assert!(!said(&help).contains("__app"), "roles are nobody's business: {}", said(&help));
}

#[test]
fn a_mistake_in_the_arguments_ends_with_2() {
    let clone = Clone::new();
    for (arguments, words) in [
        (&["no-such-revision"][..], "git knows no commit `no-such-revision`"),
        (&[""], "git knows no commit ``"),
        (&["--no-counts"], "--full"),
        (&["--ful"], "--full"),
        (&["HEAD", "HEAD", "HEAD"], "unexpected argument 'HEAD'"),
        (&["--measures", "p99/*"], "`p99/*` takes --full"),
        (&["--measures", "nope,*/http1/*"], "no measure is called `nope`"),
        (&["before", "first"], "`before` is from before the gate"),
    ] {
        clone.expect(2, arguments, words);
    }
    let mut gate = clone.gate();
    clone.expect_of(gate.env("REGRESSION_BASE", "gone"), 2, "REGRESSION_BASE: git knows no commit `gone`");
}

#[test]
fn revisions_with_the_same_sidecar_pass_and_the_files_are_written() {
    let clone = Clone::new();
    clone.expect(0, &["first", "help"], "the sidecars of both are the same program");
    clone.expect(0, &["before", "help"], "the first with a gate");
    clone.expect(0, &["before", "before"], "the sidecars of both are the same program");
    let files = ["--json", "out.json", "--markdown=out.md", "--html", "out.html"];
    let mut gate = clone.gate();
    // Beside an option with its value as a word of its own.
    clone.expect_of(gate.args(files).env("REGRESSION_BASE", "first"), 0, "base  ");
    for file in ["out.json", "out.md", "out.html"] {
        assert!(fs::metadata(clone.path().join(file)).unwrap().len() > 0, "{file}");
    }
    let read = fs::read_to_string(clone.path().join("out.json")).unwrap();
    assert!(read.contains("\"title\": \"first\""), "{read}");
}

#[test]
fn what_this_machine_cannot_do_ends_with_3_and_says_what() {
    let clone = Clone::new();
    let args = ["first", "help", "--json", "no/such/out.json"];
    clone.expect(3, &args, "cannot write no/such/out.json: ");
    let mut gate = clone.gate();
    clone.expect_of(gate.env("PATH", "/nowhere"), 3, "git is not installed");
    let none = tempfile::tempdir().unwrap();
    let mut gate = program();
    clone.expect_of(gate.arg("--clone").arg(none.path()), 3, "is no clone of the project");
    let shallow = none.path().join("shallow");
    let url = format!("file://{}", clone.path().display());
    clone.git(&["clone", "--quiet", "--depth=1", &url, shallow.to_str().unwrap()]);
    let mut gate = program();
    clone.expect_of(gate.arg("--clone").arg(shallow), 3, "this clone is shallow: fetch its history");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let done = clone.gate().args(["first", "help"]).stdout(full).output().unwrap();
    assert_eq!(done.status.code(), Some(3));
    assert!(said(&done).contains("cannot write to standard output"), "{}", said(&done));
}

#[test]
fn mistakes_in_the_settings_end_with_2_and_say_where() {
    let clone = Clone::new();
    clone.write("ci/regression.toml", &SETTINGS.replace("0.01", "-1"));
    clone.expect(2, &[], "ci/regression.toml of the working tree is wrong:\nline 3: `change = -1`");
    fs::remove_file(clone.path().join("ci/regression.toml")).unwrap();
    clone.expect(2, &["first"], "ci/regression.toml is missing");
    clone.write("ci/regression.toml", &SETTINGS.replace("'*/*', ", ""));
    clone.expect(2, &["--full", "first"], "no threshold for `p99/open-loop`");
}

#[test]
fn a_sidecar_that_does_not_compile_is_told_with_what_cargo_says() {
    let clone = Clone::new();
    clone.write("Cargo.toml", "[workspace]\nmembers = [\"proxy\"]\nresolver = \"3\"\n");
    clone.write("proxy/Cargo.toml", "[package]\nname = \"proxy\"\nedition = \"2024\"\n");
    clone.write("proxy/src/main.rs", "fn main() { nonsense }\n");
    if !nix::unistd::geteuid().is_root() || Command::new("valgrind").arg("--version").output().is_err() {
        clone.expect(3, &["first"], "");
        return;
    }
    clone.write("benches/kernels/src/cases.rs", "    Kernel { name: \"detect\", prepare: detect },\n");
    let nope = "no measure is called `instructions/kernel/nope`: there is no such kernel";
    clone.expect(2, &["first", "--measures", "instructions/kernel/nope"], nope);
    fs::remove_dir_all(clone.path().join("benches")).unwrap();
    clone.expect(2, &["first"], "the working tree does not compile. cargo says:\nerror");
    let mut gate = clone.gate();
    clone.expect_of(gate.arg("first").env("CARGO", "no-such-cargo"), 3, "no-such-cargo is not installed");
}

/// A build that takes for ever, of which the first line is in `begun` once it has begun.
fn endless(clone: &Clone) -> Command {
    let cargo = clone.path().join("target/cargo");
    clone.write("target/cargo", "#!/bin/sh\necho $$ > \"$BEGUN\"\nmktemp > /dev/null\nsleep 600 & wait\n");
    fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut gate = clone.gate();
    gate.args(["first", "help", "--even-if-the-same"]).env("CARGO", cargo);
    gate.env("TMPDIR", clone.path().join("target/tmp")).stderr(Stdio::piped());
    gate
}

/// What is in `file`, as soon as there is something.
fn wait_for(file: &Path) -> String {
    let mut wait = Command::new("sh");
    wait.args(["-c", "for i in $(seq 300); do [ -s \"$1\" ] && exit 0; sleep 0.1; done; exit 1", "-"]);
    assert!(wait.arg(file).status().unwrap().success(), "{} is empty", file.display());
    fs::read_to_string(file).unwrap()
}

#[test]
fn signals_end_all_that_was_started_and_leave_no_temporary_files() {
    if !nix::unistd::geteuid().is_root() || Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: builds begin only where they could be measured");
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let clone = Clone::new();
        let temporary = clone.path().join("target/tmp");
        fs::create_dir_all(&temporary).unwrap();
        let begun = clone.path().join("target/begun");
        let gate = endless(&clone).env("BEGUN", &begun).spawn().unwrap();
        let cargo = wait_for(&begun);
        // Another one waits for its turn.
        let other = clone.path().join("target/other");
        let said_other = File::create(&other).unwrap();
        let mut waiting = endless(&clone);
        let waiting = waiting.env("BEGUN", &begun).stderr(said_other).spawn().unwrap();
        assert!(wait_for(&other).contains("waiting: another comparison runs in this clone"));
        for gate in [waiting, gate] {
            kill(Pid::from_raw(gate.id().cast_signed()), signal).unwrap();
            assert_eq!(gate.wait_with_output().unwrap().status.code(), Some(130));
        }
        assert!(!Path::new("/proc").join(cargo.trim()).exists(), "cargo is an orphan");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    }
}

#[test]
fn the_scripts_beside_the_gate_end_with_2_for_a_mistake_in_their_arguments() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci");
    for (script, arguments, code, words) in [
        ("plant", &["--help"][..], 0, "ci/plant KIND [AMOUNT] [REVISION]"),
        ("plant", &[], 2, "required"),
        ("plant", &["spin", "x"], 2, "'x' is no whole number"),
        ("plant", &["spin", "0"], 2, "'0' is no whole number"),
        ("plant", &["spin", "-5"], 2, "'-5' is no whole number"),
        ("plant", &["spin", "1e23"], 2, "'1e23' is no whole number"),
        ("plant", &["spin", "10", "no-such"], 2, "git knows no commit 'no-such'"),
        ("plant", &["spin", "10", "HEAD", "x"], 2, "one AMOUNT and one REVISION"),
        ("plant", &["nothing", "3", "HEAD"], 2, "takes no AMOUNT"),
        ("prove", &["--help"], 0, "same-cpu"),
        ("prove", &["2-percent", "x"], 2, "'x' is no whole number"),
        ("prove", &["2-percent", "0"], 2, "'0' is no whole number"),
        ("prove", &["2-percent", "-3"], 2, "'-3' is no whole number"),
        ("prove", &["2-percent", "1", "no-such"], 2, "git knows no commit 'no-such'"),
        ("prove", &["2-percent", "1", "HEAD", "x"], 2, "unrecognized arguments: x"),
    ] {
        let mut command = Command::new(scripts.join(script));
        let done = command.args(arguments).current_dir("/").output().unwrap();
        assert_eq!(done.status.code(), Some(code), "{script} {arguments:?}: {}", said(&done));
        assert!(said(&done).contains(words), "{script} {arguments:?}: {}", said(&done));
    }
}

#[test]
fn the_script_in_front_needs_no_right_and_no_program_to_help() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/regression");
    let mut help = Command::new("/bin/bash");
    // Neither valgrind nor apt-get nor sudo.
    let programs = tempfile::tempdir().unwrap();
    for name in ["dirname", "id", "env", "stat"] {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
        let found = found.into_iter().find(|path| path.exists()).expect("every system has it");
        std::os::unix::fs::symlink(found, programs.path().join(name)).unwrap();
    }
    help.arg(&script).env("REGRESSION", env!("CARGO_BIN_EXE_regression")).current_dir("/");
    let done = help.arg("--help").env("PATH", programs.path()).output().unwrap();
    assert!(done.status.success() && said(&done).contains("Exit codes:"), "{}", said(&done));
    if nix::unistd::geteuid().is_root() {
        let mut missing = Command::new("/bin/bash");
        missing.arg(script).env("REGRESSION", env!("CARGO_BIN_EXE_regression"));
        let done = missing.env("PATH", programs.path()).output().unwrap();
        assert_eq!(done.status.code(), Some(3));
        assert!(said(&done).contains("and so is apt-get"), "{}", said(&done));
    }
}
