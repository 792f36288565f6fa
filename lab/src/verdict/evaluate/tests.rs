use super::*;
use crate::fault::{Action, Kill};
use crate::load::Outcome;
use crate::load::{CallKind, Load, Target, TcpCall};
use crate::metrics::parse;
use crate::plan::SidecarKind;

/// A plan of 20 s with one load and nothing else.
pub(in crate::verdict) fn plan() -> Plan {
    let target = Target { host: "orders".into(), port: 80, call: CallKind::Tcp(TcpCall {}) };
    let timeout = Duration::from_secs(1);
    let load = Load { name: "calls".into(), from: 0, target, rate: 100.0, timeout, part: None, seed: 1 };
    Plan {
        name: "test".into(),
        seed: 1,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(20),
        sidecar: SidecarKind::Ours,
        services: vec![],
        authorities: vec![],
        certificates: vec![],
        captures: vec![],
        instances: vec![],
        links: vec![],
        loads: vec![load],
        timeline: vec![],
        expectations: vec![],
        left_out: 0,
    }
}

fn stat(stat: &str, op: Op, value: f64) -> Condition {
    let subject = Subject::Load { load: 0, stat: stat.parse().unwrap() };
    Condition { text: format!("calls.{stat} {op:?} {value}"), subject, op, value }
}

fn metric(process: &str, name: &str, op: Op, value: f64) -> Condition {
    let subject = Subject::Metric { process: process.into(), name: name.into(), labels: vec![] };
    Condition { text: format!("{process}.{name}"), subject, op, value }
}

fn during(from: u64, to: u64) -> Window {
    let at = |seconds| TimePoint::At(Duration::from_secs(seconds));
    Window::During { from: at(from), to: at(to) }
}

fn kill(at_ms: u64, until_ms: Option<u64>) -> Entry {
    Entry {
        name: "kill-1".into(),
        at: Duration::from_millis(at_ms),
        until: until_ms.map(Duration::from_millis),
        repeat: None,
        action: Action::Kill(Kill { processes: vec![], hard: true }),
    }
}

/// 100 requests a second for 20 s, 1 ms each; those due in [5 s, 8 s) fail after 500 ms. Latest
/// first: order must not matter.
fn outage() -> Vec<Record> {
    let record = |k: i64| {
        let bad = (500..800).contains(&k);
        let outcome = if bad { Outcome::Reset } else { Outcome::Ok };
        Record { due_us: k * 10_000, latency_us: if bad { 500_000 } else { 1_000 }, late_us: 50, outcome }
    };
    (-100..2_000).rev().map(record).collect()
}

#[derive(Default)]
struct Case {
    records: Vec<Record>,
    series: Series,
    timeline: Vec<Entry>,
    faults: Vec<BTreeMap<String, f64>>,
    actual: Vec<Option<(i64, i64)>>,
}

impl Case {
    fn judge(&self, window: Window, conditions: Vec<Condition>) -> Judged {
        let expectation = Expectation { name: "expected".into(), window, sidecar: None, conditions };
        let plan = Plan { timeline: self.timeline.clone(), expectations: vec![expectation], ..plan() };
        let evidence = Evidence {
            plan: &plan,
            loads: std::slice::from_ref(&self.records),
            series: &self.series,
            faults: &self.faults,
            actual: &self.actual,
        };
        judge(&evidence).remove(0)
    }
}

#[test]
fn every_comparison_compares() {
    for (op, below, equal, above) in [
        (Op::Lt, true, false, false),
        (Op::Le, true, true, false),
        (Op::Gt, false, false, true),
        (Op::Ge, false, true, true),
        (Op::Eq, false, true, false),
        (Op::Ne, true, false, true),
    ] {
        assert_eq!([holds(1.0, op, 2.0), holds(2.0, op, 2.0), holds(3.0, op, 2.0)], [below, equal, above]);
    }
}

