//! The counters of a sidecar equal what its log tells.

use super::{Invariant, Violation, violation};
use crate::run::TAKING_DOWN;
use crate::swarm::Note;
use crate::swarm::facts::{EndpointChange, Facts, RequestStep};

pub(super) const INVARIANT: Invariant =
    Invariant { name: "metrics", says: "counters equal what happened", check };

const OUTBOUND: (&str, &str) = ("side", "outbound");

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    let end = facts.end_us();
    let read = facts
        .notes()
        .find(|(_, note)| matches!(note, Note::Phase(what) if what == TAKING_DOWN))
        .map_or(0, |(when, _)| when.line);
    let mut processes: Vec<_> = facts.clusters().map(|(process, _)| process).collect();
    processes.dedup();
    for process in processes {
        // Counters of a process that was started anew count anew.
        if !facts.is_steady(process) {
            continue;
        }
        let requests = facts.requests.iter().filter(|request| request.process == *process);
        let steps = || requests.clone().flat_map(|request| &request.steps).map(|(_, step)| step);
        let availability = facts.availability.iter().filter(|s| s.process == *process);
        let of = |what: fn(&EndpointChange) -> bool| availability.clone().filter(|s| what(&s.change)).count();
        let done = |class: u64| {
            steps().filter(|s| matches!(s, RequestStep::Done(status) if status / 100 == class)).count()
        };
        let panics = steps().filter(|step| matches!(step, RequestStep::Picked { panic: true, .. })).count();
        let full = steps().filter(|step| matches!(step, RequestStep::GivenUp(why) if why == "limit")).count();
        for (counter, label, expected) in [
            ("proxy_requests_total", OUTBOUND, requests.clone().count()),
            ("proxy_responses_total", ("class", "2xx"), done(2)),
            ("proxy_responses_total", ("class", "5xx"), done(5)),
            (
                "proxy_retries_total",
                OUTBOUND,
                steps().filter(|s| matches!(s, RequestStep::Again { .. })).count(),
            ),
            ("proxy_limited_total", ("reason", "retries"), full),
            ("proxy_picks_total", ("kind", "panic"), panics),
            ("proxy_ejections_total", OUTBOUND, of(|change| matches!(change, EndpointChange::Ejected(..)))),
            ("proxy_ejection_probes_total", OUTBOUND, of(|change| *change == EndpointChange::Probing)),
        ] {
            let counted = facts.last(process, counter, &[OUTBOUND, label]).unwrap_or_default();
            if counted != expected as f64 {
                let what =
                    format!("{process} counts {counted} in {counter} ({}), and {expected} happened", label.1);
                violation(violations, end, what);
            }
        }
        // Checks go on while the counters are read.
        for (result, ends) in [
            ("pass", [EndpointChange::Healthy(true), EndpointChange::CheckPassed]),
            ("fail", [EndpointChange::Healthy(false), EndpointChange::CheckFailed]),
        ] {
            let checks = availability.clone().filter(|s| ends.contains(&s.change));
            let (least, most) = (checks.clone().filter(|s| s.when.line < read).count(), checks.count());
            let label = ("result", result);
            let counted = facts.last(process, "proxy_health_checks_total", &[label]).unwrap_or_default();
            if counted < least as f64 || counted > most as f64 {
                let what =
                    format!("{process} counts {counted} checks ({result}), and {least} to {most} were");
                violation(violations, end, what);
            }
        }
    }
}
