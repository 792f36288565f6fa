//! Links and faults on the real kernel do what was asked of them, in numbers.
//!
//! Everything is run without sidecars where they would only add to what is measured, and over the
//! userspace wire, because that is the emulator that is ours.

use std::time::Duration;

use lab::plan::SidecarKind;
use lab::scenario::Scenario;
use lab::scenario::builder::{
    ExpectSpec, FaultSpec, HttpSpec, LinkSpec, LoadSpec, ScenarioBuilder, ServiceSpec,
};
use serde_json::Value;
use tests::testbed::{Testbed, load, named, number, total};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// `web` calls each of these services by HTTP, so often each second, with as much patience. A load
/// has the name of whom it calls.
fn mesh(name: &str, services: &[&str], per_second: u32, timeout: Duration) -> ScenarioBuilder {
    let web = Scenario::builder(name).service(ServiceSpec::new("web"));
    services.iter().fold(web, |mesh, service| {
        let url = format!("http://{service}:8080/");
        mesh.service(ServiceSpec::new(*service).http(8080, HttpSpec::default()))
            .load(LoadSpec::new(*service, "web", &url, per_second).timeout(timeout))
    })
}

/// Three services that are the same but for their links: `near` is the control, `mid` is 10 ms away
/// in both directions, `far` 30 ms on the way there only.
fn delays() -> ScenarioBuilder {
    mesh("three distances", &["near", "mid", "far"], 50, SECOND)
        .duration(4 * SECOND)
        .sidecar(SidecarKind::None)
        .link(LinkSpec::between(&["web", "mid"]).delay(10 * MS))
        .link(LinkSpec::from_to(&["web"], &["far"]).delay(30 * MS))
        .expect(ExpectSpec::that(&["near.errors == 0", "mid.errors == 0", "far.errors == 0"]))
}

/// The report tells how exact its links were.
fn assert_fidelity_is_told(results: &Value, said: &str) {
    let fidelity = &results["fidelity"];
    assert_eq!(fidelity["link_backend"], "wire");
    assert!(number(&fidelity["packets"]) > 0.0, "{fidelity}");
    let lateness = |p: &str| number(&fidelity[format!("lateness_{p}_us")]);
    let (p50, p99, max) = (lateness("p50"), lateness("p99"), lateness("max"));
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{fidelity}");
    let shown = [p50, p99, max].map(lab::report::terminal::time);
    let words = format!("released late by p50 {}, p99 {}, max {}", shown[0], shown[1], shown[2]);
    assert!(said.contains("links by wire") && said.contains(&words), "{said}");
}

#[test]
fn the_measured_delay_of_a_link_is_the_one_that_was_asked_for() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let ended = testbed.run_conclusive(&testbed.write("delays", &delays().to_toml()), &["--link", "wire"]);
    ended.expect(0);
    let results = ended.results(0);
    assert_fidelity_is_told(&results, &ended.said);

    let p50 = |name: &str| number(&load(&results, name)["p50_us"]);
    let fidelity = &results["fidelity"];
    let late = number(&fidelity["lateness_p99_us"]);
    // A request and its answer cross each direction once. What the wire is late by comes on top;
    // what a packet without delay takes to cross it, far below a millisecond, is in the control
    // only.
    for (name, asked_us) in [("mid", 20_000.0), ("far", 30_000.0)] {
        let measured = p50(name) - p50("near");
        eprintln!("{name}: {measured} us of {asked_us} us, packets late by up to {late} us");
        let range = asked_us - 1_000.0..asked_us + 1_000.0 + 2.0 * late;
        assert!(
            range.contains(&measured),
            "{name}: {measured} us of {asked_us} us, late {late} us: {}",
            ended.said
        );
    }
    assert!(p50("near") < 5_000.0, "the control has no delay: {}", ended.said);
}

/// `lossy` loses packets on the way there and back, all the time; `dropping` only on the way there,
/// by a fault.
fn losses() -> ScenarioBuilder {
    let worse = LinkSpec::from_to(&["web"], &["lossy"]).loss(0.2).delay(MS);
    mesh("two lossy links", &["lossy"], 300, 4 * SECOND)
        .warmup(Duration::ZERO)
        .duration(5 * SECOND)
        .sidecar(SidecarKind::None)
        .link(LinkSpec::between(&["web", "lossy"]).loss(0.1))
        .fault(FaultSpec::link(worse).name("worse").at(SECOND))
        .expect(ExpectSpec::that(&["lost_packets > 0", "delayed_packets > 0"]).evidence_of("worse"))
}

