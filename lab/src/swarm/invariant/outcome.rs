//! Every request has exactly one outcome: none is lost, none ends twice, and none outlives its
//! caller. The final response of an endpoint is passed on unchanged.

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Facts, RequestStep};

pub(super) const INVARIANT: Invariant =
    Invariant { name: "outcome", says: "every request has exactly one outcome", check };

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (id, call) in &facts.calls {
        let at = call.sent.first().copied().unwrap_or_default();
        if (call.sent.len(), call.ended.len()) != (1, 1) {
            let (sent, ended) = (call.sent.len(), call.ended.len());
            violation(violations, at, format!("{id} was sent {sent} times and ended {ended} times"));
        }
    }
    for request in &facts.requests {
        for pair in request.steps.windows(2) {
            // If it comes later, it was a bad response, and the request has waited in vain for its
            // hedge.
            if let [(answered, RequestStep::Answered { status, .. }), (when, RequestStep::Done(other))] = pair
                && status != other
                && answered.at == when.at
            {
                violation(
                    violations,
                    when.at,
                    format!("a response with status {status} was passed on with {other}"),
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
        violation(violations, 0, what);
    }
}
