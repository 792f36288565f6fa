//! At most once: what may have arrived is repeated only if repeating it is harmless.
//!
//! Sidecars are killed while requests are in their hands; the apps live on, so their counters are
//! whole. What the apps counted beyond what the caller sent was sent twice.

mod sim_kit;

use std::time::Duration;

use lab::run::Report;
use lab::scenario::Scenario;
use lab::scenario::builder::{ExpectSpec, FaultSpec, HttpSpec, LoadSpec, ServiceSpec};
use sim_kit::*;

const SEEDS: u64 = 20;

/// Every orders sidecar dies once in the middle of its work, and once the way to a replica is cut.
fn deadly(name: &str, method: &str, expected: &str) -> Story {
    let kill = |process, second: u64| FaultSpec::kill(process).at(ms(second * 1000)).restart(ms(500));
    let calls = LoadSpec::new("calls", "web", "http://orders:8080/pay", 300);
    let scenario = Scenario::builder(name)
        .warmup(Duration::ZERO)
        .duration(ms(6000))
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").replicas(3).http(8080, HttpSpec::default().work(ms(20))))
        .load(calls.method(method).timeout(ms(5000)))
        .fault(kill("orders-0/sidecar", 1))
        .fault(kill("orders-1/sidecar", 2))
        .fault(kill("orders-2/sidecar", 3))
        .fault(FaultSpec::partition(&["web", "orders-1"]).at(ms(4000)).lasts(ms(700)))
        .expect(ExpectSpec::that(&[expected]));
    Story::of(&scenario)
}

/// What the caller sent, what it got an answer to, and what the apps saw.
fn counts(report: &Report) -> (f64, f64, f64) {
    let load = &report.loads[0];
    (load.requests as f64, load.ok as f64, total(report, "/app", "app_requests_total"))
}

#[test]
fn a_post_that_may_have_arrived_is_never_sent_again() {
    let mut failed = 0.0;
    deadly("payments", "POST", "calls.throughput > 250/s").check(SEEDS, |report| {
        let (sent, ok, seen) = counts(report);
        failed += sent - ok;
        if ok <= seen && seen <= sent {
            return Ok(());
        }
        Err(format!("of {sent} requests {ok} succeeded, and the apps saw {seen}"))
    });
    assert!(failed > 0.0, "no kill ever met a request");
}

#[test]
fn a_get_that_may_have_arrived_is_sent_again_and_succeeds() {
    let mut again = 0.0;
    deadly("queries", "GET", "calls.errors == 0").check(SEEDS, |report| {
        let (sent, ok, seen) = counts(report);
        again += seen - sent;
        if ok == sent && seen >= sent {
            return Ok(());
        }
        Err(format!("of {sent} requests {ok} succeeded, and the apps saw {seen}"))
    });
    assert!(again > 0.0, "no kill ever met a request, so this shows nothing");
}
