//! When no caller asks for anything any more, nothing is counted as in flight, and processes leave
//! no resource behind.

use super::{Invariant, Violation, violation};
use crate::swarm::facts::Facts;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "leaks", says: "when all requests have ended, none is counted as in flight", check };

const GAUGES: [&str; 5] = [
    "proxy_endpoint_requests_pending",
    "proxy_endpoint_requests_waiting",
    "proxy_requests_waiting",
    "proxy_load_requests",
    "proxy_requests_in_flight",
];

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    let end = facts.end_us();
    let unheard = facts.given_up_at_last() as f64;
    for (process, _) in facts.clusters() {
        for gauge in GAUGES {
            if let Some(left) = facts.last(process, gauge, &[]).filter(|left| *left != 0.0 && *left > unheard)
            {
                violation(violations, end, format!("{process} still counts {left} in {gauge}"));
            }
        }
    }
    for ended in &facts.seen.unexpected_exits {
        violation(violations, end, format!("{} ended by itself: {}", ended.process, ended.how));
    }
    if let Some(left) = &facts.seen.left_behind {
        violation(violations, end, left.to_string());
    }
}
