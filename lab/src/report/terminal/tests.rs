use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::scenario::Scenario;
use crate::scenario::builder::{ExpectSpec, FaultSpec, HttpSpec, LoadSpec, ServiceSpec};
use crate::verdict::Impact;
use crate::world::Fidelity;

fn scenario() -> Scenario {
    let second = Duration::from_secs(1);
    let conditions = ["checkout.errors == 0", "checkout.latency.p99 < 50ms", "checkout.success >= 99.9%"];
    let scenario = Scenario::builder("a replica dies and callers do not notice")
        .seed(7)
        .duration(8 * second)
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").replicas(2).http(8080, HttpSpec::default()))
        .load(LoadSpec::new("checkout", "web", "http://orders:8080/", 400))
        .load(LoadSpec::new("search", "web", "http://orders:8080/search", 10))
        .fault(FaultSpec::kill("orders-1").name("lose-one").at(2 * second).restart(2 * second))
        .expect(ExpectSpec::that(&conditions).set("name", "callers do not notice"))
        .expect(
            ExpectSpec::that(&["checkout.latency.p99 < 10ms"])
                .set("name", "and soon it is over")
                .set("after", "lose-one")
                .set("within", "1s"),
        );
    scenario.build().expect("the scenario is right")
}

fn judged(name: &str, window: &str, conditions: &[(&str, f64, &str, bool)]) -> Judged {
    let condition = |(text, actual, shown, passed): &(&str, f64, &str, bool)| JudgedCondition {
        text: (*text).into(),
        passed: *passed,
        actual: *actual,
        shown: (*shown).into(),
        samples: 3200,
    };
    Judged {
        name: name.into(),
        window: window.into(),
        span: (0, 8_000_000),
        passed: conditions.iter().all(|c| c.3),
        conditions: conditions.iter().map(condition).collect(),
        recovered_after_us: None,
        note: None,
    }
}

fn phase(requests: u64, errors: u64, p50_us: f64, p99_us: f64) -> Option<Phase> {
    Some(Phase { span_us: (0, 0), requests, errors, p50_us, p99_us })
}

pub(in crate::report) fn passing() -> Report {
    let scenario = scenario();
    let summary = |requests, p50_us| Summary {
        requests,
        ok: requests,
        p50_us,
        p90_us: 3_240.0,
        p99_us: 8_560.0,
        max_us: 25_400.0,
        late_p99_us: 255.0,
        ..Summary::default()
    };
    let counters = |counters: &[(&str, f64)]| counters.iter().map(|(k, v)| ((*k).into(), *v)).collect();
    let mut recovery = judged(
        "and soon it is over",
        "within 1s of 2s, for 1s",
        &[("checkout.latency.p99 < 10ms", 8_100.0, "p99 = 8.1 ms", true)],
    );
    recovery.recovered_after_us = Some(100_000);
    Report {
        started: std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_767_225_600),
        plan: scenario.plan(SidecarKind::Ours),
        world: WorldKind::Kernel,
        build: "release",
        verdict: Verdict::Passed,
        reasons: vec![],
        expectations: vec![
            judged(
                "callers do not notice",
                "0s..8s",
                &[
                    ("checkout.errors == 0", 0.0, "errors = 0", true),
                    ("checkout.latency.p99 < 50ms", 8_560.0, "p99 = 8.6 ms", true),
                    ("checkout.success >= 99.9%", 1.0, "success = 100 %", true),
                ],
            ),
            recovery,
        ],
        loads: vec![summary(3200, 850.0), summary(80, 1_200_000.0)],
        faults: vec![AppliedFault {
            name: "lose-one".into(),
            start_us: Some(2_001_000),
            end_us: Some(4_030_000),
            failed: None,
            outlasted: false,
            evidence: counters(&[("killed", 2.0), ("restarted", 2.0)]),
            impact: vec![Impact {
                load: "checkout".into(),
                before: phase(800, 0, 820.0, 5_100.0),
                during: phase(812, 0, 910.0, 9_300.0),
                after: phase(1588, 0, 840.0, 5_600.0),
                failing_us: None,
            }],
        }],
        unexpected_exits: vec![],
        totals: BTreeMap::from([
            ("orders-0/app".into(), counters(&[("app_requests_total", 1270.0), ("app_bytes_total", 9.0)])),
            ("orders-1/app".into(), BTreeMap::new()),
            (
                "web/sidecar".into(),
                counters(&[("proxy_requests_total", 3587.0), ("proxy_retries_total", 6.0)]),
            ),
        ]),
        fidelity: Fidelity {
            link_backend: "wire".into(),
            packets: 7447,
            lateness_p50_us: 31.0,
            lateness_p99_us: 460.0,
            lateness_max_us: 1_900.0,
            overflow: 0,
            notes: vec!["the wire used 38 ms of CPU".into()],
        },
        measurements: std::sync::Arc::default(),
    }
}

