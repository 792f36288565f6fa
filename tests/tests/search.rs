//! The search for metastable failures, at a few points of its map: see `lab::search`.

use lab::scenario;
use lab::search::{MeshOutcome, Search, SearchPoint, USUAL};

/// As the scenario has it: the defaults.
const OWN: SearchPoint = SearchPoint { retries: 0, timeout: 0, ejection: 0, load: 2 };

fn search() -> (Search, u64) {
    let scenario = scenario::parse("scenarios/metastable.toml", USUAL).expect("a scenario");
    (Search::new(&scenario, USUAL).expect("it has a load and a trigger"), scenario.seed)
}

#[test]
fn the_defaults_recover_at_every_load() {
    let (search, seed) = search();
    for load in 0..lab::search::LOADS.len() {
        let mesh_outcome =
            search.mesh_outcome(SearchPoint { load, ..OWN }, 1.0, seed).expect("a run that ends");
        assert!(
            matches!(mesh_outcome, MeshOutcome::Recovered(_)),
            "{:.0}/s: {mesh_outcome:?}",
            search.rate(load)
        );
    }
}

#[test]
fn an_attempt_that_is_given_up_while_all_are_busy_does_not_turn_the_balancer_against_its_endpoint() {
    let (search, seed) = search();
    for load in 0..lab::search::LOADS.len() {
        let off = SearchPoint { timeout: 2, ejection: 1, load, ..OWN };
        let mesh_outcome = search.mesh_outcome(off, 1.0, seed).expect("a run that ends");
        assert!(
            matches!(mesh_outcome, MeshOutcome::Recovered(_)),
            "{:.0}/s: {mesh_outcome:?}",
            search.rate(load)
        );
    }
}

#[test]
fn retries_without_a_budget_stay_down_and_a_smaller_trigger_is_enough() {
    let (search, seed) = search();
    let point = SearchPoint { retries: 1, timeout: 2, ..OWN };
    let mesh_outcome = search.mesh_outcome(point, 1.0, seed).expect("a run that ends");
    assert!(matches!(mesh_outcome, MeshOutcome::Stuck(_)), "{mesh_outcome:?}");
    let smallest_trigger = search.smallest_trigger(point, seed).expect("runs that end").expect("a trigger");
    assert!(smallest_trigger.share < 0.9, "{smallest_trigger:?}");
    // What is printed is a scenario of its own, and breaks.
    let scenario = scenario::parse("smallest", &smallest_trigger.text).expect("a scenario");
    let history = lab::simulate(&scenario, seed).expect("a run that ends");
    assert!(!history.passed());
}

#[test]
fn a_load_that_is_too_high_anyway_is_told_apart() {
    let (_, seed) = search();
    let text = USUAL.replace("rate = \"480/s\"", "rate = \"800/s\"");
    let scenario = scenario::parse("too much", &text).expect("a scenario");
    let search = Search::new(&scenario, &text).expect("it has a load and a trigger");
    assert_eq!(search.mesh_outcome(OWN, 1.0, seed).expect("a run that ends"), MeshOutcome::Overloaded);
}

#[test]
fn a_scenario_whose_fault_never_ends_is_refused() {
    let text =
        USUAL.replace("for = \"1500ms\"\n", "").replace("after = \"trigger.end\"", "after = \"trigger\"");
    let scenario = scenario::parse("for ever", &text).expect("a scenario");
    let why = Search::new(&scenario, &text).err().expect("a reason");
    assert!(why.contains("`trigger` does not end"), "{why}");
}
