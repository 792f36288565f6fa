//! Retries when everything fails: they must not add to an outage.

mod sim_kit;

use sim_kit::*;

const SEEDS: u64 = 10;

/// Every replica's app hangs for two of eight seconds under 200 requests a second, and an attempt
/// is given 100 ms. So 400 requests fail over and over for as long as anybody repeats them.
/// `budget` is the cluster's.
fn storm(budget: &str, expected: &str) -> Story {
    let rest = format!(
        r#"
        [service.orders.policy]
        timeouts = {{ per_try = "100ms" }}
        {budget}
        [[timeline]]
        name = "hang"
        at = "2s"
        for = "2s"
        pause = {{ process = "orders/app" }}
        [[expect]]
        during = "hang"
        that = {expected}
        [[expect]]
        fault = "hang"
        that = ["stopped == 3"]
        [[expect]]
        after = "hang.end"
        within = "3s"
        hold = "1s"
        that = ["calls.errors == 0", "calls.latency.p99 < 50ms"]
        "#
    );
    Story::http("every replica hangs", "200/s", "8s", &rest)
}

#[test]
fn an_outage_of_every_replica_is_not_made_worse_by_retries() {
    // A fifth of 400 is 80; a full reserve and what trickles in are 22.
    let expected = r#"["web/sidecar.proxy_retries_total > 0", "web/sidecar.proxy_retries_total <= 80"]"#;
    storm("", expected).holds(SEEDS);
}

#[test]
fn without_a_budget_the_same_outage_is_a_storm() {
    let budget = r#"retry_budget = { share = "100%", per_second = 100000, reserve = 100000 }"#;
    // Three times what the budget lets through.
    storm(budget, r#"["web/sidecar.proxy_retries_total > 240"]"#).holds(1);
}
