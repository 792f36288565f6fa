//! What an app has refused before it looked at it costs nobody a call. Its own sidecar asks once more, and its caller's sidecar
//! elsewhere, and at last the caller; and where an app says GOAWAY, the next connection is as good as the last.

use std::collections::BTreeMap;

use super::lively::is_tight;
use super::{Breach, Law, breach};
use crate::plan::Change;
use crate::swarm::facts::{Call, Facts};

pub(super) const LAW: Law =
    Law { name: "refused", says: "what an app refuses unprocessed is made again", check };

/// The last part of a request's time or of a try, in which nothing may be begun any more, microseconds.
const AT_THE_END: u64 = 100_000;
/// Refusals that may cost a call in any case: two of each try, and callers try twice.
const REFUSALS: usize = 4;

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
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
            let is_harmless = |change: &Change| change.malformed.or(change.reset_streams).is_none();
            // A try beside it may win.
            if cluster.retry.hedge.is_none()
                && is_in_time(at, limit.min(per_try))
                && outcome != "Timeout"
                && facts.is_calm(is_harmless, sent, *ended)
            {
                breach(breaches, at, format!("{app} refused {id} unprocessed, and was not asked again"));
            }
        }
        let is_harmless = |change: &Change| {
            Change { refuse_streams: None, goaway: None, unhealthy: None, ..*change } == Change::default()
        };
        // It takes a moment until the first endpoint is found.
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
            breach(breaches, *ended, what);
        }
    }
}

/// The first tries of a call that reached an app once, and were refused: when, and by which.
fn once(call: &Call) -> Vec<(u64, &str)> {
    let mut tries: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (at, app, _) in call.refused.iter().filter(|(.., nth)| nth == "0") {
        tries.entry(app).or_insert((*at, 0)).1 += 1;
    }
    for ((_, app), _) in call.arrived.iter().zip(&call.nths).filter(|(_, nth)| *nth == "0") {
        tries.entry(app).and_modify(|(_, times)| *times += 1);
    }
    tries.into_iter().filter(|(_, (_, times))| *times == 1).map(|(app, (at, _))| (at, app)).collect()
}