#[test]
fn a_window_holds_the_requests_that_are_due_in_it() {
    let case = Case { records: outage(), ..Case::default() };
    for (from, to, requests, errors) in
        [(0, 5, 500.0, 0.0), (5, 8, 300.0, 300.0), (4, 6, 200.0, 100.0), (8, 20, 1200.0, 0.0)]
    {
        let asked = vec![stat("requests", Op::Eq, requests), stat("errors", Op::Eq, errors)];
        let judged = case.judge(during(from, to), asked);
        assert!(judged.passed, "{judged:?}");
        assert_eq!(judged.conditions[0].samples, requests as u64);
    }
}

#[test]
fn one_condition_that_fails_fails_the_expectation_and_says_its_value() {
    let case = Case { records: outage(), ..Case::default() };
    let judged = case.judge(
        during(4, 8),
        vec![
            stat("latency.p50", Op::Lt, 20_000.0),
            stat("success", Op::Ge, 0.25),
            stat("throughput", Op::Eq, 25.0),
            stat("latency.p999", Op::Gt, 1.0),
        ],
    );
    let passed: Vec<_> = judged.conditions.iter().map(|c| c.passed).collect();
    let shown: Vec<_> = judged.conditions.iter().map(|c| c.shown.as_str()).collect();
    assert_eq!(passed, [false, true, true, true]);
    assert_eq!(
        shown,
        ["p50 = 500 ms", "success = 25 %", "throughput = 25/s", "p999 = 500 ms (the worst of only 400)"]
    );
    assert!(!judged.passed);
    assert_eq!(judged.conditions[0].actual, 500_000.0);
    assert_eq!((judged.window.as_str(), judged.span), ("4s..8s", (4_000_000, 8_000_000)));
}

#[test]
fn silence_never_passes() {
    let scenario = || Case {
        timeline: vec![kill(5_000, None)],
        actual: vec![Some((5_000_000, 20_000_000))],
        ..Case::default()
    };
    for condition in [
        stat("errors", Op::Eq, 0.0),
        stat("latency.p99", Op::Lt, 1e9),
        stat("requests", Op::Eq, 0.0),
        metric("web/sidecar", "proxy_retries_total", Op::Eq, 0.0),
        metric("web/sidecar", "proxy_open", Op::Ne, 7.0),
        Condition {
            text: "killed == 0".into(),
            subject: Subject::Evidence { name: "killed".into() },
            op: Op::Eq,
            value: 0.0,
        },
    ] {
        let recovery = Window::Recovery {
            start: TimePoint::At(Duration::from_secs(5)),
            within: Duration::from_secs(1),
            hold: Duration::from_secs(1),
        };
        for window in [during(0, 20), recovery, Window::Evidence { entry: 0 }] {
            let judged = scenario().judge(window, vec![condition.clone()]);
            assert!(!judged.passed && !judged.conditions[0].passed, "{judged:?}");
            assert_eq!(judged.conditions[0].samples, 0, "{judged:?}");
            assert!(judged.conditions[0].actual.is_nan());
        }
    }
    // Nor does an expectation of nothing.
    assert!(!Case { records: outage(), ..Case::default() }.judge(during(0, 5), vec![]).passed);
}

