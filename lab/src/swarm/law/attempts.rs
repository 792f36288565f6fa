//! No request is tried more often than `retry.attempts` allows, none for another reason than `retry.on` names, and none again after
//! its caller was answered. A second try beside the first counts as one. And none is forgotten: after a failure that calls
//! for another try there is one, or a reason why not. A body that is longer than what is kept of one is not sent twice.

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Request, Step};
use proxy::config::{Condition, Retry};
use proxy::retry::condition;

pub(super) const LAW: Law =
    Law { name: "attempts", says: "a request is tried as often as it may be, and for a reason", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        let (most, picks) = (cluster.retry.attempts as usize + 1, request.picks().count());
        if picks > most {
            let what = format!("a request was tried {picks} times, and {most} are allowed");
            breach(breaches, request.begun, what);
        }
        let done = request.steps.iter().position(|(_, step)| matches!(step, Step::Done(_)));
        if let Some((when, step)) = done.and_then(|done| request.steps.get(done + 1)) {
            breach(breaches, when.at, format!("after its caller was answered, a request went on: {step:?}"));
        }
        reasons(request, &cluster.retry, breaches);
    }
    // Then a whole body has been read by the time that its first try is answered.
    if facts.chaos.most == 0 {
        unkept(facts, breaches);
    }
}

/// Looks for bodies that were sent again although they are too long to be kept.
fn unkept(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (id, call) in &facts.calls {
        let (Some(length), Some(cluster)) = (facts.body_of(id), facts.called_by(id)) else { continue };
        if length <= cluster.retry.body as u64 {
            continue;
        }
        // What an app's own sidecar sends again is no other try.
        let [(_, _), (again, _), ..] = call.arrived[..] else { continue };
        let answered = call.answered.first().is_some_and(|(at, _)| *at < again);
        if answered && call.nths[0] != call.nths[1] {
            let kept = cluster.retry.body;
            let what = format!("{id} was answered and made again with {length} bytes, and {kept} are kept");
            breach(breaches, again, what);
        }
    }
}

/// Whether a condition of this name calls for retries.
fn is_on(retry: &Retry, name: &str) -> bool {
    Condition::ALL.into_iter().any(|condition| condition.name() == name && retry.on.contains(condition))
}

/// Looks at why a request was tried again, or was not.
fn reasons(request: &Request, retry: &Retry, breaches: &mut Vec<Breach>) {
    let tries = |step: &Step| matches!(step, Step::Picked { .. });
    for (position, (when, step)) in request.steps.iter().enumerate() {
        if let Step::Again { reason, .. } = step
            && !is_on(retry, reason)
        {
            breach(breaches, when.at, format!("a request was tried again for {reason}, which is no reason"));
        }
        let Some(ended) = step.ended() else { continue };
        // A second try beside it may still be under way.
        let alone =
            retry.hedge.is_none() || request.steps[..position].iter().filter(|(_, s)| tries(s)).count() == 1;
        let next = request.steps.get(position + 1).map(|(_, step)| step);
        let settled = matches!(next, Some(Step::Again { .. } | Step::GivenUp(_)));
        if retry.attempts > 0 && alone && !settled && condition::reason(retry, ended).is_some() {
            breach(breaches, when.at, format!("nothing was said of another try after {step:?}"));
        }
    }
}
