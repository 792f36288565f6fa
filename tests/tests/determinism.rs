//! One seed is one history: the full trace of a run, every packet and process and the report, is
//! the same in a process that has run much else before, and in one that has run nothing.

mod sim_kit;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::history::{History, Keep, history};
use lab::plan::SidecarKind;
use lab::scenario::Scenario;
use sim_kit::*;

/// Every scenario that the simulator can run with such sidecars.
fn cases(kind: SidecarKind) -> Vec<(PathBuf, Scenario)> {
    let mut cases: Vec<_> = files().into_iter().map(|path| (path.clone(), read(&path))).collect();
    cases.retain(|(path, scenario)| supported(path, scenario, kind));
    assert!(!cases.is_empty(), "the simulator can run no scenario");
    cases
}

fn traced(scenario: &Scenario, kind: SidecarKind, seed: u64) -> History {
    let history = history(scenario, kind, seed, Keep { trace: true, ..Keep::default() })
        .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    assert!(history.trace.lines().len() > 1000, "the trace is there");
    history
}

/// # Panics
/// With the first line that differs, of both.
fn assert_same(what: &str, first: &str, second: &str) {
    if first == second {
        return;
    }
    let (mut a, mut b) = (first.lines(), second.lines());
    let mut number = 0;
    loop {
        number += 1;
        let (a, b) = (a.next(), b.next());
        if a != b || a.is_none() {
            let show = |line: Option<&str>| line.unwrap_or("(end)").chars().take(400).collect::<String>();
            panic!("{what}: line {number} differs\n- {}\n+ {}", show(a), show(b));
        }
    }
}

/// Moves everything of this process that counts up or is drawn at random and could leak into a
/// history: numbers of tasks and threads, the keys of hash maps, addresses on the heap.
#[allow(clippy::disallowed_methods, reason = "these tasks are the disturbance")]
fn disturb(rounds: usize) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for round in 0..rounds {
            let tasks: Vec<_> = (0..7).map(|_| tokio::spawn(async move { round })).collect();
            for task in tasks {
                assert_eq!(task.await.expect("the task ends"), round);
            }
        }
    });
    for thread in (0..3).map(|n| std::thread::spawn(move || n)) {
        thread.join().expect("the thread ends");
    }
    let maps: Vec<HashMap<usize, usize>> = (0..rounds).map(|n| HashMap::from([(n, n)])).collect();
    maps.iter().map(|map| vec![0; 1000 + 37 * map.len() * rounds]).collect()
}

#[test]
fn one_seed_gives_one_history_with_sidecars() {
    let cases = cases(SidecarKind::Ours);
    let has_authorities =
        |(_, scenario): &&(_, Scenario)| !scenario.plan(SidecarKind::Ours).authorities.is_empty();
    assert!(cases.iter().filter(has_authorities).count() >= 4, "too few with mutual TLS");
    assert_one_history_a_seed(cases, SidecarKind::Ours);
}

#[test]
fn one_seed_gives_one_history_without_sidecars() {
    assert_one_history_a_seed(cases(SidecarKind::None), SidecarKind::None);
}

/// Whatever the process did before, and in another process.
fn assert_one_history_a_seed(cases: Vec<(PathBuf, Scenario)>, kind: SidecarKind) {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, scenario) in cases {
        let what = format!("{} with {kind:?}", path.display());
        let seed = scenario.seed;
        // On this thread, one of several, of a process that has run other scenarios and seeds.
        let other = traced(&scenario, kind, seed + 1);
        let ballast = disturb(11);
        let first = traced(&scenario, kind, seed);
        drop(ballast);
        assert!(first.trace.first_difference(&other.trace).is_some(), "{what}: another seed changes nothing");
        // On the first thread of a process that has run nothing.
        let file = folder.path().join("trace");
        trace_of_process(&path, kind, seed, &file);
        let elsewhere = std::fs::read_to_string(&file).expect("a trace");
        assert_same(&what, &first.text(), &elsewhere);
    }
}

/// `lab sim FILE --from SEED --trace TO`
fn trace_of_process(path: &Path, kind: SidecarKind, seed: u64, to: &Path) {
    let kind = match kind {
        SidecarKind::Ours => "ours",
        SidecarKind::None => "none",
    };
    let output = Command::new(env!("CARGO_BIN_EXE_lab-under-test"))
        .arg("sim")
        .arg(path)
        .args(["--from", &seed.to_string(), "--sidecar", kind, "--trace"])
        .arg(to)
        .output()
        .expect("the lab runs");
    // 1 says that an expectation did not hold, which many do not without sidecars.
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "exit code {code:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[should_panic(expected = "x: line 2 differs\n- b\n+ c")]
fn a_difference_is_shown_with_its_line() {
    assert_same("x", "a\nb\n", "a\nc\n");
}
