//! What the sidecar does in one situation, told as its own log tells it. Each test directs a small
//! run so that one thing happens, and keeps the lines about it; the snapshot is what a reader of
//! the log would see. A change of behaviour shows here as a line that is new, gone or later.

use lab::scenario;
use lab::swarm::{SwarmOptions, run_scenario};

/// The same in every test: one caller, three replicas, and whatever a test adds to `orders` and the
/// timeline.
fn mesh(seed: u64, work: &str, method: &str, policy: &str, timeline: &str) -> String {
    format!(
        "[scenario]\nname = \"directed\"\nseed = {seed}\nwarmup = \"0s\"\nduration = \"2s\"\n\
         [service.web]\n\
         [service.orders]\nreplicas = 3\nport = 8080\nprotocol = \"http\"\n\
         app = {{ http = {{ work = \"{work}\" }} }}\npolicy = {{ balance.policy = \"round_robin\", {policy} }}\n\
         [load.call]\nfrom = \"web\"\nurl = \"http://orders:8080/\"\nmethod = \"{method}\"\nbody = 100\nrate = \"20/s\"\n\
         {timeline}"
    )
}

/// The lines of the caller's sidecar, the apps and the lab between two times (milliseconds) that
/// contain one of `words`.
fn told(text: &str, (from, to): (u64, u64), words: &[&str]) -> String {
    let scenario = scenario::parse("directed", text).unwrap_or_else(|errors| panic!("{errors:#?}"));
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
    let kill = "[[timeline]]\nat = \"500ms\"\nkill = { process = \"orders-1/app\", restart = \"100ms\" }\n";
    let text = mesh(1, "100ms", "GET", "", kill);
    insta::assert_snapshot!(told(
        &text,
        (400, 750),
        &["applied", "reverted", "failed", "again", "nth=1", "refused"]
    ));
}

#[test]
fn what_is_not_idempotent_is_made_again_only_if_it_never_left() {
    let kills = "[[timeline]]\nat = \"500ms\"\nkill = { process = \"orders-1/sidecar\", restart = \"300ms\" }\n\
                  [[timeline]]\nat = \"1200ms\"\nkill = { process = \"orders-2/app\", restart = \"100ms\" }\n";
    let text = mesh(1, "100ms", "POST", "", kills);
    insta::assert_snapshot!(told(
        &text,
        (400, 1500),
        &["applied", "reverted", "attempt failed", "again", "nth=1"]
    ));
}

#[test]
fn an_endpoint_is_ejected_probed_in_vain_and_let_in_again() {
    let fail = "[[timeline]]\nat = \"200ms\"\nfor = \"900ms\"\napp = { process = \"orders-1/app\", fail = \"100%\" }\n";
    let policy = "outlier_detection = { consecutive_failures = 2, base = \"300ms\", max = \"600ms\" }, retry.on = [\"5xx\"]";
    let text = mesh(1, "10ms", "GET", policy, fail);
    insta::assert_snapshot!(told(
        &text,
        (0, 2100),
        &["applied", "reverted", "ejected", "probing", "back in use", "again"]
    ));
}

#[test]
fn a_sidecar_that_drains_finishes_what_it_has_and_gets_nothing_new() {
    let drain = "[[timeline]]\nat = \"500ms\"\nkill = { process = \"orders-1/sidecar\", signal = \"TERM\", restart = \"300ms\" }\n";
    let text = mesh(1, "150ms", "POST", "", drain);
    insta::assert_snapshot!(told(
        &text,
        (420, 1000),
        &["applied", "reverted", "10.77.1.2", "orders-1", "failed"]
    ));
}

#[test]
fn a_machine_without_power_costs_an_attempt_and_is_probed_over_a_new_connection() {
    let crash = "[[timeline]]\nat = \"300ms\"\ncrash = { instance = \"orders-1\", restart = \"500ms\" }\n";
    let policy = "timeouts.per_try = \"200ms\", outlier_detection = { consecutive_failures = 2, base = \"300ms\", max = \"600ms\" }";
    let text = mesh(1, "10ms", "GET", policy, crash);
    insta::assert_snapshot!(told(
        &text,
        (200, 2100),
        &["applied", "reverted", "failed", "ejected", "probing", "back in use"]
    ));
}

#[test]
fn a_shared_connection_that_was_silent_for_a_whole_attempt_carries_no_other() {
    let crash = "[[timeline]]\nat = \"300ms\"\ncrash = { instance = \"orders-1\", restart = \"50ms\" }\n";
    let policy = "timeouts.per_try = \"100ms\", outlier_detection = { consecutive_failures = 0, success_rate = \"0%\" }";
    let text = mesh(1, "10ms", "GET", policy, crash).replace("app = {", "bridge = true\napp = {");
    insta::assert_snapshot!(told(&text, (0, 1500), &["applied", "reverted", "attempt failed", "connected"]));
}

#[test]
fn an_app_that_breaks_http_costs_its_callers_nothing_but_retries() {
    let spoilt = "[[timeline]]\nat = \"400ms\"\nfor = \"600ms\"\napp = { process = \"orders-1/app\", malformed = \"100%\" }\n";
    let policy = "outlier_detection.consecutive_failures = 0, retry.on = [\"5xx\"]";
    let text = mesh(1, "10ms", "GET", policy, spoilt);
    insta::assert_snapshot!(told(
        &text,
        (300, 1200),
        &["applied", "reverted", "breaks HTTP", "attempt failed", "status=502", "trying again"]
    ));
}

#[test]
fn retries_end_with_their_budget() {
    let fail =
        "[[timeline]]\nat = \"500ms\"\nfor = \"500ms\"\napp = { process = \"orders\", fail = \"100%\" }\n";
    let policy = "outlier_detection.consecutive_failures = 0, retry = { on = [\"5xx\"], attempts = 1 }, \
                  retry_budget = { share = \"10%\", per_second = 0, reserve = 1 }";
    let text = mesh(1, "10ms", "GET", policy, fail);
    insta::assert_snapshot!(told(&text, (450, 800), &["applied", "reverted", "again", "status=503"]));
}

#[test]
fn endpoints_are_kept_while_their_registry_is_away() {
    let text = mesh(
        1,
        "10ms",
        "GET",
        "",
        "[service.registry]\nport = 2379\nprotocol = \"tcp\"\napp = { registry = {} }\n\
         [[timeline]]\nat = \"300ms\"\nkill = { process = \"registry/app\", restart = \"600ms\" }\n",
    );
    let text = text.replace("[load.call]", "registry = \"registry\"\n[load.call]");
    insta::assert_snapshot!(told(
        &text,
        (0, 2100),
        &["applied", "reverted", "endpoint found", "endpoint gone", "endpoints"]
    ));
}
