//! `lab sim` and `lab check` as people use them, by the real binary.

mod sim_kit;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use lab::history::{Keep, history};
use lab::plan::SidecarKind;
use lab::scenario::Scenario;
use lab::scenario::builder::{ExpectSpec, HttpSpec, LoadSpec, ScenarioBuilder, ServiceSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sim_kit::*;
use tempfile::TempDir;
use tests::testbed::wait_until;

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

/// A service that fails this share of its requests.
fn luck(share: f64) -> ScenarioBuilder {
    Scenario::builder("luck")
        .warmup(ms(0))
        .duration(ms(500))
        .sidecar(SidecarKind::None)
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").http(8080, HttpSpec::default().fail(share)))
        .load(LoadSpec::new("calls", "web", "http://orders:8080/", 50))
        .expect(ExpectSpec::that(&["calls.errors == 0"]))
}

/// Enough that some seeds pass and some do not.
const SOME: f64 = 0.03;

fn written(scenario: &ScenarioBuilder) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("story.toml");
    std::fs::write(&path, scenario.to_toml()).expect("a scenario");
    (folder, path)
}

fn lab(args: &[&str], path: &PathBuf) -> Output {
    Command::new(EXE).args(args).arg(path).output().expect("the lab runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_sweep_that_keeps_going_says_how_many_seeds_did_not_pass() {
    let scenario = luck(SOME).build().expect("the scenario is right");
    let passes = |seed| {
        history(&scenario, SidecarKind::None, seed, Keep::default()).expect("a run that ends").passed()
    };
    let failing: Vec<u64> = (1..=12).filter(|seed| !passes(*seed)).collect();
    assert!((2..12).contains(&failing.len()), "no luck in {failing:?}");
    let (_folder, path) = written(&luck(SOME));
    let all = lab(&["sim", "--seeds", "12", "--keep-going"], &path);
    let words = said(&all);
    assert_eq!(all.status.code(), Some(1), "{words}");
    assert!(words.contains(&format!("\n{} of 12 seeds did not pass\n", failing.len())), "{words}");
    for seed in &failing {
        assert!(words.contains(&format!("\n  seed {seed:<8} FAILED")), "{words}");
    }
    let first = said(&lab(&["sim", "--seeds", "12"], &path));
    assert!(first.contains(&format!("\n1 of {} seeds did not pass\n", failing[0])), "{first}");
    assert!(first.contains(&format!("--from {}", failing[0])), "{first}");
}

#[test]
fn a_sweep_that_is_interrupted_tells_what_was_done() {
    let (_folder, path) = written(&luck(0.0));
    let mut lab = Command::new(EXE);
    lab.args(["sim", "--seeds", "1000000", "--jobs", "1"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = lab.spawn().expect("the lab starts");
    // Until it listens, the signal would end it at once.
    let status = format!("/proc/{}/status", child.id());
    let listens = || {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
        caught & (1 << (Signal::SIGINT as i32 - 1)) != 0
    };
    wait_until("the lab listens", listens);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("a signal");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let words: String = lines.map(|line| line + "\n").collect();
    assert_eq!(child.wait().expect("an end").code(), Some(130), "{words}");
    assert!(
        words.contains(" requests\nINTERRUPTED after ") && words.contains(" of 1000000 seeds"),
        "{words}"
    );
}

#[test]
fn a_command_that_is_mistyped_is_no_scenario() {
    let output = Command::new(EXE).arg("chek").output().expect("the lab runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("did you mean `lab check`?"), "{}", said(&output));
}

#[test]
fn one_load_is_one_load() {
    let (_folder, path) = written(&luck(SOME));
    assert!(said(&lab(&["check"], &path)).contains("ok: 2 instances, 1 load, 0 faults, 1 expectation\n"));
}

#[test]
fn totals_keep_their_labels_and_there_is_no_sum_of_buckets() {
    let scenario = luck(SOME).sidecar(SidecarKind::Ours).build().expect("the scenario is right");
    let report = history(&scenario, SidecarKind::Ours, 1, Keep::default())
        .expect("a run that ends")
        .result
        .expect("a report");
    let totals = &report.totals["web/sidecar"];
    assert!(totals.keys().all(|name| !name.ends_with("_bucket")), "{totals:#?}");
    let all = totals["proxy_requests_total"];
    let parts = totals.iter().filter(|(name, _)| name.starts_with("proxy_requests_total{"));
    assert_eq!(parts.map(|(_, total)| total).sum::<f64>(), all);
    assert!(totals.keys().any(|name| name.contains("_bucket{") && name.contains("le=")), "{totals:#?}");
}
