//! Once the faults are over, the mesh recovers soon and without help.
//!
//! There are two phases, as in TigerBeetle's VOPR. First anything may happen and only safety is
//! checked. Then the faults end, except for permanent ones at some of the replicas, and in the last
//! phase requests must succeed. With a permanent fault some may still fail: probes that cannot be
//! retried, and requests that meet narrow limits.

use std::collections::BTreeSet;

use super::{Invariant, Violation, violation};
use crate::app::{AppKind, AppSpec};
use crate::fault::{Action, Entry};
use crate::swarm::facts::{Facts, RequestStep};
use proxy::config::{BalancePolicy, ClusterLimits};

pub(super) const INVARIANT: Invariant =
    Invariant { name: "lively", says: "when faults are over, requests succeed", check };

/// The share of requests that may fail while something stays broken at the smaller part of the
/// replicas.
const TOLERATED: f64 = 0.5;
/// The same where the balancer avoids what fails.
const TOLERATED_BY_P2C: f64 = 0.35;
/// Of a handful of requests this many may fail in any case, if any may.
const BAD_LUCK: usize = 4;
/// The share that may fail if the larger part is broken: then the cluster is in panic mode, and
/// nothing is promised.
const TOLERATED_IN_PANIC: f64 = 1.0;

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    if !facts.is_settled() {
        return;
    }
    let from = facts.lively_from();
    let late = facts.calls.iter().filter(|(id, call)| {
        let may = !facts.is_denied(id) && !facts.is_of_revoked(id);
        call.sent.first().is_some_and(|at| *at >= from) && !is_too_slow(facts, id) && may
    });
    let (mut all, mut failed) = (0, Vec::new());
    for (id, call) in late {
        all += 1;
        if let Some((at, outcome)) = call.ended.first().filter(|(_, outcome)| outcome != "Ok") {
            failed.push((*at, format!("{id} ended with {outcome}")));
        }
    }
    let tolerated = match tolerated(facts) {
        0.0 => 0,
        share => ((f64::from(all) * share) as usize).max(BAD_LUCK),
    } + stale(facts, from);
    if failed.len() > tolerated {
        let (at, first) = failed[0].clone();
        let what = format!("{} of the last {all} requests failed; {first}", failed.len());
        violation(violations, at, what);
    }
}

/// Whether limits are so narrow that a mesh without a fault meets them now and then.
pub(super) fn is_tight(limits: &ClusterLimits) -> bool {
    limits.connections.min(limits.requests).min(limits.pending) < 100
}

/// Whether a request has less time than its caller needs for it.
fn is_too_slow(facts: &Facts, id: &str) -> bool {
    facts.is_held(id) && facts.called_by(id).is_some_and(|cluster| cluster.timeouts.request.is_some())
}

/// Requests that went over a stale connection to a machine that has lost its power since.
fn stale(facts: &Facts, from: u64) -> usize {
    let is_stale = |step: &RequestStep| matches!(step, RequestStep::Failed { endpoint, reused: true, .. } if facts.crashes(endpoint));
    let late = facts.requests.iter().filter(|request| request.begun >= from);
    late.filter(|request| request.steps.iter().any(|(_, step)| is_stale(step))).count()
}

fn tolerated(facts: &Facts) -> f64 {
    let broken: BTreeSet<usize> = facts.plan.timeline.iter().flat_map(broken_for_ever).collect();
    let is_replica = |app: &AppSpec| !matches!(app.kind, AppKind::Registry(_));
    let replicas = facts.plan.instances.iter().filter(|i| i.app.as_ref().is_some_and(is_replica)).count();
    let tight = facts.clusters().any(|(_, cluster)| is_tight(&cluster.limits));
    let patient = facts.clusters().any(|(_, cluster)| {
        cluster.outlier_detection.consecutive_failures == 0
            || cluster.timeouts.attempt_timeouts.per_try.is_none()
    });
    let held = facts.calls.keys().any(|id| facts.is_held(id));
    // An endpoint that fails only at times looks well in between.
    let fitful = |entry: &Entry| entry.until.is_none() && matches!(entry.action, Action::Behave(_));
    let avoids = !facts.plan.timeline.iter().any(fitful)
        && facts.clusters().all(|(_, cluster)| cluster.balance.policy == BalancePolicy::P2c);
    match broken.len() {
        0 if !tight => 0.0,
        few if 2 * few <= replicas && avoids && !tight => TOLERATED_BY_P2C,
        // Attempts at a machine that is gone hold the few permits for the whole of their time, if
        // it is never ejected or they have no limit, so that it takes long to be. So do callers
        // that are slow themselves.
        _ if tight && (patient || held) => TOLERATED_IN_PANIC,
        few if 2 * few <= replicas => TOLERATED,
        _ => TOLERATED_IN_PANIC,
    }
}

fn broken_for_ever(entry: &Entry) -> Vec<usize> {
    match &entry.action {
        _ if entry.until.is_some() => Vec::new(),
        Action::Impair(_) | Action::Partition(_) => entry.action.links().iter().map(|link| link.to).collect(),
        action => action.processes().iter().map(|process| process.instance).collect(),
    }
}
