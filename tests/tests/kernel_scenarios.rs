//! The first scenarios on the real kernel, by the real binary: what they promise is true, and their
//! results prove it.

use std::path::Path;

use serde_json::Value;
use tests::scenario;
use tests::testbed::{Ended, Testbed, load, named, number, total};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

/// The cells of the one row of the table of costs: the load, then p50 with, without, cost, and p99
/// with, without, cost.
fn cost(ended: &Ended) -> Vec<&str> {
    let (_, table) =
        ended.said.split_once("the sidecars' cost\n").unwrap_or_else(|| panic!("{}", ended.said));
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head.join(" "), "load p50 with without cost p99 with without cost");
    // A value and its unit are a single space apart, columns at least two.
    lines.next().unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// A latency of the results in the words of a report.
fn shown(results: &Value, percentile: &str) -> String {
    lab::report::terminal::time(number(&load(results, "checkout")[percentile]))
}

/// The conservation check: every count that a run keeps of its requests and connections, each from
/// its own counters.
fn assert_accounts_agree(results: &Value) {
    let conservation = named(&results["expectations"], "the counts agree");
    assert_eq!(conservation["passed"], true, "{conservation:#}");
    let sent = number(&conservation["conditions"][0]["actual"]);
    assert!(
        sent >= number(&load(results, "checkout")["requests"]),
        "the warm-up counts too: {conservation:#}"
    );

    let orders = |role: &str, counter: &str| -> f64 {
        (0..3).map(|i| total(results, &format!("orders-{i}/{role}"), counter)).sum()
    };
    let retries = total(results, "web/sidecar", "proxy_retries_total");
    assert_eq!(total(results, "web/sidecar", "proxy_requests_total"), sent);
    assert_eq!(orders("sidecar", "proxy_requests_total"), sent + retries);
    assert_eq!(orders("app", "app_requests_total"), sent + retries);

    let redirected = total(results, "fabric", "iptables_redirected_total");
    let carried = total(results, "web/sidecar", "proxy_connections_total")
        + orders("sidecar", "proxy_connections_total");
    assert_eq!(redirected, carried);
    // The self-test dials the service in both families, and each replica takes at least one
    // connection.
    assert!(redirected >= 2.0 + 1.0 + 3.0, "{redirected}");
}

#[test]
fn every_request_of_hello_crosses_both_sidecars_and_their_cost_is_told() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let ended = testbed.run_conclusive(&scenario("hello"), &["--sidecar", "ours,none"]);
    ended.expect(0);
    let (ours, none) = (ended.results(0), ended.results(1));
    assert_eq!((&ours["plan"]["sidecar"], &none["plan"]["sidecar"]), (&"ours".into(), &"none".into()));
    assert_accounts_agree(&ours);

    let cells = cost(&ended);
    assert_eq!(cells.len(), 7, "{cells:?}");
    assert_eq!(cells[0], "checkout");
    assert_eq!(cells[1..3], [shown(&ours, "p50_us"), shown(&none, "p50_us")]);
    assert_eq!(cells[4..6], [shown(&ours, "p99_us"), shown(&none, "p99_us")]);
    // Two proxies in the way cost something, and less than a hundredth of a second.
    let difference = number(&load(&ours, "checkout")["p50_us"]) - number(&load(&none, "checkout")["p50_us"]);
    assert!(difference > 0.0 && difference < 10_000.0, "{difference} us");

    // Without sidecars nothing is redirected to one, and nobody counts as one.
    assert!(none["totals"].as_object().unwrap().keys().all(|process| !process.ends_with("/sidecar")));
}

#[test]
fn a_file_that_asks_for_no_sidecars_is_compared_with_its_earlier_run_with_them() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let text = std::fs::read_to_string(scenario("hello")).unwrap();
    let with_sidecars = text.replace("duration = \"5s\"", "duration = \"2s\"");
    let without_sidecars = with_sidecars.replace("seed = 1\n", "seed = 1\nsidecar = \"none\"\n");
    let file = testbed.write("hello", &without_sidecars);

    let first = testbed.run_conclusive(&file, &[]);
    first.expect(0);
    assert_eq!(first.results(0)["plan"]["sidecar"], "none");
    assert!(first.said.contains("run it with sidecars too"), "{}", first.said);

    let file = testbed.write("hello", &with_sidecars);
    let with = testbed.run_conclusive(&file, &[]);
    with.expect(0);
    assert!(!with.said.contains("the sidecars' cost"), "{}", with.said);
    assert_accounts_agree(&with.results(0));

    let file = testbed.write("hello", &without_sidecars);
    let without = testbed.run_conclusive(&file, &[]);
    without.expect(0);
    let cells = cost(&without);
    let (with_results, results) = (with.results(0), without.results(0));
    assert_eq!(cells[1..3], [shown(&with_results, "p50_us"), shown(&results, "p50_us")]);
    assert_eq!(cells[4..6], [shown(&with_results, "p99_us"), shown(&results, "p99_us")]);
    let compared: &Path = &with.runs[0];
    assert!(without.said.contains(&compared.display().to_string()), "{}", without.said);
}

#[test]
fn callers_do_not_notice_that_a_replica_is_killed_and_the_report_shows_why() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let ended = testbed.run_conclusive(&scenario("failover"), &[]);
    ended.expect(0);
    let results = ended.results(0);
    assert_eq!(results["verdict"], "passed");

    let checkout = load(&results, "checkout");
    assert_eq!(number(&checkout["requests"]), 8.0 * 400.0);
    assert_eq!(checkout["ok"], checkout["requests"]);
    assert_eq!(checkout["errors"], serde_json::json!({}));

    let retries = total(&results, "web/sidecar", "proxy_retries_total");
    let ejections = total(&results, "web/sidecar", "proxy_ejections_total");
    let refused = total(&results, "web/sidecar", "proxy_connect_failures_total");
    assert!(retries > 0.0, "{}", ended.said);
    assert!(ejections + refused > 0.0, "it was neither ejected nor dialled in vain: {}", ended.said);
    let line = ended.said.lines().find(|l| l.trim_start().starts_with("web/sidecar ")).unwrap();
    assert!(line.contains(&format!("retries {retries}")), "{line}");
    for (count, words) in [(ejections, "ejections"), (refused, "failed connects")] {
        assert!(count == 0.0 || line.contains(&format!("{words} {count}")), "{line}");
    }

    // Its app and its sidecar, killed and started again.
    let evidence = &named(&results["faults"], "lose-one")["evidence"];
    assert_eq!((number(&evidence["killed"]), number(&evidence["restarted"])), (2.0, 2.0));
    assert!(ended.said.contains("killed 2, restarted 2"), "{}", ended.said);
}
