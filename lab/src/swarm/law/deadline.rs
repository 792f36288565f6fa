//! A request with a time limit is answered by then, and nothing is begun for it afterwards; and so it is with each of its
//! tries.

use std::time::Duration;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Request, Step};

pub(super) const LAW: Law =
    Law { name: "deadline", says: "a request is over when its time is, and so is a try", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        // A timer may go off up to two steps late, and another one counts whole milliseconds.
        let room = 2 * facts.tick_us + 1_000;
        if let Some(limit) = cluster.timeouts.tries.per_try
            && facts.is_steady(&request.process)
        {
            tries(request, limit, limit.as_micros() as u64 + room, breaches);
        }
        let Some(limit) = cluster.timeouts.request else { continue };
        let end = request.begun + limit.as_micros() as u64 + room;
        for (when, step) in &request.steps {
            if let Step::Again { wait, .. } = step
                && when.at + wait.as_micros() as u64 > end
            {
                let what =
                    format!("a retry is to wait {wait:?}, and by then the request's {limit:?} are over");
                breach(breaches, when.at, what);
            }
        }
        if let Some((when, step)) = request.steps.iter().find(|(when, _)| when.at > end) {
            let (at, late) = (when.at, when.at - request.begun);
            breach(
                breaches,
                at,
                format!("{late} us after it began, a request with {limit:?} to live: {step:?}"),
            );
        }
    }
}

/// Looks at the tries of a request, none of which may take longer than `most` microseconds.
fn tries(request: &Request, limit: Duration, most: u64, breaches: &mut Vec<Breach>) {
    for (when, step) in &request.steps {
        let (Step::Answered { endpoint, .. } | Step::Failed { endpoint, .. }) = step else { continue };
        let began = request.tried(endpoint, *when).filter(|began| when.at - began > most);
        if let Some(began) = began {
            let took = Duration::from_micros(when.at - began);
            breach(
                breaches,
                when.at,
                format!("a try at {endpoint} took {took:?}, and {limit:?} are allowed"),
            );
        }
    }
}
