//! What callers notice of a replica that dies, hangs, is cut off or is asked to go: invariants of
//! the proxy, each for many seeds.

mod sim_kit;

use lab::run::Report;
use sim_kit::*;

const SEEDS: u64 = 5;

/// `web` cannot reach a replica for three seconds. What was under way waits until TCP sends it
/// again, so callers are patient.
const CUT: &str = r#"
    timeout = "8s"
    [[timeline]]
    name = "cut"
    at = "1s"
    for = "3s"
    partition = { between = ["web", "orders-1"] }
"#;

/// Callers see no other failures than these.
fn only(outcomes: &[&str]) -> impl Fn(&Report) -> Result<(), String> {
    move |report| {
        let errors = &report.loads[0].errors;
        let expected = errors.keys().all(|outcome| outcomes.contains(&&outcome[..]));
        if expected { Ok(()) } else { Err(format!("not only {outcomes:?}: {errors:?}")) }
    }
}

#[test]
fn a_replica_killed_hard_under_load_costs_no_caller_a_request() {
    // The whole replica, or only the app behind its sidecar, or only the sidecar before its app.
    for process in ["orders-1", "orders-1/app", "orders-1/sidecar"] {
        let rest = format!(
            r#"
            [[timeline]]
            name = "lose"
            at = "2s"
            kill = {{ process = "{process}", restart = "1s" }}
            [[expect]]
            that = ["calls.errors == 0", "calls.latency.p99 < 50ms", "web/sidecar.proxy_retries_total > 0"]
            [[expect]]
            name = "and it gets its share again"
            during = "6s..8s"
            that = ["orders-1/app.app_requests_total > 10"]
            "#
        );
        Story::http("a replica is killed hard", "200/s", "8s", &rest).holds(SEEDS);
    }
}

#[test]
fn a_replica_that_never_comes_back_costs_nothing_either() {
    let rest = r#"
        [[timeline]]
        at = "2s"
        kill = { process = "orders-1" }
        [[expect]]
        that = ["calls.errors == 0", "calls.latency.p99 < 50ms", "web/sidecar.proxy_ejections_total > 0"]
    "#;
    Story::http("a replica stays dead", "200/s", "8s", rest).holds(SEEDS);
}

#[test]
fn a_replica_that_fails_at_times_is_avoided_although_the_others_had_a_slow_moment() {
    // Their latency is remembered for long, and beside it the failing one looks quick.
    let rest = r#"
        [[timeline]]
        at = "1900ms"
        pause = { process = "orders-0/app" }
        for = "30ms"
        [[timeline]]
        at = "2100ms"
        pause = { process = "orders-2/app" }
        for = "30ms"
        [[timeline]]
        name = "failing"
        at = "2s"
        for = "5s"
        app = { process = "orders-1/app", fail = "30%", status = 503 }
        [[expect]]
        that = ["calls.errors == 0", "web/sidecar.proxy_retries_total < 100"]
    "#;
    Story::http("a replica fails at times", "300/s", "8s", rest).holds(SEEDS);
}

#[test]
fn a_sidecar_that_is_asked_to_end_drains_without_an_error() {
    let rest = r#"
        [[timeline]]
        at = "2s"
        kill = { process = "orders-1/sidecar", signal = "TERM", restart = "2s" }
        [[expect]]
        that = ["calls.errors == 0", "calls.latency.p99 < 50ms"]
    "#;
    Story::http("a sidecar drains", "200/s", "8s", rest).holds(SEEDS);
}

#[test]
fn with_every_replica_dead_requests_fail_soon_with_a_status_and_succeed_again_when_one_is_back() {
    // Before the second retry there is a wait of up to 75 ms, which is three times the base
    // interval.
    let rest = r#"
        [[timeline]]
        name = "all"
        at = "2s"
        kill = { process = "orders", restart = "2s" }
        [[expect]]
        during = "2100ms..3900ms"
        that = ["calls.success == 0%", "calls.latency.p50 < 50ms", "calls.latency.p99 < 85ms"]
        [[expect]]
        after = "all.end"
        within = "2s"
        hold = "1s"
        that = ["calls.errors == 0", "calls.latency.p99 < 50ms"]
    "#;
    Story::http("every replica is dead", "200/s", "8s", rest).check(SEEDS, only(&["502", "503"]));
}

#[test]
fn a_paused_replica_costs_only_the_requests_it_holds_and_nothing_once_it_goes_on() {
    // Nothing tells a replica that thinks for long from one that hangs, and there is no time limit
    // for an attempt: who waits there waits until the caller gives up (1 s). But with one request
    // in flight the replica already looks twice as expensive as the others, so the next ones go
    // elsewhere; and what was given up counts as the second that it waited, so from then on only
    // one request in 192 goes there to see.
    let rest = r#"
        [[timeline]]
        name = "hang"
        at = "2s"
        for = "2s"
        pause = { process = "orders-1" }
        [[expect]]
        during = "hang"
        that = ["calls.errors <= 12", "calls.latency.p50 < 50ms"]
        [[expect]]
        during = "5s..8s"
        that = ["calls.errors == 0"]
        [[expect]]
        fault = "hang"
        that = ["stopped == 2"]
    "#;
    Story::http("a replica is paused", "200/s", "8s", rest).check(SEEDS, only(&["timeout"]));
}

#[test]
fn a_replica_that_is_cut_off_costs_patient_callers_nothing_and_works_again_once_it_was_tried_again() {
    // The answer to what was under way, after three seconds or more, counts as the replica's
    // latency, and fading alone would take 10 s * ln(600) = 64 s from there to 5 ms. But after 128
    // lost comparisons, two in three requests, it is tried again: 4 s at this rate.
    let expected = r#"
        [[expect]]
        that = ["calls.errors == 0"]
        [[expect]]
        during = "cut"
        that = ["calls.latency.p90 < 50ms"]
        [[expect]]
        fault = "cut"
        that = ["lost_packets > 0"]
        [[expect]]
        after = "cut.end"
        within = "12s"
        hold = "2s"
        that = ["orders-1/app.app_requests_total > 20"]
    "#;
    Story::http("a replica is cut off", "50/s", "20s", &(CUT.to_owned() + expected)).holds(4);
}

#[test]
fn a_replica_that_is_cut_off_under_heavy_load_is_avoided_after_a_few_connect_time_outs() {
    // A connection that did not open counts as a second of latency, so too few requests go there to
    // make it a run of failures.
    let expected = r#"
        [[expect]]
        that = [
            "calls.errors == 0",
            "web/sidecar.proxy_errors_total{kind=\"connect_timeout\"} >= 1",
            "web/sidecar.proxy_errors_total{kind=\"connect_timeout\"} <= 20",
        ]
    "#;
    Story::http("a replica is cut off under load", "1500/s", "6s", &(CUT.to_owned() + expected)).holds(4);
}
