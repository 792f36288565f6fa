//! Retries are paid for by successes: there are never more than the reserve, the trickle and the
//! share of successes allow, and none is denied while the budget has a token. This is the token
//! bucket of [`proxy::retry::Budget`], implemented a second time and independently.

use super::{Invariant, Violation, violation};
use crate::swarm::facts::{Facts, LogPosition, Request, RequestStep};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "budget",
    says: "retries are what successes have paid for, neither more nor less",
    check,
};

/// A change of the bucket.
enum Turn {
    Paid,
    /// The sidecar says how many whole tokens it has left, if it does.
    Spent(Option<u64>),
    /// There was nothing to spend.
    Denied,
}

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (process, cluster) in facts.clusters() {
        let config = &cluster.retry_budget;
        // A restarted sidecar has a full bucket, and another configuration another bucket.
        if facts.is_ended(process) || !facts.keeps(process, &cluster.name, |cluster| &cluster.retry_budget) {
            continue;
        }
        let mut turns: Vec<_> = facts.requests_to(process, &cluster.name).flat_map(turns).collect();
        turns.sort_by_key(|(when, _)| *when);
        let most = f64::from(config.reserve);
        let (mut level, mut paid_to) = (most, 0);
        for (LogPosition { at, .. }, turn) in turns {
            level = (level + (at - paid_to) as f64 / 1e6 * f64::from(config.per_second)).min(most);
            paid_to = at;
            match turn {
                Turn::Paid => level = (level + config.share).min(most),
                Turn::Spent(_) => level -= 1.0,
                Turn::Denied if level > 1.01 => {
                    let what = format!("{process} was denied a retry, and {level:.2} were paid for");
                    violation(violations, at, what);
                    break;
                }
                Turn::Denied => {}
            }
            if level < -0.01 {
                violation(violations, at, format!("{process} has made a retry without a token"));
                break;
            }
            if let Turn::Spent(Some(left)) = turn
                && !(left as f64 - 0.01..left as f64 + 1.01).contains(&level)
            {
                let what = format!("{process} has {left} retries left, and {level:.2} are paid for");
                violation(violations, at, what);
                break;
            }
        }
    }
}

fn turns(request: &Request) -> Vec<(LogPosition, Turn)> {
    let mut turns = Vec::new();
    let (mut open, mut free) = (0_u32, false);
    let mut again = false;
    for (when, step) in &request.steps {
        match step {
            RequestStep::Answered { status, grpc, .. } => {
                // A status in trailers comes too late to count.
                if *status < 500 && matches!(grpc, None | Some(0)) {
                    turns.push((*when, Turn::Paid));
                }
                (open, free) = (open.saturating_sub(1), false);
            }
            // It was never processed, so the retry replaces it.
            RequestStep::Failed { error, unsent, .. } => {
                (open, free) = (open.saturating_sub(1), *unsent || error == "refused");
            }
            RequestStep::Again { budget, .. } => {
                if !free {
                    turns.push((*when, Turn::Spent(Some(*budget))));
                }
                again = true;
            }
            RequestStep::Picked { .. } => {
                // A hedge.
                if open > 0 && !again {
                    turns.push((*when, Turn::Spent(None)));
                }
                (open, again) = (if again { 1 } else { open + 1 }, false);
            }
            RequestStep::GivenUp(why) if why == "budget" => turns.push((*when, Turn::Denied)),
            RequestStep::GivenUp(_) | RequestStep::Done(_) => {}
        }
    }
    turns
}
