//! Conditions over counters see their window and nothing else.

mod sim_kit;

use lab::scenario::Scenario;
use lab::scenario::builder::{ExpectSpec, HttpSpec, LoadSpec, ScenarioBuilder, ServiceSpec};
use proxy::mutant::{self, Mutant};
use sim_kit::*;

/// A warm-up of many requests, and two windows whose counts are known.
fn windows() -> ScenarioBuilder {
    let counted = ["orders/app.app_requests_total <= 201", "orders/app.app_requests_total >= 190"];
    let a_request = "orders/app.app_requests_total / calls.requests";
    let (most, least) = (format!("{a_request} <= 1.005"), format!("{a_request} >= 0.95"));
    Scenario::builder("windows")
        .duration(ms(2000))
        .warmup(ms(5000))
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").http(8080, HttpSpec::default()))
        .load(LoadSpec::new("calls", "web", "http://orders:8080/", 200))
        .expect(ExpectSpec::that(&counted).during(ms(0), ms(1000)))
        .expect(ExpectSpec::that(&[&most, &least]).during(ms(1000), ms(2000)))
}

#[test]
fn a_window_counts_what_happens_in_it_and_not_the_warm_up() {
    Story::of(&windows()).holds(5);
}

#[test]
fn a_window_that_reaches_back_before_its_beginning_is_found() {
    let scenario = windows().build().expect("a scenario");
    mutant::plant(Some(Mutant::CountsFromBeforeTheWindow));
    let history = lab::simulate(&scenario, 1);
    mutant::plant(None);
    let reasons = history.expect("a run that ends").reasons();
    assert!(!reasons.is_empty() && reasons.iter().all(|r| r.contains("app_requests_total")), "{reasons:?}");
}
