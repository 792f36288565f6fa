//! A request with a time limit is answered by then, and nothing is begun for it afterwards.

use super::{Breach, Law, breach};
use crate::swarm::facts::Facts;

pub(super) const LAW: Law = Law { name: "deadline", says: "a request is over when its time is", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for request in &facts.requests {
        let Some(cluster) = facts.cluster(&request.process, &request.cluster) else { continue };
        let Some(limit) = cluster.timeouts.request else { continue };
        // A timer may go off up to two steps late, and another one counts whole milliseconds.
        let end = request.begun + limit.as_micros() as u64 + 2 * facts.tick_us + 1_000;
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
