//! Retries wait as long as they said they would, and never longer than they may: before the n-th up to (2^n - 1) times the base,
//! and up to the longest. Only the first goes at once, and only if nobody has begun with the request.

use std::time::Duration;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Step};

pub(super) const LAW: Law =
    Law { name: "backoff", says: "a retry comes neither sooner nor later than its back-off allows", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    let mut hasty = 0;
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        for triple in request.steps.windows(3) {
            let [(_, before), (when, Step::Again { wait, .. }), (next, step)] = triple else { continue };
            let (at, next) = (when.at, next.at);
            // A second try beside the first counts too.
            let nth = request.picks().filter(|(pick, ..)| pick < when).count();
            // No app of the lab says when it may be asked again.
            let longest = cluster.retry.base.saturating_mul((1 << nth.min(20)) - 1).min(cluster.retry.max);
            if *wait > longest {
                breach(breaches, at, format!("a retry waits {wait:?}, and at most {longest:?} is allowed"));
            }
            // With a second try beside the first, nobody says which of them it is made for.
            let may_go = cluster.retry.hedge.is_some()
                || nth == 1 && before.ended().is_some_and(|ended| ended.is_untouched());
            // One that is drawn so may be, but not two.
            if wait.is_zero() && !may_go && !longest.is_zero() {
                hasty += 1;
                if hasty == 2 {
                    breach(breaches, at, "a retry that has to wait goes at once, and it is not the first");
                }
            }
            let waited = Duration::from_micros(next - at);
            // tokio's timers count whole milliseconds.
            if matches!(step, Step::Picked { .. }) && waited + Duration::from_millis(1) < *wait {
                breach(breaches, next, format!("a retry that was to wait {wait:?} came after {waited:?}"));
            }
        }
    }
}
