//! Unread responses and open calls of one caller do not delay others: a request reaches an app at
//! once, and a response its caller.
//!
//! Requests share connections between sidecars, and some apps allow few streams. A request that
//! waits for a stream or a flow-control window waits for as long as somebody else decides, and no
//! counter shows it.

use super::lively::is_tight;
use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Call, Facts};
use crate::swarm::identity::is_strangers;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "blocking",
    says: "no request waits for what other callers leave unread or open",
    check,
};

/// Steps of time on the way to an app if each connection is opened: for the handshakes of TCP and
/// HTTP/2, and the request.
const STEPS: u64 = 16;
/// The same back over connections that are open.
const STEPS_BACK: u64 = 8;
/// How often the links are crossed on the way to an app, at most.
const CROSSED: u64 = 6;
/// The last part of a request's time, in which a response may come too late, microseconds.
const AT_THE_END: u64 = 150_000;

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    if facts.chaos.most > 0 || !facts.plan.loads.iter().any(|load| facts.is_held(&format!("{} 0", load.name)))
    {
        return;
    }
    let delays = facts.plan.links.iter().map(|link| link.profile.delay.as_micros() as u64);
    let delay = delays.max().unwrap_or_default();
    let [there, back] = [STEPS, STEPS_BACK].map(|steps| steps * facts.tick_us + CROSSED * delay);
    for (id, call) in &facts.calls {
        let (Some(&sent), Some(&(ended, _))) = (call.sent.first(), call.ended.first()) else { continue };
        let Some(cluster) = facts.called_by(id) else { continue };
        let limit = [facts.limit_of(id), cluster.timeouts.request].into_iter().flatten().min();
        let is_late = limit.is_some_and(|limit| ended + AT_THE_END >= sent + limit.as_micros() as u64);
        // With `panic` at 0 there may be no endpoint to pick.
        if is_strangers(id)
            || facts.is_held(id)
            || is_tight(&cluster.limits)
            || cluster.balance.panic == 0.0
            || is_late
        {
            continue;
        }
        if !facts.is_calm(
            |change| change.malformed.or(change.refuse_streams).or(change.goaway).is_none(),
            sent,
            ended,
        ) {
            continue;
        }
        let arrived = call.arrived.first().map_or(ended, |(at, _)| *at);
        if arrived > sent + there {
            let late = (arrived - sent) / 1000;
            violation(violations, arrived, format!("{id} was on its way to an app for {late} ms"));
        }
        if let Some(answered) = answered(call).filter(|answered| ended > *answered + back) {
            let late = (ended - answered) / 1000;
            violation(violations, ended, format!("{id} was answered, and its caller had it {late} ms later"));
        }
    }
}

/// When an app answered a call well, if that is the last that was heard of it.
fn answered(call: &Call) -> Option<u64> {
    let (answered, _) = call.answered.last().filter(|(_, status)| *status < 400)?;
    call.arrived.iter().all(|(at, _)| at <= answered).then_some(*answered)
}