/// Whether `lost` of `packets` is what a fair draw with this chance gives, within five standard
/// deviations.
fn assert_fair(what: &str, lost: f64, packets: f64, chance: f64) {
    assert!(packets > 500.0, "{what}: {packets} packets say little");
    let sigma = (packets * chance * (1.0 - chance)).sqrt();
    let off = (lost - packets * chance) / sigma;
    eprintln!("{what}: {lost} of {packets} lost, asked for {chance}: {off:.1} sigma");
    assert!(off.abs() < 5.0, "{what}: {lost} of {packets} lost, asked for {chance}: {off:.1} sigma");
}

#[test]
fn the_share_of_packets_that_a_link_loses_is_the_one_that_was_asked_for() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let ended = testbed.run_conclusive(&testbed.write("losses", &losses().to_toml()), &["--link", "wire"]);
    ended.expect(0);
    let results = ended.results(0);
    assert_fidelity_is_told(&results, &ended.said);

    // Requests and answers are smaller than a segment, so a packet is a segment.
    let evidence = &named(&results["faults"], "worse")["evidence"];
    let (lost, packets) = (number(&evidence["lost_packets"]), number(&evidence["packets"]));
    assert_fair("the fault", lost, packets, 0.20);
    // All the rest crossed the same two directions under the base profile.
    let base_lost = total(&results, "fabric", "link_lost_packets_total") - lost;
    let base_packets = total(&results, "fabric", "link_packets_total") - packets;
    assert_fair("the base link", base_lost, base_packets, 0.10);
    // Those that were lost were really missed: nobody can have received them, so somebody waited
    // for a retransmission, which takes at least 200 ms.
    assert!(number(&load(&results, "lossy")["p99_us"]) > 200_000.0, "{}", ended.said);
}

/// One service is stopped, another cut off, each long enough that callers must notice.
fn hard_times() -> ScenarioBuilder {
    let named = |name: &str, that: &str| ExpectSpec::that(&[that]).set("name", name);
    mesh("a stopped app and a cut link", &["orders", "stock"], 50, 300 * MS)
        .duration(6 * SECOND)
        .fault(FaultSpec::pause("orders/app").name("freeze").at(SECOND).lasts(1500 * MS))
        .fault(FaultSpec::partition(&["web", "stock"]).name("cut").at(SECOND).lasts(1500 * MS))
        .expect(
            ExpectSpec::that(&["orders.errors == 0", "stock.errors == 0"])
                .set("name", "nothing was wrong before")
                .during(Duration::ZERO, SECOND),
        )
        .expect(named("callers notice the stopped app", "orders.errors > 25").during_fault("freeze"))
        .expect(named("callers notice the cut link", "stock.errors > 25").during_fault("cut"))
        .expect(ExpectSpec::that(&["stopped >= 1"]).evidence_of("freeze"))
        .expect(ExpectSpec::that(&["lost_packets > 0"]).evidence_of("cut"))
        .expect(named("callers of the stopped app recover", "orders.errors == 0").after(
            "freeze.end",
            2 * SECOND,
            SECOND,
        ))
        .expect(named("callers across the cut recover", "stock.errors == 0").after(
            "cut.end",
            2 * SECOND,
            SECOND,
        ))
}

#[test]
fn a_pause_and_a_partition_bite_and_callers_recover_from_them() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let ended =
        testbed.run_conclusive(&testbed.write("hard-times", &hard_times().to_toml()), &["--link", "wire"]);
    ended.expect(0);
    let results = ended.results(0);
    let evidence = |name: &str, what: &str| number(&named(&results["faults"], name)["evidence"][what]);
    assert_eq!((evidence("freeze", "stopped"), evidence("freeze", "continued")), (1.0, 1.0));
    assert!(evidence("cut", "lost_packets") > 0.0);
    assert_eq!(evidence("cut", "lost_packets"), evidence("cut", "packets"), "a cut lets nothing through");
    for name in ["callers of the stopped app recover", "callers across the cut recover"] {
        let recovery = named(&results["expectations"], name);
        assert!(recovery["recovered_after_us"].is_number(), "{recovery:#}");
        assert!(ended.said.contains(": recovered after "), "{}", ended.said);
    }
}
