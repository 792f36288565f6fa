//! Retries wait as long as they said they would, and never longer than they may: before the n-th up to (2^n - 1) times the base,
//! and up to the longest.

use std::time::Duration;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Step};

pub(super) const LAW: Law =
    Law { name: "backoff", says: "a retry comes neither sooner nor later than its back-off allows", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        for pair in request.steps.windows(2) {
            let [(when, Step::Again { wait, .. }), (next, step)] = pair else { continue };
            let (at, next) = (when.at, next.at);
            // A second try beside the first counts too.
            let nth = request.picks().filter(|(pick, ..)| pick < when).count();
            // No app of the lab says when it may be asked again.
            let longest = cluster.retry.base.saturating_mul((1 << nth.min(20)) - 1).min(cluster.retry.max);
            if *wait > longest {
                breach(breaches, at, format!("a retry waits {wait:?}, and at most {longest:?} is allowed"));
            }
            let waited = Duration::from_micros(next - at);
            // tokio's timers count whole milliseconds.
            if matches!(step, Step::Picked { .. }) && waited + Duration::from_millis(1) < *wait {
                breach(breaches, next, format!("a retry that was to wait {wait:?} came after {waited:?}"));
            }
        }
    }
}
