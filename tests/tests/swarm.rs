//! Swarm runs, judged by invariants: see `lab::swarm`.
//!
//! That the invariants hold is one half. The other is that they can fail: every mutant of the proxy
//! must be found, and the runs must reach every coverage point.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use lab::scenario;
use lab::sim::{jobs, sweep};
use lab::swarm::{Drawn, SwarmOptions, coverage, run_scenario, run_schedule, shrink};
use proxy::mutant::Mutant;

/// Runs that are swept for violations and coverage points.
const RUNS: u64 = 500;

/// Runs within which a mutant must be found. In half of them there is mutual TLS, where some
/// mutants do no harm.
const WITHIN: u64 = 200;

/// The mutants of `proxy`, each with the seed from which on it is looked for: the first that found
/// it when this was written, so that one run mostly is enough. A few more are too rare for so few
/// runs, and have a run of their own in the corpus.
const MUTANTS: [(Mutant, u64); 51] = [
    (Mutant::OneRetryTooMany, 3),
    (Mutant::RepeatsWhatIsNotIdempotent, 1),
    (Mutant::RetriesOnCredit, 9),
    (Mutant::UncountedRetry, 1),
    (Mutant::ForgetsWhereItTried, 2),
    (Mutant::EjectsPastTheCap, 3),
    (Mutant::LetsTheEjectedBackEarly, 2),
    (Mutant::StaleSuccessRestores, 4),
    (Mutant::PicksTheEjected, 2),
    (Mutant::LeaksAnActiveRequest, 1),
    (Mutant::KnowsNoDeadline, 9),
    (Mutant::DrainsInNoTime, 2),
    (Mutant::AlwaysTheFirst, 0),
    (Mutant::OneRequestTooMany, 8),
    (Mutant::EjectsOneLate, 19),
    (Mutant::ChecksUntilOneFails, 8),
    (Mutant::KnowsNoAttemptLimit, 1),
    (Mutant::TunnelsUnasked, 61),
    (Mutant::IgnoresReloads, 88),
    (Mutant::UsesNothingAgain, 12),
    (Mutant::ReloadFillsTheBudget, 176),
    (Mutant::ChecksTakeTheirTime, 8),
    (Mutant::DrainsWithoutAWord, 12),
    (Mutant::ClosesAtOnce, 12),
    (Mutant::SniffsOnePortion, 3),
    (Mutant::DoesNotBackOff, 1),
    (Mutant::WaitsPastTheEnd, 18),
    (Mutant::HoldsTwoSlots, 8),
    (Mutant::LetsAnyCheckRestore, 8),
    (Mutant::DoesNotHurryInDoubt, 8),
    (Mutant::PassesOnTheWholeDeadline, 2),
    (Mutant::TimesAttemptsTogether, 1),
    (Mutant::AnythingEndsAProbe, 12),
    (Mutant::CountsHalfTheLatency, 0),
    (Mutant::FailuresEnterTheLatency, 68),
    (Mutant::CountsChecksNotInARow, 8),
    (Mutant::OneCheckMakesHealthy, 6),
    (Mutant::ReloadForgetsEndpoints, 5),
    (Mutant::ReloadForgetsConnections, 57),
    (Mutant::KeepsWhatIsHalfRead, 1),
    (Mutant::SharesOneWindow, 33),
    (Mutant::RepeatsNothingRefused, 32),
    (Mutant::TakesAResetForAnEnd, 21),
    (Mutant::FreesAStreamWithItsAnswer, 41),
    (Mutant::BindsWhereThereIsNoRoom, 0),
    (Mutant::AllowsBeforeItDenies, 3),
    (Mutant::AllowsWhatNobodyAllows, 1),
    (Mutant::ForgetsOpenConnections, 6),
    (Mutant::IgnoresNewBundles, 5),
    (Mutant::IgnoresRevocations, 5),
    (Mutant::TalksWithoutACertificate, 6),
];

