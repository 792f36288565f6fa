//! Bodies arrive complete, on the first attempt and on a retry; a response belongs to its request;
//! and a request that no app has answered well is no success, even if an app has broken HTTP.
//!
//! A response breaks off only if something has gone wrong with the endpoint that sends it. A
//! connection that is reused before its last response was read to the end would cause exactly that.

use super::{Invariant, Violation, violation};
use crate::fault::Action;
use crate::swarm::facts::Facts;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "bodies",
    says: "what arrives complete is what was sent, and an answer is the right one",
    check,
};

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (id, call) in &facts.calls {
        let at = call.sent.first().copied().unwrap_or_default();
        let sent = facts.body_of(id);
        if let Some(length) = sent
            && let Some(other) = call.lengths.iter().find(|other| **other != length)
        {
            violation(violations, at, format!("an app got {other} bytes of {id}, which has {length}"));
        }
        if call.ended.iter().any(|(_, outcome)| outcome == "Mismatch") {
            violation(
                violations,
                at,
                format!("{id} got the response to another request, or an incomplete one"),
            );
        }
        if call
            .ended
            .iter()
            .any(|(ended, outcome)| outcome == "Reset" && is_for_nothing(facts, id, at, *ended))
        {
            violation(violations, call.ended[0].0, format!("{id} broke off without a fault"));
        }
        // An app that takes lines over TCP says nothing of them.
        let succeeded = call.ended.iter().find(|(_, outcome)| outcome == "Ok" && sent.is_some());
        if let Some((ended, _)) = succeeded
            && !call.answered.iter().any(|(at, status)| at <= ended && *status < 400)
        {
            violation(
                violations,
                *ended,
                format!("{id} succeeded, and no app has answered it with a success"),
            );
        }
        if let Some((length, by)) = call.got.as_ref().filter(|_| succeeded.is_some()) {
            let app = facts.app_of(by);
            if app.is_none_or(|app| facts.answer_of(id, app) != Some(*length)) {
                let what =
                    format!("{id} was answered with {length} bytes by `{by}`, which sends no such answer");
                violation(violations, at, what);
            }
        }
    }
}

/// The last part of a request's time, in which its response may begin and not end, microseconds.
const AT_THE_END: u64 = 100_000;

/// Whether no fault can explain that a request that was sent at `sent` breaks off at `ended`.
fn is_for_nothing(facts: &Facts, id: &str, sent: u64, ended: u64) -> bool {
    let (Some(cluster), Some((caller, sidecar))) = (facts.called_by(id), facts.caller_of(id)) else {
        return false;
    };
    let limit = [facts.limit_of(id), cluster.timeouts.request].into_iter().flatten().min();
    let is_out_of_time = limit.is_some_and(|limit| ended + AT_THE_END >= sent + limit.as_micros() as u64);
    // A reload may give it less.
    let reloads = facts.plan.timeline.iter().any(|entry| matches!(entry.action, Action::Configure(_)));
    let members = facts.members(&cluster.name).iter().chain([&caller]);
    !is_out_of_time
        && !reloads
        && facts.is_steady(&sidecar)
        && members.into_iter().all(|instance| facts.is_undisturbed(*instance, sent, ended))
}
