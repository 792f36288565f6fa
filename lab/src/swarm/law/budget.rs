//! Retries are paid for by successes: at no time have there been more than the reserve, the trickle and the share of the
//! successes pay for, and while that is there none is denied for want of it. The same bucket as [`proxy::retry::Budget`], kept once more and apart from it.

use super::{Breach, Law, breach};
use crate::swarm::facts::{Facts, Moment, Request, Step};

pub(super) const LAW: Law =
    Law { name: "budget", says: "retries are what successes have paid for, neither more nor less", check };

/// What happens to the bucket.
enum Turn {
    Paid,
    /// The sidecar says how many whole tokens it has left, if it does.
    Spent(Option<u64>),
    /// There was nothing to spend.
    Denied,
}

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters() {
        let config = &cluster.retry_budget;
        // Who starts anew has a full bucket, and another configuration another bucket.
        if facts.is_ended(process) || !facts.keeps(process, &cluster.name, |cluster| &cluster.retry_budget) {
            continue;
        }
        let mut turns: Vec<_> = facts.requests_to(process, &cluster.name).flat_map(turns).collect();
        turns.sort_by_key(|(when, _)| *when);
        let most = f64::from(config.reserve);
        let (mut level, mut paid_to) = (most, 0);
        for (Moment { at, .. }, turn) in turns {
            level = (level + (at - paid_to) as f64 / 1e6 * f64::from(config.per_second)).min(most);
            paid_to = at;
            match turn {
                Turn::Paid => level = (level + config.share).min(most),
                Turn::Spent(_) => level -= 1.0,
                Turn::Denied if level > 1.01 => {
                    let what = format!("{process} was denied a retry, and {level:.2} were paid for");
                    breach(breaches, at, what);
                    break;
                }
                Turn::Denied => {}
            }
            if level < -0.01 {
                breach(breaches, at, format!("{process} has made a retry that nothing has paid for"));
                break;
            }
            if let Turn::Spent(Some(left)) = turn
                && !(left as f64 - 0.01..left as f64 + 1.01).contains(&level)
            {
                let what = format!("{process} has {left} retries left, and {level:.2} are paid for");
                breach(breaches, at, what);
                break;
            }
        }
    }
}

fn turns(request: &Request) -> Vec<(Moment, Turn)> {
    let mut turns = Vec::new();
    let (mut open, mut free) = (0_u32, false);
    let mut again = false;
    for (when, step) in &request.steps {
        match step {
            Step::Answered { status, grpc, .. } => {
                // A status in trailers comes too late to count.
                if *status < 500 && matches!(grpc, None | Some(0)) {
                    turns.push((*when, Turn::Paid));
                }
                (open, free) = (open.saturating_sub(1), false);
            }
            // Nobody had begun with it, so its repetition takes its place.
            Step::Failed { error, unsent, .. } => {
                (open, free) = (open.saturating_sub(1), *unsent || error == "refused");
            }
            Step::Again { budget, .. } => {
                if !free {
                    turns.push((*when, Turn::Spent(Some(*budget))));
                }
                again = true;
            }
            Step::Picked { .. } => {
                // A second try beside the first.
                if open > 0 && !again {
                    turns.push((*when, Turn::Spent(None)));
                }
                (open, again) = (if again { 1 } else { open + 1 }, false);
            }
            Step::GivenUp(why) if why == "budget" => turns.push((*when, Turn::Denied)),
            Step::GivenUp(_) | Step::Done(_) => {}
        }
    }
    turns
}