#[test]
fn a_recovery_is_the_first_stretch_in_which_the_conditions_hold() {
    let case = Case { records: outage(), ..Case::default() };
    let judge = |start_ms, within_ms| {
        let window = Window::Recovery {
            start: TimePoint::At(Duration::from_millis(start_ms)),
            within: Duration::from_millis(within_ms),
            hold: Duration::from_secs(2),
        };
        case.judge(window, vec![stat("errors", Op::Eq, 0.0)])
    };
    // Errors end at 8 s; the steps are 100 ms.
    for (start, within, recovered) in [
        (5_000, 3_000, Some(3_000_000)),
        (5_000, 10_000, Some(3_000_000)),
        (5_000, 2_990, None),
        (5_050, 3_000, Some(3_000_000)),
        // A limit that is no multiple of the step is itself the last start.
        (5_050, 2_950, Some(2_950_000)),
        (2_000, 5_000, Some(0)),
        (9_000, 0, Some(0)),
        // 18 s is the last start from which 2 s fit.
        (18_000, 5_000, Some(0)),
    ] {
        let judged = judge(start, within);
        assert_eq!(judged.passed, recovered.is_some(), "{start} {within} {judged:?}");
        assert_eq!(judged.recovered_after_us, recovered, "{start} {within} {judged:?}");
        if judged.passed {
            assert_eq!(judged.span.0, start as i64 * 1_000 + judged.recovered_after_us.unwrap());
        } else {
            assert!(judged.note.unwrap().contains("did not hold in time"));
            assert_eq!(judged.conditions[0].actual, 1.0, "the last stretch tried is shown");
        }
    }
    let judged = judge(18_001, 5_000);
    assert!(!judged.passed && judged.note.unwrap().contains("end of the run"));
}

#[test]
fn a_recovery_counts_from_when_the_fault_really_ended() {
    let mut case = Case { records: outage(), timeline: vec![kill(5_000, Some(7_000))], ..Case::default() };
    let window = Window::Recovery {
        start: TimePoint::End(0),
        within: Duration::from_millis(300),
        hold: Duration::from_secs(1),
    };
    for (actual, recovered) in
        [(Some((5_000_000, 7_000_000)), None), (Some((5_000_000, 7_800_000)), Some(200_000)), (None, None)]
    {
        case.actual = vec![actual];
        let judged = case.judge(window.clone(), vec![stat("errors", Op::Eq, 0.0)]);
        assert_eq!(judged.recovered_after_us, recovered, "{judged:?}");
    }
    case.actual = vec![Some((5_000_000, 7_800_000))];
    let judged = case.judge(window, vec![stat("errors", Op::Eq, 0.0)]);
    assert_eq!(judged.note.unwrap(), "counted from 7.8s, when it really happened");
}

#[test]
fn a_fault_off_the_clock_is_noted_beside_the_windows_that_it_touches() {
    let mut case = Case { records: outage(), timeline: vec![kill(5_000, Some(7_000))], ..Case::default() };
    let note = |case: &Case, from, to| case.judge(during(from, to), vec![stat("requests", Op::Gt, 0.0)]).note;
    case.actual = vec![Some((5_050_000, 7_100_000))];
    assert_eq!(note(&case, 0, 20), None);
    case.actual = vec![Some((5_050_000, 7_800_000))];
    assert_eq!(note(&case, 5, 7).unwrap(), "kill-1 was really in force 5.05s..7.8s");
    assert_eq!(note(&case, 7, 9), None);
    case.actual = vec![None];
    assert_eq!(note(&case, 0, 20).unwrap(), "kill-1 never took effect");
}

#[test]
fn counters_count_by_their_increase_across_restarts_and_gauges_by_their_last_value() {
    let mut case = Case::default();
    let lives = [(0, 3.0), (1, 5.0), (2, 9.0), (3, 1.0), (4, 4.0)];
    for (second, n) in lives {
        let text = format!("app_requests_total {n}\napp_connections_open {n}\n");
        let at = second * 1_000_000;
        case.series.push(&"orders-0/app".into(), (at, at), parse("orders-0/app", &text));
    }
    let judge = |name, from, to, expected| {
        let judged = case.judge(during(from, to), vec![metric("orders-*/app", name, Op::Eq, expected)]);
        assert!(judged.passed, "{judged:?}");
        judged.conditions[0].clone()
    };
    judge("app_requests_total", 1, 2, 4.0);
    judge("app_requests_total", 1, 4, 8.0);
    let last = judge("app_connections_open", 0, 3, 1.0);
    assert_eq!((last.shown.as_str(), last.samples), ("app_connections_open = 1", 4));
    let judged = case.judge(during(0, 4), vec![metric("orders-0/app", "app_request_total", Op::Eq, 0.0)]);
    assert!(!judged.passed);
    let shown = &judged.conditions[0].shown;
    assert!(shown.contains("no metric `app_request_total`; there is app_requests_total"), "{shown}");
}

