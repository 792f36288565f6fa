//! Conditions over counters see their window and nothing else.

mod sim_kit;

use lab::history::history;
use lab::plan::SidecarKind;
use proxy::mutant::{self, Mutant};
use sim_kit::*;

/// A warm-up of many requests, and two windows whose counts are known.
const STORY: &str = r#"
[scenario]
name = "windows"
duration = "2s"
warmup = "5s"
[service.web]
[service.orders]
port = 8080
protocol = "http"
app = { http = {} }
[load.calls]
from = "web"
url = "http://orders:8080/"
rate = "200/s"
[[expect]]
during = "0s..1s"
that = ["orders/app.app_requests_total <= 201", "orders/app.app_requests_total >= 190"]
[[expect]]
during = "1s..2s"
that = ["orders/app.app_requests_total / calls.requests <= 1.005", "orders/app.app_requests_total / calls.requests >= 0.95"]
"#;

#[test]
fn a_window_counts_what_happens_in_it_and_not_the_warm_up() {
    Story::new("windows", STORY.to_owned()).holds(5);
}

#[test]
fn a_window_that_reaches_back_before_its_beginning_is_found() {
    let scenario = parse("windows", STORY);
    mutant::plant(Some(Mutant::CountsFromBeforeTheWindow));
    let history = history(&scenario, SidecarKind::Ours, 1, false);
    mutant::plant(None);
    let reasons = history.expect("a run that ends").reasons();
    assert!(!reasons.is_empty() && reasons.iter().all(|r| r.contains("app_requests_total")), "{reasons:?}");
}
