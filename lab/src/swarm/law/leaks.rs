//! When nobody asks for anything any more, nothing is under way, and nothing of what processes had is left behind.

use super::{Breach, Law, breach};
use crate::swarm::facts::Facts;

pub(super) const LAW: Law =
    Law { name: "leaks", says: "when all requests have ended, none is counted as under way", check };

const GAUGES: [&str; 5] = [
    "proxy_endpoint_requests_pending",
    "proxy_endpoint_requests_waiting",
    "proxy_requests_waiting",
    "proxy_load_requests",
    "proxy_requests_in_flight",
];

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    let end = facts.end_us();
    let unheard = facts.given_up_at_last() as f64;
    for (process, _) in facts.clusters() {
        for gauge in GAUGES {
            if let Some(left) = facts.last(process, gauge, &[]).filter(|left| *left != 0.0 && *left > unheard)
            {
                breach(breaches, end, format!("{process} still counts {left} in {gauge}"));
            }
        }
    }
    for ended in &facts.seen.unasked_ends {
        breach(breaches, end, format!("{} ended by itself: {}", ended.process, ended.how));
    }
    if let Some(left) = &facts.seen.left_behind {
        breach(breaches, end, left.to_string());
    }
}
