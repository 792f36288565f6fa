//! Once faults are over the mesh is well again, soon and without help, however it was treated before.
//!
//! Two phases, as in TigerBeetle's VOPR: first anything may happen and only safety is asked for; then faults end, but for
//! those that stay for ever at some of the replicas, and in the last stretch requests must succeed. With a fault that
//! stays, some may still fail: those that ask whether it is over, and cannot be made again. So may some where limits are
//! narrow.

use std::collections::BTreeSet;

use super::{Breach, Law, breach};
use crate::plan::{Action, Entry};
use crate::swarm::facts::Facts;
use crate::swarm::schedule::LIVELY_MS;
use proxy::config::BalancePolicy;

pub(super) const LAW: Law = Law { name: "lively", says: "when faults are over, requests succeed", check };

/// The share of requests that may fail while something stays broken at the smaller part of the replicas.
const TOLERATED: f64 = 0.5;
/// The same where the balancer avoids what fails.
const TOLERATED_BY_P2C: f64 = 0.35;
/// The share that may if the larger part is broken: then availability counts for nothing, and nothing is promised.
const TOLERATED_IN_PANIC: f64 = 1.0;

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    let duration = facts.plan.duration.as_micros() as u64;
    let from = facts.t0_us + duration.saturating_sub(LIVELY_MS * 1000);
    // Faults that end late leave no time to recover.
    let over = facts.plan.timeline.iter().filter_map(|entry| entry.until).max();
    let settled = over.map_or(0, |over| over.as_micros() as u64) + 1_000 * (LIVELY_MS + 300);
    if facts.t0_us + settled > from {
        return;
    }
    let late = facts.calls.iter().filter(|(_, call)| call.sent.first().is_some_and(|at| *at >= from));
    let (mut all, mut failed) = (0, Vec::new());
    for (id, call) in late {
        all += 1;
        if let Some((at, outcome)) = call.ended.first().filter(|(_, outcome)| outcome != "Ok") {
            failed.push((*at, format!("{id} ended with {outcome}")));
        }
    }
    let tolerated = (f64::from(all) * tolerated(facts)) as usize;
    if failed.len() > tolerated {
        let (at, first) = failed[0].clone();
        let what = format!("{} of the last {all} requests failed; {first}", failed.len());
        breach(breaches, at, what);
    }
}

fn tolerated(facts: &Facts) -> f64 {
    let broken: BTreeSet<usize> = facts.plan.timeline.iter().flat_map(broken_for_ever).collect();
    let replicas = facts.plan.instances.iter().filter(|instance| instance.app.is_some()).count();
    // Limits that a mesh without a fault would meet too, now and then.
    let tight = facts
        .clusters()
        .any(|(_, cluster)| cluster.limits.connections < 100 || cluster.limits.requests < 100);
    let avoids = facts.clusters().all(|(_, cluster)| cluster.balance.policy == BalancePolicy::P2c);
    match broken.len() {
        0 if !tight => 0.0,
        few if 2 * few <= replicas && avoids && !tight => TOLERATED_BY_P2C,
        few if 2 * few <= replicas => TOLERATED,
        _ => TOLERATED_IN_PANIC,
    }
}

fn broken_for_ever(entry: &Entry) -> Vec<usize> {
    match &entry.action {
        _ if entry.until.is_some() => Vec::new(),
        Action::Kill { processes, .. } | Action::Pause { processes } | Action::App { processes, .. } => {
            processes.iter().map(|process| process.instance).collect()
        }
        Action::Link { links } => links.iter().map(|link| link.to).collect(),
    }
}
