//! What a sidecar counts is what happened: its counters equal what its log tells.

use super::{Breach, Law, breach};
use crate::swarm::facts::{Change, Facts, Step};

pub(super) const LAW: Law = Law { name: "metrics", says: "counters equal what happened", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    let end = facts.end_us();
    let mut processes: Vec<_> = facts.clusters().map(|(process, _)| process).collect();
    processes.dedup();
    for process in processes {
        // Counters of a process that was started anew count anew.
        if restarted(facts, process) {
            continue;
        }
        let requests = facts.requests.iter().filter(|request| request.process == *process);
        let steps = || requests.clone().flat_map(|request| &request.steps).map(|(_, step)| step);
        let standings = facts.standings.iter().filter(|s| s.process == *process);
        let of = |what: fn(&Change) -> bool| standings.clone().filter(|s| what(&s.change)).count();
        for (counter, expected) in [
            ("proxy_retries_total", steps().filter(|step| matches!(step, Step::Again { .. })).count()),
            ("proxy_ejections_total", of(|change| matches!(change, Change::Ejected(..)))),
            ("proxy_ejection_probes_total", of(|change| *change == Change::Probing)),
        ] {
            let counted = facts.last(process, counter).unwrap_or_default();
            if counted != expected as f64 {
                let what = format!("{process} counts {counted} in {counter}, and {expected} happened");
                breach(breaches, end, what);
            }
        }
    }
}

fn restarted(facts: &Facts, process: &str) -> bool {
    let mut of_it = facts.plan.processes().filter(|id| facts.plan.process_name(*id) == process);
    of_it.any(|id| facts.plan.timeline.iter().any(|entry| entry.action.ends(id)))
}
