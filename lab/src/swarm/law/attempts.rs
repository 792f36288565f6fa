//! No request is tried more often than `retry.attempts` allows, and none again after its caller was answered. A second try
//! beside the first counts as one.

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Step};

pub(super) const LAW: Law =
    Law { name: "attempts", says: "no request is tried more often than it may be", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for request in &facts.requests {
        let Some(cluster) = facts.cluster(&request.process, &request.cluster) else { continue };
        let (most, picks) = (cluster.retry.attempts as usize + 1, request.picks().count());
        if picks > most {
            let what = format!("a request was tried {picks} times, and {most} are allowed");
            breach(breaches, request.begun, what);
        }
        let done = request.steps.iter().position(|(_, step)| matches!(step, Step::Done(_)));
        if let Some((when, step)) = done.and_then(|done| request.steps.get(done + 1)) {
            breach(breaches, when.at, format!("after its caller was answered, a request went on: {step:?}"));
        }
    }
}
