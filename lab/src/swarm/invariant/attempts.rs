//! A request has at most as many attempts as `retry.attempts` allows. It is retried only for a
//! condition of `retry.on`, and never after its caller was answered. A hedge counts as an attempt.
//!
//! No retry is forgotten: after a failure that calls for one there is a retry, or a logged reason
//! why not. A body that is longer than the replay buffer is not sent twice.

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Facts, Request, RequestStep};
use proxy::config::{Retry, RetryCondition};
use proxy::retry::condition;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "attempts",
    says: "a request is attempted as often as allowed, and retried only for a reason",
    check,
};

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        let (most, picks) = (cluster.retry.attempts as usize + 1, request.picks().count());
        if picks > most {
            let what = format!("a request was attempted {picks} times, and {most} are allowed");
            violation(violations, request.begun, what);
        }
        let done = request.steps.iter().position(|(_, step)| matches!(step, RequestStep::Done(_)));
        if let Some((when, step)) = done.and_then(|done| request.steps.get(done + 1)) {
            violation(
                violations,
                when.at,
                format!("after its caller was answered, a request went on: {step:?}"),
            );
        }
        reasons(request, &cluster.retry, violations);
    }
    // Then a whole body has been read by the time that its first attempt is answered.
    if facts.chaos.most == 0 {
        unkept(facts, violations);
    }
}

/// Looks for bodies that were sent again although they are too long to be kept.
fn unkept(facts: &Facts, violations: &mut Vec<Violation>) {
    for (id, call) in &facts.calls {
        let (Some(length), Some(cluster)) = (facts.body_of(id), facts.called_by(id)) else { continue };
        if length <= cluster.retry.body as u64 {
            continue;
        }
        // What an app's own sidecar sends again is no other attempt.
        let [(_, _), (again, _), ..] = call.arrived[..] else { continue };
        let answered = call.answered.first().is_some_and(|(at, _)| *at < again);
        if answered && call.nths[0] != call.nths[1] {
            let kept = cluster.retry.body;
            let what = format!("{id} was answered and retried with {length} bytes, and {kept} are kept");
            violation(violations, again, what);
        }
    }
}

/// Whether a condition of this name calls for retries.
fn is_on(retry: &Retry, name: &str) -> bool {
    RetryCondition::ALL.into_iter().any(|condition| condition.name() == name && retry.on.contains(condition))
}

/// Looks at why a request was retried, or was not.
fn reasons(request: &Request, retry: &Retry, violations: &mut Vec<Violation>) {
    let attempts = |step: &RequestStep| matches!(step, RequestStep::Picked { .. });
    for (position, (when, step)) in request.steps.iter().enumerate() {
        if let RequestStep::Again { reason, .. } = step
            && !is_on(retry, reason)
        {
            violation(
                violations,
                when.at,
                format!("a request was retried for {reason}, which is not a configured condition"),
            );
        }
        let Some(ended) = step.ended() else { continue };
        // A hedge may still be in flight.
        let alone = retry.hedge.is_none()
            || request.steps[..position].iter().filter(|(_, s)| attempts(s)).count() == 1;
        let next = request.steps.get(position + 1).map(|(_, step)| step);
        let settled = matches!(next, Some(RequestStep::Again { .. } | RequestStep::GivenUp(_)));
        if retry.attempts > 0 && alone && !settled && condition::reason(retry, ended).is_some() {
            violation(
                violations,
                when.at,
                format!("no retry and no reason against one is logged after {step:?}"),
            );
        }
    }
}