#[test]
fn no_swarm_run_violates_an_invariant_and_together_they_reach_every_coverage_point() {
    let mut reached: BTreeMap<&str, u64> = coverage::ALL.iter().map(|s| (s.name, 0)).collect();
    let mut complaints = Vec::new();
    let run = |seed| match run_schedule(&Drawn::new(seed).schedule(), SwarmOptions::default()) {
        Ok(run) => {
            let seen = coverage::ALL.iter().filter(|point| point.is_in(&run.facts));
            (run.violations.iter().map(ToString::to_string).collect(), seen.map(|s| s.name).collect())
        }
        Err(failure) => (vec![failure.to_string()], Vec::new()),
    };
    sweep(0..RUNS, jobs(), run, |seed, (violations, seen): (Vec<String>, Vec<&str>)| {
        complaints.extend(violations.into_iter().map(|violation| format!("seed {seed}: {violation}")));
        seen.into_iter().for_each(|name| *reached.entry(name).or_default() += 1);
        ControlFlow::Continue(())
    });
    assert!(
        complaints.is_empty(),
        "{}\nshrink and replay: lab sim --faults swarm --replay SEED",
        complaints.join("\n")
    );
    let missed: Vec<_> = reached.iter().filter(|(_, runs)| **runs == 0).map(|(name, _)| name).collect();
    assert!(missed.is_empty(), "never reached in {RUNS} runs: {missed:?}");
}

#[test]
fn every_mutant_is_found() {
    let mut missed = Vec::new();
    for (mutant, from) in MUTANTS {
        let mut found = None;
        let run = |seed| {
            let options = SwarmOptions { mutant: Some(mutant) };
            match run_schedule(&Drawn::new(seed).schedule(), options) {
                Ok(run) => run.violations.first().map(ToString::to_string),
                Err(failure) => Some(failure.to_string()),
            }
        };
        sweep(from..from + WITHIN, jobs(), run, |seed, violation| match violation {
            None => ControlFlow::Continue(()),
            Some(violation) => {
                found = Some((seed, violation));
                ControlFlow::Break(())
            }
        });
        match found {
            Some((seed, violation)) => println!("{}: seed {seed}: {violation}", mutant.name()),
            None => missed.push(mutant.name()),
        }
    }
    assert!(missed.is_empty(), "not found within {WITHIN} runs: {missed:?}");
}

#[test]
fn no_run_that_violated_an_invariant_once_violates_one_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut runs = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a kept run");
        let scenario = scenario::parse(&path.display().to_string(), &text)
            .unwrap_or_else(|errors| panic!("{errors:#?}"));
        let run = run_scenario(&scenario, scenario.seed, SwarmOptions::default())
            .unwrap_or_else(|failure| panic!("{}: {failure}", path.display()));
        let violations: Vec<_> = run.violations.iter().map(ToString::to_string).collect();
        assert!(violations.is_empty(), "{}: {}", path.display(), violations.join("\n"));
        runs += 1;
        // Where a mutant takes the fix back, the run must fail again, or it proves nothing.
        if let Some(mutant) = text.lines().find_map(|line| line.strip_prefix("# With the mutant ")) {
            let name = mutant.split(' ').next().unwrap_or_default();
            let mutant = Mutant::named(name).unwrap_or_else(|| panic!("no mutant is called {name:?}"));
            let options = SwarmOptions { mutant: Some(mutant) };
            let run = run_scenario(&scenario, scenario.seed, options).expect("a run that ends");
            assert!(!run.violations.is_empty(), "{}: holds without its fix", path.display());
        }
    }
    assert!(runs > 0, "no run in {}", folder.display());
}

