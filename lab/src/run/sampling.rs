//! When processes are asked for their metrics.
//!
//! At an even pace, which shows gauges and restarts, and at the edges of every window that a
//! condition over metrics has. A window counts from the first scrape that begins in it to the last
//! that ends in it ([`crate::metrics`]), so it is asked at its beginning, and shortly before its
//! end: a little earlier too, because a busy process takes its time.

use std::time::Duration;

use crate::plan::{Condition, Expectation, Plan, Subject, Window};

/// How long before the end of a window its last scrapes begin. A process that answers at once shows
/// all but the last 10 ms; one that takes up to 50 ms, all but those.
const LEADS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(10)];

/// The pace while the beginning of a recovery is sought, which is at one of its steps.
const STEP: Duration = crate::verdict::STEP;

/// When to ask within the measured part, in order, each once: every `every`, and at the edges of
/// windows.
pub(super) fn times(plan: &Plan, every: Duration) -> Vec<Duration> {
    let paces = |from: Duration, to: Duration, pace: Duration| {
        std::iter::successors(Some(from), move |at| Some(*at + pace)).take_while(move |at| *at <= to)
    };
    let mut times: Vec<Duration> = paces(Duration::ZERO, plan.duration, every).collect();
    let of_metrics = plan.expectations.iter().filter(|e| metrics(e).next().is_some());
    for expectation in of_metrics {
        match expectation.window {
            Window::During { from, to } => {
                let (from, to) = (plan.time(from), plan.time(to));
                times.push(from);
                times.extend(LEADS.iter().filter_map(|lead| to.checked_sub(*lead)).filter(|at| *at > from));
            }
            Window::Recovery { start, within, hold } => {
                let start = plan.time(start);
                times.extend(paces(start, (start + within + hold).min(plan.duration), STEP));
            }
            Window::Evidence { .. } => {}
        }
    }
    times.sort_unstable();
    times.dedup();
    times
}

/// Whether a condition asks for counters of the kernel's rules, which are too costly to read as
/// often as others.
pub(super) fn asks_rules(plan: &Plan) -> bool {
    plan.expectations.iter().flat_map(metrics).any(|name| name.starts_with("iptables_"))
}

/// The names of the metrics that an expectation is about.
fn metrics(expectation: &Expectation) -> impl Iterator<Item = &str> {
    fn of<'a>(subject: &'a Subject, names: &mut Vec<&'a str>) {
        match subject {
            Subject::Metric { name, .. } => names.push(name),
            Subject::Ratio { of: part, to } => {
                of(part, names);
                of(to, names);
            }
            Subject::Load { .. } | Subject::Evidence { .. } => {}
        }
    }
    expectation.conditions.iter().flat_map(|Condition { subject, .. }| {
        let mut names = Vec::new();
        of(subject, &mut names);
        names
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;
    use crate::scenario::builder::{ExpectSpec, FaultSpec, HttpSpec, LoadSpec, ServiceSpec};

    #[test]
    fn the_edges_of_windows_over_metrics_are_asked_for_beside_an_even_pace() {
        let ms = Duration::from_millis;
        let reached = "orders/app.app_requests_total";
        let scenario = Scenario::builder("test")
            .duration(ms(2_000))
            .service(ServiceSpec::new("web"))
            .service(ServiceSpec::new("orders").http(80, HttpSpec::default()))
            .load(LoadSpec::new("calls", "web", "http://orders:80/", 10))
            .fault(FaultSpec::refuse("orders/app").name("gone").at(ms(500)).lasts(ms(200)))
            .expect(
                ExpectSpec::that(&[&format!("calls.requests / {reached} >= 1")]).during(ms(100), ms(1_300)),
            )
            .expect(ExpectSpec::that(&["calls.errors == 0"]).during(ms(200), ms(900)))
            .expect(ExpectSpec::that(&[&format!("{reached} > 0")]).after("gone.end", ms(100), ms(200)));
        let scenario = scenario.build().expect("the scenario is right");
        let plan = scenario.plan(crate::plan::SidecarKind::Ours);
        let times: Vec<_> = times(&plan, Duration::from_secs(1)).iter().map(Duration::as_millis).collect();
        assert_eq!(times, [0, 100, 700, 800, 900, 1_000, 1_250, 1_290, 2_000]);
        assert!(!asks_rules(&plan));
    }
}
