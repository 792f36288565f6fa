//! What proves that faults bit, in both worlds.

mod sim_kit;

use lab::scenario::Scenario;
use lab::scenario::builder::{
    ExpectSpec, FaultSpec, HttpSpec, LinkSpec, LoadSpec, ScenarioBuilder, ServiceSpec,
};
use sim_kit::*;
use tests::testbed::Testbed;

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

/// Every word of evidence that the page of scenarios promises, and an app that is killed after it
/// was told to fail.
fn every_fault() -> ScenarioBuilder {
    let of = |fault: &str, evidence: &[&str]| ExpectSpec::that(evidence).evidence_of(fault);
    let slow = LinkSpec::between(&["web", "orders", "third"]).delay(ms(5));
    let no_retries = toml::toml! { retry.attempts = 0 };
    Scenario::builder("evidence")
        .duration(ms(5000))
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("third"))
        .service(ServiceSpec::new("orders").http(8080, HttpSpec::default()))
        .load(LoadSpec::new("calls", "web", "http://orders:8080/", 100))
        .fault(
            FaultSpec::app("orders/app", HttpSpec::default().fail(1.0))
                .name("fail")
                .at(ms(500))
                .lasts(ms(1000)),
        )
        .fault(FaultSpec::kill("orders/app").name("later").at(ms(4000)))
        .fault(FaultSpec::configure("orders", no_retries).name("reload").at(ms(1000)).lasts(ms(1000)))
        .fault(FaultSpec::pause("orders/app").name("freeze").at(ms(2500)).lasts(ms(200)))
        .fault(FaultSpec::link(slow).name("slow").at(ms(3000)).lasts(ms(500)))
        .expect(of("fail", &["changed_requests >= 50"]))
        .expect(of("later", &["killed == 1"]))
        // Three sidecars are told twice.
        .expect(of("reload", &["reloaded == 6"]))
        .expect(of("freeze", &["stopped == 1", "continued == 1"]))
        .expect(of("slow", &["packets > 20", "delayed_packets > 20", "lost_packets == 0"]))
}

#[test]
fn evidence_is_measured_and_outlives_the_process_that_it_came_from() {
    Story::of(&every_fault()).holds(3);
}

#[test]
fn evidence_on_the_kernel_is_the_same() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let scenario = testbed.write("evidence", &every_fault().to_toml());
    testbed.run_conclusive(&scenario, &[]).expect(0);
}
