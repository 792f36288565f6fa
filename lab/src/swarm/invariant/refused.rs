//! A stream that an app refuses unprocessed costs no call: the app's sidecar repeats it, then the
//! caller's sidecar at another endpoint, and in the end the caller. After a GOAWAY the next
//! connection works like the last one.

use std::collections::BTreeMap;

use super::lively::is_tight;
use super::{Invariant, Violation, violation};
use crate::app::http::behaviour::BehaviourChange;
use crate::swarm::facts::{Call, Facts};

pub(super) const INVARIANT: Invariant =
    Invariant { name: "refused", says: "what an app refuses unprocessed is retried", check };

/// The last part of a request's time or of an attempt, in which nothing new may begin,
/// microseconds.
const AT_THE_END: u64 = 100_000;
/// Refusals that may cost a call in any case: two of each attempt, and callers attempt twice.
const REFUSALS: usize = 4;

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (id, call) in &facts.calls {
        if !facts.is_call(id) {
            continue;
        }
        let (Some(&sent), Some((ended, outcome))) = (call.sent.first(), call.ended.first()) else { continue };
        let Some(cluster) = facts.called_by(id) else { continue };
        let limits = [facts.limit_of(id), cluster.timeouts.request];
        let limit = limits.into_iter().flatten().min().map_or(u64::MAX, |limit| limit.as_micros() as u64);
        let is_in_time = |at: u64, limit: u64| at + AT_THE_END < sent.saturating_add(limit);
        let per_try =
            cluster.timeouts.attempt_timeouts.per_try.map_or(u64::MAX, |limit| limit.as_micros() as u64);
        for (at, app) in once(call) {
            let is_harmless = |change: &BehaviourChange| change.malformed.or(change.reset_streams).is_none();
            // A hedge may win.
            if cluster.retry.hedge.is_none()
                && is_in_time(at, limit.min(per_try))
                && outcome != "Timeout"
                && facts.is_calm(is_harmless, sent, *ended)
            {
                violation(violations, at, format!("{app} refused {id} unprocessed, and no retry came"));
            }
        }
        let is_harmless = |change: &BehaviourChange| {
            BehaviourChange { refuse_streams: None, goaway: None, unhealthy: None, ..*change }
                == BehaviourChange::default()
        };
        // It takes a while until the first endpoint is found.
        let is_known = cluster.discovery.is_none() || sent > facts.t0_us + 500_000;
        if outcome != "Ok"
            && is_known
            && call.refused.len() < REFUSALS
            && is_in_time(*ended, limit)
            && !is_tight(&cluster.limits)
            && cluster.balance.panic > 0.0
            && facts.is_calm(is_harmless, sent, *ended)
        {
            let times = call.refused.len();
            let what = format!("{id} ended with {outcome}, and was refused unprocessed {times} times");
            violation(violations, *ended, what);
        }
    }
}

/// The first attempts of a call that reached an app once, and were refused: when, and by which.
fn once(call: &Call) -> Vec<(u64, &str)> {
    let mut attempts: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (at, app, _) in call.refused.iter().filter(|(.., nth)| nth == "0") {
        attempts.entry(app).or_insert((*at, 0)).1 += 1;
    }
    for ((_, app), _) in call.arrived.iter().zip(&call.nths).filter(|(_, nth)| *nth == "0") {
        attempts.entry(app).and_modify(|(_, times)| *times += 1);
    }
    attempts.into_iter().filter(|(_, (_, times))| *times == 1).map(|(app, (at, _))| (at, app)).collect()
}