pub(in crate::report) fn failing() -> Report {
    let mut report = passing();
    let timeouts = BTreeMap::from([("502".to_owned(), 40), ("timeout".to_owned(), 6)]);
    report.loads[0] = Summary { ok: 3154, errors: timeouts, max_us: 1_000_900.0, ..report.loads[0].clone() };
    report.expectations[0] = judged(
        "callers do not notice",
        "0s..8s",
        &[
            ("checkout.errors == 0", 46.0, "errors = 46", false),
            ("checkout.latency.p99 < 50ms", 61_200.0, "p99 = 61.2 ms", false),
            ("checkout.success >= 99.9%", 0.985_625, "success = 98.563 %", false),
        ],
    );
    report.expectations[1].passed = false;
    report.expectations[1].recovered_after_us = None;
    report.expectations[1].conditions[0].passed = false;
    report.expectations[1].conditions[0].actual = 12_000.0;
    report.expectations[1].conditions[0].shown = "p99 = 12.0 ms".into();
    report.expectations[1].note = Some("did not hold in time; the values are those from 3s on".into());
    report.faults[0].end_us = None;
    report.faults[0].failed = Some("orders-1/app was not ready within 10 s".into());
    report.faults[0].impact[0].during = phase(2400, 46, 910.0, 61_200.0);
    report.faults[0].impact[0].after = None;
    report.faults[0].impact[0].failing_us = Some((10_000, 310_000));
    report.unexpected_exits = vec![UnexpectedExit {
        process: "orders-1/app".into(),
        at_us: Some(2_130_000),
        how: "exit status: 101".into(),
        log_tail: (1..=9).map(|n| format!("line {n}")).collect(),
    }];
    report.verdict = Verdict::Failed;
    report.reasons =
        vec!["orders-1/app ended at 2.13 s although nothing asked it to: exit status: 101".into()];
    report.reasons.extend(crate::verdict::broken(&report.plan, &report.expectations));
    report
}

#[test]
fn a_run_that_passed_fits_on_a_screen() {
    insta::assert_snapshot!(render(&passing(), Style::Plain));
}

#[test]
fn what_a_run_cannot_judge_is_counted() {
    let mut report = passing();
    assert!(!render(&report, Style::Plain).contains("judged"));
    (report.plan.sidecar, report.plan.left_out) = (SidecarKind::None, 3);
    let text = render(&report, Style::Plain);
    assert!(text.contains("\n  3 conditions of the file cannot be judged without sidecars\n"), "{text}");
}

#[test]
fn a_run_that_failed_says_what_was_expected_and_what_it_was() {
    insta::assert_snapshot!(render(&failing(), Style::Plain));
}

#[test]
fn a_run_that_is_inconclusive_says_why_first() {
    let mut report = passing();
    report.world = WorldKind::Simulator;
    report.fidelity.link_backend = "simulated".into();
    report.verdict = Verdict::Inconclusive;
    report.faults[0] = AppliedFault { name: "lose-one".into(), ..AppliedFault::default() };
    report.reasons = vec![
        "fault lose-one never came into force".into(),
        "load `checkout` sent 81 of its 4000 requests more than 10 ms late (limit 1 %)".into(),
    ];
    insta::assert_snapshot!(render(&report, Style::Plain));
}

#[test]
fn a_run_that_was_interrupted_calls_nothing_held_or_broken() {
    for report in [passing(), failing()] {
        let text = render(&Report { verdict: Verdict::Interrupted, ..report }, Style::Plain);
        assert!(text.contains("  so far  callers do not notice"), "{text}");
        assert!(!text.contains("held") && !text.contains("BROKEN"), "{text}");
    }
}

#[test]
fn colours_add_nothing_but_colours() {
    let coloured = render(&failing(), Style::Colour);
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain += before;
        rest = after.split_once('m').expect("an escape sequence ends").1;
    }
    assert_ne!(coloured, render(&failing(), Style::Plain));
    assert_eq!(plain + rest, render(&failing(), Style::Plain));
}

#[test]
fn the_results_are_what_their_page_says() {
    let json = serde_json::to_value(crate::report::results::of(&failing())).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    insta::assert_snapshot!(keys.join(" "));
    assert_eq!(json["loads"]["checkout"]["errors"]["timeout"], 6);
    assert_eq!(json["faults"][0]["start_us"], 2_001_000);
    assert_eq!(json["plan"]["timeline"][0]["until"], "4s");
    assert_eq!(json["verdict"], "failed");
}