#[test]
fn where_no_packet_passed_the_verdict_says_so_and_fails() {
    let mut case = Case { records: outage(), ..Case::default() };
    let seen =
        "capture_tls_records{from=\"web\",to=\"orders-0\",from_service=\"web\",to_service=\"orders\"} 9\n";
    case.series.push(&"fabric".into(), (1_000_000, 1_000_000), parse("fabric", seen));
    let tls = |to: &str| {
        let labels = vec![("from_service".into(), "web".into()), ("to".into(), to.into())];
        let (process, name) = ("fabric".into(), "capture_tls_records".into());
        let subject = Subject::Metric { process, name, labels };
        Condition { text: "TLS records > 0".into(), subject, op: Op::Gt, value: 0.0 }
    };
    let judged = case.judge(during(0, 20), vec![tls("orders-0"), tls("orders-1")]);
    assert_eq!(judged.conditions[0].shown, "capture_tls_records = 9");
    assert_eq!(judged.conditions[1].shown, "no packet passed from web to orders-1");
    assert!(judged.conditions[0].passed && !judged.conditions[1].passed && !judged.passed);
}

#[test]
fn evidence_needs_a_fault_that_took_effect() {
    let evidence = |name: &str, op, value| Condition {
        text: format!("{name} {op:?} {value}"),
        subject: Subject::Evidence { name: name.into() },
        op,
        value,
    };
    let mut case = Case {
        records: outage(),
        timeline: vec![kill(5_000, Some(8_000))],
        faults: vec![BTreeMap::from([("killed".into(), 2.0)])],
        actual: vec![Some((5_000_000, 8_000_000))],
        ..Case::default()
    };
    let window = Window::Evidence { entry: 0 };
    let both = || vec![evidence("killed", Op::Ge, 1.0), stat("errors", Op::Eq, 300.0)];
    let judged = case.judge(window.clone(), both());
    assert!(judged.passed, "{judged:?}");
    assert_eq!(
        (judged.window.as_str(), judged.conditions[0].shown.as_str()),
        ("evidence of kill-1", "killed = 2")
    );
    assert!(!case.judge(window.clone(), vec![evidence("killed", Op::Eq, 1.0)]).passed);
    let judged = case.judge(window.clone(), vec![evidence("kiled", Op::Ge, 0.0)]);
    assert_eq!(judged.conditions[0].shown, "no evidence `kiled`; there is killed");
    assert!(!case.judge(during(5, 8), vec![evidence("killed", Op::Ge, 1.0)]).passed);
    case.actual = vec![None];
    assert!(!case.judge(window, both()).passed);
}

#[test]
fn values_are_shown_with_units_that_people_read() {
    for (stat, value, expected) in [
        ("latency.p99", 12_345.0, "p99 = 12.3 ms"),
        ("latency.max", 850.4, "max = 850 us"),
        ("latency.mean", 1_254_000.0, "mean = 1.25 s"),
        ("success", 0.99951, "success = 99.951 %"),
        ("errors.share", 0.0, "errors.share = 0 %"),
        ("throughput", 399.6667, "throughput = 399.667/s"),
        ("errors", 3.0, "errors = 3"),
    ] {
        assert_eq!(stat.parse::<Statistic>().unwrap().show(value), expected);
    }
    for (us, expected) in
        [(0, "0s"), (250_000, "250ms"), (2_500_000, "2.5s"), (20_000_000, "20s"), (1_000, "1ms")]
    {
        assert_eq!(clock(us), expected);
    }
}
