//! At most once: what may have arrived is repeated only if repeating it is harmless.
//!
//! Sidecars are killed while requests are in their hands; the apps live on, so their counters are
//! whole. What the apps counted beyond what the caller sent was sent twice.

mod sim_kit;

use lab::run::Report;
use sim_kit::*;

const SEEDS: u64 = 20;

/// Every orders sidecar dies once in the middle of its work, and once the way to a replica is cut.
fn deadly(name: &'static str, method: &str, expect: &str) -> Story {
    let text = format!(
        r#"
        [scenario]
        name = "{name}"
        warmup = "0s"
        duration = "6s"
        [service.web]
        [service.orders]
        replicas = 3
        port = 8080
        protocol = "http"
        app = {{ http = {{ work = "20ms" }} }}
        [load.calls]
        from = "web"
        url = "http://orders:8080/pay"
        rate = "300/s"
        timeout = "5s"
        method = "{method}"
        [[timeline]]
        at = "1s"
        kill = {{ process = "orders-0/sidecar", restart = "500ms" }}
        [[timeline]]
        at = "2s"
        kill = {{ process = "orders-1/sidecar", restart = "500ms" }}
        [[timeline]]
        at = "3s"
        kill = {{ process = "orders-2/sidecar", restart = "500ms" }}
        [[timeline]]
        at = "4s"
        for = "700ms"
        partition = {{ between = ["web", "orders-1"] }}
        [[expect]]
        that = [{expect}]
        "#
    );
    Story::new(name, text)
}

/// What the caller sent, what it got an answer to, and what the apps saw.
fn counts(report: &Report) -> (f64, f64, f64) {
    let load = &report.loads[0];
    (load.requests as f64, load.ok as f64, total(report, "/app", "app_requests_total"))
}

#[test]
fn a_post_that_may_have_arrived_is_never_sent_again() {
    let mut failed = 0.0;
    deadly("payments", "POST", r#""calls.throughput > 250/s""#).check(SEEDS, |report| {
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
    deadly("queries", "GET", r#""calls.errors == 0""#).check(SEEDS, |report| {
        let (sent, ok, seen) = counts(report);
        again += seen - sent;
        if ok == sent && seen >= sent {
            return Ok(());
        }
        Err(format!("of {sent} requests {ok} succeeded, and the apps saw {seen}"))
    });
    assert!(again > 0.0, "no kill ever met a request, so this shows nothing");
}
