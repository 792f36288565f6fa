//! A request with a time limit is answered within it, and nothing is begun for it afterwards. The
//! same holds for each attempt, which has its full limit from when its endpoint was picked.
//!
//! A caller that sends its own deadline is answered by then, and every app is told the time that is
//! left, on each attempt.

use std::time::Duration;

use proxy::error::Kind;

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Facts, Request, RequestStep};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "deadline",
    says: "a request ends at its deadline, an attempt at its own, and every hop is told the time that is left",
    check,
};

/// Every hop may round it down to whole milliseconds, and no request has more than two.
const ROUNDED: Duration = Duration::from_millis(2);

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    told(facts, violations);
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        // A timer may go off up to two steps late, and another one counts whole milliseconds.
        let room = 2 * facts.tick_us + 1_000;
        if let Some(limit) = cluster.timeouts.attempt_timeouts.per_try
            && facts.is_steady(&request.process)
        {
            attempts(request, limit, room, violations);
        }
        let Some(limit) = cluster.timeouts.request else { continue };
        let end = request.begun + limit.as_micros() as u64 + room;
        for (when, step) in &request.steps {
            if let RequestStep::Again { wait, .. } = step
                && when.at + wait.as_micros() as u64 > end
            {
                let what =
                    format!("a retry is to wait {wait:?}, and by then the request's {limit:?} are over");
                violation(violations, when.at, what);
            }
        }
        if let Some((when, step)) = request.steps.iter().find(|(when, _)| when.at > end) {
            let (at, late) = (when.at, when.at - request.begun);
            violation(
                violations,
                at,
                format!("{late} us after it began, a request with {limit:?} to live: {step:?}"),
            );
        }
    }
}

/// Looks at the attempts of a request: none may take longer than the limit, give or take `room`
/// microseconds, and none is given up before.
fn attempts(request: &Request, limit: Duration, room: u64, violations: &mut Vec<Violation>) {
    for (when, step) in &request.steps {
        let (RequestStep::Answered { endpoint, .. } | RequestStep::Failed { endpoint, .. }) = step else {
            continue;
        };
        let Some(began) = request.tried(endpoint, *when) else { continue };
        let (took, allowed) = (when.at - began, limit.as_micros() as u64);
        let was_given_up =
            matches!(step, RequestStep::Failed { error, .. } if error == Kind::TryTimeout.label());
        let what = match was_given_up {
            _ if took > allowed + room => "took",
            true if took + room < allowed => "was given up after",
            _ => continue,
        };
        let took = Duration::from_micros(took);
        violation(
            violations,
            when.at,
            format!("an attempt at {endpoint} {what} {took:?}, and {limit:?} are allowed"),
        );
    }
}

/// Checks the deadlines that callers send and what apps are told of them.
fn told(facts: &Facts, violations: &mut Vec<Violation>) {
    let delays = facts.plan.links.iter().map(|link| link.profile.delay).max().unwrap_or_default();
    // To a sidecar, from it to another one, and from that to the app: a step each, and another one
    // to be read.
    let on_the_way = delays + Duration::from_micros(6 * facts.tick_us) + ROUNDED;
    for (id, call) in &facts.calls {
        let (Some(&sent), limit) = (call.sent.first(), facts.limit_of(id)) else { continue };
        let Some((caller, sidecar)) = facts.caller_of(id) else { continue };
        if let Some(limit) = limit
            && let Some((ended, outcome)) = call.ended.first()
            && facts.is_steady(&sidecar)
            && facts.chaos.most == 0
            && *ended > sent + (limit + on_the_way).as_micros() as u64
        {
            let took = Duration::from_micros(ended - sent);
            let what =
                format!("{id} ended with {outcome} after {took:?}, and its caller's deadline is {limit:?}");
            violation(violations, *ended, what);
        }
        for ((at, app), left) in call.arrived.iter().zip(&call.left) {
            let remains = limit.map(|limit| limit.saturating_sub(Duration::from_micros(at - sent)));
            let (Some(left), Some(remains)) = (*left, remains) else {
                if left.is_some() != remains.is_some() {
                    violation(
                        violations,
                        *at,
                        format!("{app} was told that {left:?} are left for {id}, and {remains:?} are"),
                    );
                }
                continue;
            };
            let name = app.split('/').next().unwrap_or_default();
            let instance = facts.plan.instances.iter().position(|instance| instance.name == name);
            let is_quick = [instance, Some(caller)]
                .into_iter()
                .all(|instance| instance.is_some_and(|instance| facts.is_undisturbed(instance, sent, *at)));
            if left + ROUNDED < remains || is_quick && left > remains + on_the_way {
                violation(
                    violations,
                    *at,
                    format!("{app} was told that {left:?} are left for {id}, and {remains:?} are"),
                );
            }
        }
    }
}
