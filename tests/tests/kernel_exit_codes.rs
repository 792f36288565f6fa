//! Exit codes of the kernel world (`docs/exit-codes.md`), by the real binary.

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::kernel::cleanup::REGISTRY;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tests::short_scenario;
use tests::testbed::{Testbed, WITHIN, events, number, text};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

fn scenario(app: &str) -> String {
    short_scenario(app, "50/s", "calls.requests > 0")
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
    let Some(testbed) = Testbed::new(EXE) else { return };
    let scenario = testbed.write("full", &scenario("{ http = {} }").replace("500ms", "2s"));
    let out = testbed.out();
    let _small = Small::mount(&out, 1 << 20);
    let lab = testbed.start(&scenario, &[]);
    lab.under_load();
    std::fs::write(out.join("filler"), vec![0; 2 << 20]).expect_err("a full disk");
    let ended = lab.end(WITHIN);
    ended.expect(3);
    assert!(ended.said.contains("the results could not be written: No space left"), "{}", ended.said);
}

#[test]
fn a_mesh_that_does_not_come_up_is_3() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let scenario = testbed.write("exits", &scenario("{ cmd = [\"false\"] }"));
    let ended = testbed.run(&scenario, &[]);
    ended.expect(3);
    assert!(ended.said.contains("orders/app ended before it was ready: exit status: 1"), "{}", ended.said);
}

#[test]
fn a_program_that_is_missing_is_3_and_is_called_missing() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    // A folder that only root may enter makes the kernel say "permission denied" of what is
    // nowhere.
    let closed = testbed.dir().join("closed");
    std::fs::create_dir(&closed).expect("a folder");
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("closed");
    let path = format!("{}:{}", closed.display(), std::env::var("PATH").unwrap_or_default());
    for program in ["no-such-program", "/no/such/program"] {
        let scenario = testbed.write("missing", &scenario(&format!("{{ cmd = [\"{program}\"] }}")));
        let output =
            Command::new(EXE).env("PATH", &path).arg(&scenario).arg("--out").arg(testbed.out()).output();
        let output = output.expect("the lab runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(&format!("`{program}` was not found")), "{said}");
    }
}

#[test]
fn what_is_interrupted_is_130() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let text = scenario("{ http = {} }").replace("500ms", "60s");
    let scenario = testbed.write("long", &text);
    let lab = testbed.start(&scenario, &[]);
    lab.under_load();
    lab.signal(nix::sys::signal::Signal::SIGINT);
    lab.end(WITHIN).expect(130);
}

/// A run of a lab that is dead, which left a group with limits somewhere.
fn dead_run(testbed: &Testbed, name: &str) -> (PathBuf, PathBuf) {
    let run = Path::new(REGISTRY).join(name);
    std::fs::create_dir_all(&run).expect("a run");
    let group = testbed.dir().join(format!("lab-{name}.web.sidecar"));
    std::fs::create_dir(&group).expect("a group");
    std::fs::write(run.join("limited"), format!("{}\n", group.display())).expect("a note");
    (run, group)
}

#[test]
fn clean_removes_groups_wherever_they_are_noted_and_says_by_3_that_it_could_not() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let (run, group) = dead_run(&testbed, "test-clean");
    // Something is in it that a group would not lose by itself.
    std::fs::write(group.join("kept"), "").expect("a file");
    let clean = || Command::new(EXE).arg("clean").output().expect("the lab runs");
    let output = clean();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("could not clear away"), "{said}");
    std::fs::remove_file(group.join("kept")).expect("it is there");
    assert_eq!(clean().status.code(), Some(0));
    assert!(!run.exists() && !group.exists());
}

#[test]
fn a_bridge_that_is_asked_for_and_a_fault_of_links_are_2_before_anything_runs() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let cut =
        "\n[[timeline]]\nat = \"100ms\"\nfor = \"100ms\"\npartition = { between = [\"web\", \"orders\"] }\n";
    let scenario = testbed.write("cut", &(scenario("{ http = {} }") + cut));
    let ended = testbed.run(&scenario, &["--link", "bridge"]);
    ended.expect(2);
    assert!(ended.said.contains("a bridge cannot") && ended.runs.is_empty(), "{}", ended.said);
}

#[test]
fn all_files_of_a_run_have_the_time_of_day_and_events_the_clock_of_the_results() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let kill = "\n[[timeline]]\nname = \"end\"\nat = \"200ms\"\nkill = { process = \"orders/app\" }\n";
    let scenario = testbed.write("clock", &(scenario("{ http = {} }") + kill));
    let ended = testbed.run_conclusive(&scenario, &[]);
    ended.expect(0);
    let (results, run) = (ended.results(0), &ended.runs[0]);
    let started = text(&results["started"]).to_owned();
    let fault =
        events(run).into_iter().find(|e| e["kind"] == "fault" && e["subject"] == "end").expect("a fault");
    let start_us = number(&results["faults"][0]["start_us"]);
    // Noted by two parts of the lab, one after the other.
    assert!((number(&fault["at_us"]) - start_us).abs() < 50_000.0, "{fault} {start_us}");
    let up = events(run).into_iter().find(|e| e["kind"] == "up").expect("an event");
    assert!(
        number(&up["at_us"]) < 0.0 && *text(&up["time"]) < *started && *started < *text(&fault["time"]),
        "{up} {fault}"
    );
    let log = std::fs::read_to_string(run.join("logs/web.sidecar.log")).expect("a log");
    let said = log.lines().next().expect("it says something").split(' ').next().expect("a time");
    assert_eq!((said.len(), &said[..10]), (started.len(), &started[..10]), "{log}");
}

#[test]
fn a_ci_system_gets_what_came_of_all_runs() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let scenario = testbed.write("summed-up", &scenario("{ http = {} }"));
    let [junit, markdown] = ["all.xml", "all.md"].map(|name| testbed.dir().join(name));
    let args = ["--sidecar", "ours,none", "--junit"];
    let args = [&args[..], &[junit.to_str().unwrap(), "--markdown", markdown.to_str().unwrap()]].concat();
    testbed.run_conclusive(&scenario, &args).expect(0);
    let (junit, markdown) =
        (std::fs::read_to_string(junit).unwrap(), std::fs::read_to_string(markdown).unwrap());
    assert!(junit.contains("tests=\"5\" skipped=\"0\" failures=\"0\" errors=\"0\""), "{junit}");
    assert_eq!(junit.matches("<testsuite ").count(), 2, "{junit}");
    assert_eq!(markdown.matches("### ✅ passed").count(), 2, "{markdown}");

    let nowhere = testbed.dir().join("none").join("all.xml");
    let ended = testbed.run_conclusive(&scenario, &["--junit", nowhere.to_str().unwrap()]);
    ended.expect(3);
    assert!(ended.said.contains("none/all.xml: No such file"), "{}", ended.said);
}
