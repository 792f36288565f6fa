//! Every request has exactly one outcome: none is lost, none ends twice, and nobody outlives its caller. If an endpoint has the
//! last word, it is passed on as it is.

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Step};

pub(super) const LAW: Law = Law { name: "outcome", says: "every request has exactly one outcome", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (id, call) in &facts.calls {
        let at = call.sent.first().copied().unwrap_or_default();
        if (call.sent.len(), call.ended.len()) != (1, 1) {
            let (sent, ended) = (call.sent.len(), call.ended.len());
            breach(breaches, at, format!("{id} was sent {sent} times and ended {ended} times"));
        }
    }
    for request in &facts.requests {
        for pair in request.steps.windows(2) {
            // Later, it was a bad answer, and its request has waited in vain for that of a try beside it.
            if let [(answered, Step::Answered { status, .. }), (when, Step::Done(other))] = pair
                && status != other
                && answered.at == when.at
            {
                breach(
                    breaches,
                    when.at,
                    format!("an answer with status {status} was passed on with {other}"),
                );
            }
        }
    }
    // A caller that gives up leaves its request without an answer, and nothing else does.
    let unanswered = facts.requests.iter().filter(|request| request.done().is_none()).count();
    let left = |ended: &(u64, String)| ended.1 == "Timeout" || ended.1 == "Reset";
    let leaving = facts.calls.values().flat_map(|call| &call.ended).filter(|ended| left(ended)).count();
    if unanswered > leaving {
        let what = format!("{unanswered} requests were never answered, but only {leaving} callers left");
        breach(breaches, 0, what);
    }
}
