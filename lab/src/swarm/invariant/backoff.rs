//! Retries wait as long as the log says, and no longer than the back-off allows: before the n-th at
//! most (2^n - 1) times the base, and at most the maximum. Only the first retry may go at once, and
//! only if the failed attempt was never processed.

use std::time::Duration;

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Facts, RequestStep};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "backoff",
    says: "a retry comes neither sooner nor later than its back-off allows",
    check,
};

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    let mut hasty = 0;
    for request in &facts.requests {
        let Some(cluster) = facts.cluster_of(request) else { continue };
        for triple in request.steps.windows(3) {
            let [(_, before), (when, RequestStep::Again { wait, .. }), (next, step)] = triple else {
                continue;
            };
            let (at, next) = (when.at, next.at);
            // A hedge counts too.
            let nth = request.picks().filter(|(pick, ..)| pick < when).count();
            // No app of the lab sends Retry-After.
            let longest = cluster.retry.base.saturating_mul((1 << nth.min(20)) - 1).min(cluster.retry.max);
            if *wait > longest {
                violation(
                    violations,
                    at,
                    format!("a retry waits {wait:?}, and at most {longest:?} is allowed"),
                );
            }
            // With a hedge, the log does not say which attempt is retried.
            let may_go = cluster.retry.hedge.is_some()
                || nth == 1 && before.ended().is_some_and(|ended| ended.is_untouched());
            // One may be drawn as zero, but not two.
            if wait.is_zero() && !may_go && !longest.is_zero() {
                hasty += 1;
                if hasty == 2 {
                    violation(
                        violations,
                        at,
                        "a retry that has to wait goes at once, and it is not the first",
                    );
                }
            }
            let waited = Duration::from_micros(next - at);
            // tokio's timers count whole milliseconds.
            if matches!(step, RequestStep::Picked { .. }) && waited + Duration::from_millis(1) < *wait {
                violation(
                    violations,
                    next,
                    format!("a retry that was to wait {wait:?} came after {waited:?}"),
                );
            }
        }
    }
}
