//! Random bad days, judged by laws: see `lab::swarm`.
//!
//! That the laws hold is one half. The other is that they can fail: mistakes planted in the proxy must be found, and the
//! days must be bad enough to bring about every situation that the laws are about.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use lab::sim::sweep;
use lab::swarm::{Drawn, Options, scheduled, situation};

/// Days that are swept for the laws and the situations.
const DAYS: u64 = 600;

/// Days within which a planted mistake must be found.
const WITHIN: u64 = 100;

/// Mistakes that `proxy` carries for these tests.
const MUTANTS: [&str; 13] = [
    "one-retry-too-many",
    "repeats-what-is-not-idempotent",
    "retries-on-credit",
    "uncounted-retry",
    "forgets-where-it-tried",
    "ejects-past-the-cap",
    "lets-the-ejected-back-early",
    "stale-success-restores",
    "picks-the-ejected",
    "leaks-a-request-in-hand",
    "knows-no-deadline",
    "drains-in-no-time",
    "sinkhole",
];

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

#[test]
fn no_bad_day_breaks_a_law_and_together_they_reach_every_situation() {
    let mut reached: BTreeMap<&str, u64> = situation::ALL.iter().map(|s| (s.name, 0)).collect();
    let mut complaints = Vec::new();
    let run = |seed| match scheduled(&Drawn::new(seed).schedule(), Options::default()) {
        Ok(day) => {
            let seen = situation::ALL.iter().filter(|situation| situation.is_in(&day.facts));
            (day.violations.iter().map(ToString::to_string).collect(), seen.map(|s| s.name).collect())
        }
        Err(failure) => (vec![failure.to_string()], Vec::new()),
    };
    sweep(0..DAYS, jobs(), run, |seed, (violations, seen): (Vec<String>, Vec<&str>)| {
        complaints.extend(violations.into_iter().map(|violation| format!("seed {seed}: {violation}")));
        seen.into_iter().for_each(|name| *reached.entry(name).or_default() += 1);
        ControlFlow::Continue(())
    });
    assert!(
        complaints.is_empty(),
        "{}\nshrink and replay: lab sim --faults swarm --replay SEED",
        complaints.join("\n")
    );
    let missed: Vec<_> = reached.iter().filter(|(_, days)| **days == 0).map(|(name, _)| name).collect();
    assert!(missed.is_empty(), "never reached in {DAYS} days: {missed:?}");
}

#[test]
fn every_planted_mistake_is_found() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        let mut found = None;
        let run = |seed| {
            let options = Options { mutant: Some(mutant) };
            match scheduled(&Drawn::new(seed).schedule(), options) {
                Ok(day) => day.violations.first().map(ToString::to_string),
                Err(failure) => Some(failure.to_string()),
            }
        };
        sweep(0..WITHIN, jobs(), run, |seed, violation| match violation {
            None => ControlFlow::Continue(()),
            Some(violation) => {
                found = Some((seed, violation));
                ControlFlow::Break(())
            }
        });
        match found {
            Some((seed, violation)) => println!("{mutant}: seed {seed}: {violation}"),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found within {WITHIN} days: {missed:?}");
}
