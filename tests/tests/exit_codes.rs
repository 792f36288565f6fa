//! What `lab` tells scripts: one test for each exit code of `docs/exit-codes.md`, without root.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use tests::short_scenario as scenario;

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

const HTTP: &str = "{ http = {} }";
const GOOD: &str = "calls.errors == 0";
const BAD: &str = "calls.errors > 0";

/// A folder of scenarios.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().expect("a scratch folder"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(format!("{name}.toml"));
        std::fs::write(&path, text).expect("a scenario");
        path
    }

    fn passing(&self) -> PathBuf {
        self.write("passing", &scenario(HTTP, "100/s", GOOD))
    }

    fn failing(&self) -> PathBuf {
        self.write("failing", &scenario(HTTP, "100/s", BAD))
    }

    /// More requests than a generator may have under way: the testbed was not good enough.
    fn inconclusive(&self) -> PathBuf {
        let text = scenario("{ http = { work = \"5s\" } }", "25000/s", "calls.requests > 0");
        // With sidecars, their limits would spare the generator.
        self.write("inconclusive", &text.replace("warmup", "sidecar = \"none\"\nwarmup"))
    }

    /// What only the kernel can run.
    fn unsupported(&self) -> PathBuf {
        self.write("unsupported", &scenario("{ cmd = [\"sleep\", \"1\"] }", "100/s", GOOD))
    }
}

fn sim(scenarios: &[&PathBuf], args: &[&str]) -> Output {
    Command::new(EXE).arg("sim").args(scenarios).args(args).output().expect("the lab runs")
}

#[track_caller]
fn expect(output: &Output, code: i32, word: &str) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(word), "{said}");
}

#[test]
fn what_held_is_0() {
    expect(&sim(&[&Folder::new().passing()], &[]), 0, "PASSED");
}

#[test]
fn what_did_not_hold_is_1() {
    let folder = Folder::new();
    expect(&sim(&[&folder.failing()], &[]), 1, "FAILED");
    expect(&sim(&[&folder.failing()], &["--seeds", "2"]), 1, "FAILED");
}

#[test]
fn a_wrong_scenario_or_command_line_is_2() {
    let folder = Folder::new();
    let wrong = folder.write("wrong", "[scenario]\nname = \"no duration\"\n");
    expect(&sim(&[&wrong], &[]), 2, "duration");
    expect(&sim(&[&folder.0.path().join("none.toml")], &[]), 2, "cannot read");
    expect(&sim(&[&"/dev/zero".into()], &[]), 2, "larger than 64 MiB");
    let far = format!("[scenario]\nname = \"{}\" wrong\n", "a".repeat(70_000));
    expect(&sim(&[&folder.write("far", &far)], &[]), 2, "far.toml:2:");
    expect(&sim(&[&folder.write("deep", &"[".repeat(100_000))], &[]), 2, "deep.toml");
    expect(&sim(&[&folder.passing()], &["--sedes", "2"]), 2, "--seeds");
}

#[test]
fn what_cannot_be_run_or_written_is_3() {
    let folder = Folder::new();
    expect(&sim(&[&folder.unsupported()], &[]), 3, "the simulator has only the built-in apps");
    // A device that is always full.
    expect(&sim(&[&folder.passing()], &["--trace", "/dev/full"]), 3, "No space left");
}

/// A device that is always full.
fn full() -> File {
    File::options().write(true).open("/dev/full").expect("every Linux has it")
}

#[test]
fn a_mutant_that_no_seed_comes_to_is_4() {
    let folder = Folder::new();
    let kept = folder.0.path().to_str().expect("a path in text");
    let swarm =
        |mutant| sim(&[], &["--faults", "swarm", "--seeds", "2", "--corpus", kept, "--mutant", mutant]);
    expect(&swarm("nosuch"), 2, "nosuch");
    expect(&swarm("counts-from-before-the-window"), 4, "no seed came to where");
    assert_ne!(swarm("always-the-first").status.code(), Some(4));
}

#[test]
fn output_that_cannot_be_written_is_3_unless_something_worse_was_found() {
    let folder = Folder::new();
    let (good, bad) = (folder.passing(), folder.failing());
    let many = |it: &'static [&str]| [&["sim"], it].concat();
    for (args, scenario, code) in [
        (vec!["--help"], &good, 3),
        (vec!["--version"], &good, 3),
        (vec!["check"], &good, 3),
        (vec!["sim"], &good, 3),
        (many(&["--seeds", "2"]), &good, 3),
        (many(&["--faults", "swarm", "--seeds", "1"]), &good, 3),
        (vec!["sim"], &bad, 1),
    ] {
        let (unread, written) = std::io::pipe().unwrap();
        drop(unread);
        for out in [full().into(), Stdio::from(written)] {
            let child =
                Command::new(EXE).args(&args).arg(scenario).stdout(out).stderr(Stdio::piped()).spawn();
            let output = child.expect("the lab starts").wait_with_output().expect("the lab ends");
            expect(&output, code, "cannot write to standard output");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("panicked"), "{said}");
        }
        let ended = Command::new(EXE).args(&args).arg(scenario).stdout(Stdio::null()).stderr(full()).status();
        assert_ne!(ended.expect("the lab runs").code(), Some(101), "{args:?}");
    }
}

#[test]
fn a_testbed_that_was_not_good_enough_is_4() {
    expect(&sim(&[&Folder::new().inconclusive()], &[]), 4, "INCONCLUSIVE");
}

#[test]
fn of_several_a_failure_counts_before_all_else_that_ended_by_itself() {
    let folder = Folder::new();
    let (good, bad) = (folder.passing(), folder.failing());
    let (doubtful, unsupported) = (folder.inconclusive(), folder.unsupported());
    expect(&sim(&[&doubtful, &bad, &unsupported, &good], &[]), 1, "INCONCLUSIVE");
    expect(&sim(&[&doubtful, &unsupported, &good], &[]), 3, "CANNOT RUN");
    expect(&sim(&[&good, &doubtful, &good], &[]), 4, "INCONCLUSIVE");
}