#[test]
fn one_seed_is_one_history_on_any_thread_and_after_any_other() {
    let history = |seed| {
        let run =
            run_schedule(&Drawn::new(seed).schedule(), SwarmOptions::default()).expect("a run that ends");
        let lines = run.facts.log.iter().map(|line| format!("{} {} {line}\n", line.at_us, line.process));
        lines.collect::<String>()
    };
    for seed in [3, 17, 201] {
        let first = history(seed);
        assert!(first.lines().count() > 100, "{first}");
        for other in [0, 5, 11] {
            // What has gone on in this process before must not matter: tokio counts its tasks
            // through it, for one.
            history(other);
            assert_eq!(history(seed), first, "seed {seed}");
            let elsewhere = std::thread::spawn(move || history(seed)).join().expect("the other thread");
            assert_eq!(elsewhere, first, "seed {seed} on another thread");
        }
    }
}

#[test]
fn one_seed_is_one_history_in_every_process() {
    let replay = || {
        let mut lab = Command::new(env!("CARGO_BIN_EXE_lab-under-test"));
        lab.args(["sim", "--faults", "swarm", "--replay", "17"]).output().expect("the lab runs")
    };
    let first = replay();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stdout));
    assert!(first.stdout.len() > 10_000);
    assert_eq!(replay().stdout, first.stdout);
}

#[test]
fn a_run_that_violates_an_invariant_is_shrunk_and_still_violates_it() {
    let options = SwarmOptions { mutant: Some(Mutant::UncountedRetry) };
    let before = Drawn::new(1);
    let large = before.schedule().scenario();
    let smallest = shrink(before, options).expect("the mutant is found");
    assert!(smallest.complaint.starts_with("metrics: "), "{}", smallest.complaint);
    let small = smallest.schedule.scenario();
    assert!(small.len() < large.len(), "{small}");
    let again = run_schedule(&smallest.schedule, options).expect("a run that ends");
    assert_eq!(again.violations[0].to_string(), smallest.complaint);
}

#[test]
fn the_command_that_is_printed_replays_the_run_that_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let lab = |words: &[&str]| {
        let mut lab = Command::new(env!("CARGO_BIN_EXE_lab-under-test"));
        let output = lab.args(words).current_dir(&folder).output().expect("the lab runs");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("words")
    };
    let shown =
        lab(&["sim", "--faults", "swarm", "--seeds", "100", "--mutant", "lets-the-ejected-back-early"]);
    let line = |text: &str, begins: &str| {
        let line =
            text.lines().find_map(|line| line.strip_prefix(begins)).unwrap_or_else(|| panic!("{text}"));
        line.to_owned()
    };
    let sentence = line(&shown, "FAILED: ");
    let endpoint = sentence.split(' ').find(|word| word.ends_with(":8080")).expect("it names an endpoint");
    let ejection = format!("endpoint ejected cluster=orders endpoint={endpoint}");
    assert!(shown.contains(&ejection), "the story leaves out what the sentence speaks of:\n{shown}");
    let command = line(&shown, "replay: lab ");
    let again = lab(&command.split(' ').collect::<Vec<_>>());
    assert_eq!(line(&again, "FAILED: "), sentence);
    let scenario =
        shown.split_once("[scenario]").expect("it is shown").1.split_once("\n\n  ").expect("a log").0;
    assert!(again.contains(scenario), "another run:\n{scenario}\n{again}");
    let told = shown.lines().filter(|line| line.contains(" s  "));
    for line in told {
        assert!(again.contains(line), "another history: {line}");
    }
}

#[test]
#[ignore = "ci/mutants runs it, for each change of the proxy that it tries"]
fn two_hundred_runs_violate_no_invariant() {
    let mut found = None;
    let run = |seed| match run_schedule(&Drawn::new(seed).schedule(), SwarmOptions::default()) {
        Ok(run) => run.violations.first().map(ToString::to_string),
        Err(failure) => Some(failure.to_string()),
    };
    sweep(0..200, jobs(), run, |seed, violation| match violation {
        None => ControlFlow::Continue(()),
        Some(violation) => {
            found = Some(format!("seed {seed}: {violation}"));
            ControlFlow::Break(())
        }
    });
    assert_eq!(found, None);
}
