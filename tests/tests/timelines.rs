//! What the sidecar does in one situation, told as its own log tells it. Each test directs a small
//! run so that one thing happens, and keeps the lines about it; the snapshot is what a reader of
//! the log would see. A change of behaviour shows here as a line that is new, gone or later.

mod sim_kit;

use std::time::Duration;

use lab::scenario::Scenario;
use lab::scenario::builder::{FaultSpec, HttpSpec, LoadSpec, ScenarioBuilder, ServiceSpec};
use lab::swarm::{SwarmOptions, run_scenario};
use sim_kit::ms;
use toml::{Table, toml};

/// The same in every test: one caller and the replicas of `orders`, and whatever a test adds.
fn mesh(method: &str, orders: ServiceSpec) -> ScenarioBuilder {
    Scenario::builder("directed")
        .warmup(Duration::ZERO)
        .duration(ms(2000))
        .service(ServiceSpec::new("web"))
        .service(orders)
        .load(LoadSpec::new("call", "web", "http://orders:8080/", 20).method(method).body(100))
}

/// Three replicas that take so long to answer, and are called in turn.
fn orders(work: Duration, policy: Table) -> ServiceSpec {
    let mut in_turn = toml! { balance.policy = "round_robin" };
    in_turn.extend(policy);
    ServiceSpec::new("orders").replicas(3).http(8080, HttpSpec::default().work(work)).policy(in_turn)
}

/// The lines of the caller's sidecar, the apps and the lab between two times (milliseconds) that
/// contain one of `words`.
fn told(scenario: &ScenarioBuilder, (from, to): (u64, u64), words: &[&str]) -> String {
    let scenario = scenario.build().unwrap_or_else(|errors| panic!("{errors:#?}"));
    let run = run_scenario(&scenario, scenario.seed, SwarmOptions::default()).expect("a run that ends");
    assert_eq!(run.violations, [], "no invariant is violated");
    let facts = &run.facts;
    assert!(
        facts.chaos.resets == 0.0 && facts.chaos.most == 0,
        "another seed: streams misbehave with this one"
    );
    let is_told = |process: &str| process == "web/sidecar" || process == "lab" || process.ends_with("/app");
    let lines = facts.log.iter().filter(|line| (from..to).contains(&(line.at_us / 1000)));
    let lines =
        lines.filter(|line| is_told(&line.process) && words.iter().any(|w| line.to_string().contains(w)));
    lines.map(|line| format!("{:>5} ms  {:<12}  {line}\n", line.at_us / 1000, line.process)).collect()
}

#[test]
fn a_request_that_breaks_off_is_made_again_elsewhere() {
    let kill = FaultSpec::kill("orders-1/app").at(ms(500)).restart(ms(100));
    insta::assert_snapshot!(told(
        &mesh("GET", orders(ms(100), Table::new())).fault(kill),
        (400, 750),
        &["applied", "reverted", "failed", "again", "nth=1", "refused"]
    ));
}

#[test]
fn what_is_not_idempotent_is_made_again_only_if_it_never_left() {
    let scenario = mesh("POST", orders(ms(100), Table::new()))
        .fault(FaultSpec::kill("orders-1/sidecar").at(ms(500)).restart(ms(300)))
        .fault(FaultSpec::kill("orders-2/app").at(ms(1200)).restart(ms(100)));
    insta::assert_snapshot!(told(
        &scenario,
        (400, 1500),
        &["applied", "reverted", "attempt failed", "again", "nth=1"]
    ));
}

#[test]
fn an_endpoint_is_ejected_probed_in_vain_and_let_in_again() {
    let fail = FaultSpec::app("orders-1/app", HttpSpec::default().fail(1.0));
    let policy = toml! {
        outlier_detection = { consecutive_failures = 2, base = "300ms", max = "600ms" }
        retry.on = ["5xx"]
    };
    insta::assert_snapshot!(told(
        &mesh("GET", orders(ms(10), policy)).fault(fail.at(ms(200)).lasts(ms(900))),
        (0, 2100),
        &["applied", "reverted", "ejected", "probing", "back in use", "again"]
    ));
}

#[test]
fn a_sidecar_that_drains_finishes_what_it_has_and_gets_nothing_new() {
    let drain = FaultSpec::kill("orders-1/sidecar").set("signal", "TERM").at(ms(500)).restart(ms(300));
    insta::assert_snapshot!(told(
        &mesh("POST", orders(ms(150), Table::new())).fault(drain),
        (420, 1000),
        &["applied", "reverted", "10.77.1.2", "orders-1", "failed"]
    ));
}

#[test]
fn a_machine_without_power_costs_an_attempt_and_is_probed_over_a_new_connection() {
    let policy = toml! {
        timeouts.per_try = "200ms"
        outlier_detection = { consecutive_failures = 2, base = "300ms", max = "600ms" }
    };
    let crash = FaultSpec::crash("orders-1").at(ms(300)).restart(ms(500));
    insta::assert_snapshot!(told(
        &mesh("GET", orders(ms(10), policy)).fault(crash),
        (200, 2100),
        &["applied", "reverted", "failed", "ejected", "probing", "back in use"]
    ));
}

#[test]
fn a_shared_connection_that_was_silent_for_a_whole_attempt_carries_no_other() {
    let policy = toml! {
        timeouts.per_try = "100ms"
        outlier_detection = { consecutive_failures = 0, success_rate = "0%" }
    };
    let crash = FaultSpec::crash("orders-1").at(ms(300)).restart(ms(50));
    insta::assert_snapshot!(told(
        &mesh("GET", orders(ms(10), policy).set("bridge", true)).fault(crash),
        (0, 1500),
        &["applied", "reverted", "attempt failed", "connected"]
    ));
}

#[test]
fn an_app_that_breaks_http_costs_its_callers_nothing_but_retries() {
    let policy = toml! {
        outlier_detection.consecutive_failures = 0
        retry.on = ["5xx"]
    };
    let malformed = FaultSpec::app("orders-1/app", HttpSpec::default().set("malformed", "100%"));
    insta::assert_snapshot!(told(
        &mesh("GET", orders(ms(10), policy)).fault(malformed.at(ms(400)).lasts(ms(600))),
        (300, 1200),
        &["applied", "reverted", "breaks HTTP", "attempt failed", "status=502", "trying again"]
    ));
}

#[test]
fn retries_end_with_their_budget() {
    let policy = toml! {
        outlier_detection.consecutive_failures = 0
        retry = { on = ["5xx"], attempts = 1 }
        retry_budget = { share = "10%", per_second = 0, reserve = 1 }
    };
    let fail = FaultSpec::app("orders", HttpSpec::default().fail(1.0));
    insta::assert_snapshot!(told(
        &mesh("GET", orders(ms(10), policy)).fault(fail.at(ms(500)).lasts(ms(500))),
        (450, 800),
        &["applied", "reverted", "again", "status=503"]
    ));
}

#[test]
fn endpoints_are_kept_while_their_registry_is_away() {
    let scenario = mesh("GET", orders(ms(10), Table::new()).set("registry", "registry"))
        .service(ServiceSpec::new("registry").registry(2379))
        .fault(FaultSpec::kill("registry/app").at(ms(300)).restart(ms(600)));
    insta::assert_snapshot!(told(
        &scenario,
        (0, 2100),
        &["applied", "reverted", "endpoint found", "endpoint gone", "endpoints"]
    ));
}
