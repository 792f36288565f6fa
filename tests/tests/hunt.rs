//! The hunt for failures that outlast their cause, at three points of its map: see `lab::hunt`.

use lab::hunt::{Course, Hunt, Point, USUAL};
use lab::scenario;

/// As the scenario has it: the defaults.
const OWN: Point = Point { retries: 0, timeout: 0, ejection: 0, load: 2 };

fn hunt() -> (Hunt, u64) {
    let scenario = scenario::parse("scenarios/metastable.toml", USUAL).expect("a scenario");
    (Hunt::new(&scenario, USUAL).expect("it has a load and a trigger"), scenario.seed)
}

#[test]
fn the_defaults_recover_at_every_load() {
    let (hunt, seed) = hunt();
    for load in 0..lab::hunt::LOADS.len() {
        let course = hunt.course(Point { load, ..OWN }, 1.0, seed).expect("a run that ends");
        assert!(matches!(course, Course::Recovered(_)), "{:.0}/s: {course:?}", hunt.rate(load));
    }
}

#[test]
fn a_try_that_is_given_up_while_all_are_busy_does_not_turn_the_balancer_against_its_endpoint() {
    let (hunt, seed) = hunt();
    for load in 0..lab::hunt::LOADS.len() {
        let off = Point { timeout: 2, ejection: 1, load, ..OWN };
        let course = hunt.course(off, 1.0, seed).expect("a run that ends");
        assert!(matches!(course, Course::Recovered(_)), "{:.0}/s: {course:?}", hunt.rate(load));
    }
}

#[test]
fn retries_without_a_budget_stay_down_and_a_smaller_trigger_is_enough() {
    let (hunt, seed) = hunt();
    let point = Point { retries: 1, timeout: 2, ..OWN };
    let course = hunt.course(point, 1.0, seed).expect("a run that ends");
    assert!(matches!(course, Course::Stuck(_)), "{course:?}");
    let smallest = hunt.smallest(point, seed).expect("runs that end").expect("a trigger");
    assert!(smallest.share < 0.9, "{smallest:?}");
    // What is printed is a scenario of its own, and breaks.
    let scenario = scenario::parse("smallest", &smallest.text).expect("a scenario");
    let history =
        lab::history::history(&scenario, scenario.sidecars()[0], seed, false).expect("a run that ends");
    assert!(!history.passed());
}

#[test]
fn a_load_that_is_too_high_anyway_is_told_apart() {
    let (_, seed) = hunt();
    let text = USUAL.replace("rate = \"480/s\"", "rate = \"800/s\"");
    let scenario = scenario::parse("too much", &text).expect("a scenario");
    let hunt = Hunt::new(&scenario, &text).expect("it has a load and a trigger");
    assert_eq!(hunt.course(OWN, 1.0, seed).expect("a run that ends"), Course::Overloaded);
}

#[test]
fn a_scenario_whose_fault_never_ends_is_refused() {
    let text =
        USUAL.replace("for = \"1500ms\"\n", "").replace("after = \"trigger.end\"", "after = \"trigger\"");
    let scenario = scenario::parse("for ever", &text).expect("a scenario");
    let why = Hunt::new(&scenario, &text).err().expect("a reason");
    assert!(why.contains("`trigger` does not end"), "{why}");
}
