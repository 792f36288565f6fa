//! Outlier detection does its work: an endpoint that fails too often in a row is ejected at once
//! unless the cap forbids it, one that was out for its time is probed, and one whose probe succeeds
//! is back at once. [`super::ejection`] is the other side, and says what must not happen.
//!
//! Failures are counted a second time, from the attempts in the log. The sidecar knows of more (a
//! body that breaks off, a request that has timed out), so it may be earlier, and never later.

use std::collections::BTreeMap;

use super::{Invariant, Violation, longest_run, violation};
use crate::swarm::endpoints::{EndpointEvent, KnownEndpoints, endpoint_events};
use crate::swarm::facts::{EndpointChange, Facts};
use proxy::config::{BalancePolicy, Cluster};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "trips",
    says: "an endpoint that fails too often in a row is ejected, and is back when its probe succeeds",
    check,
};

/// What is counted of an endpoint.
#[derive(Default)]
struct FailureCount {
    run: u32,
    /// Since when requests count: it was found, or came back.
    since: u64,
    /// Since when it is probed.
    probed: Option<u64>,
    /// When it has been out for its time.
    waits_from: Option<u64>,
    /// How many requests went to others since then.
    passed_over: u32,
}

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (process, cluster) in facts.clusters().filter(|(process, _)| facts.is_steady(process)) {
        // The log does not tell how gRPC calls end, because trailers come later than heads.
        if facts.speaks_grpc(&cluster.name) {
            continue;
        }
        let (known, counts) = (KnownEndpoints::new(cluster), BTreeMap::new());
        let mut detection = Detection { facts, process, cluster, known, counts, others_since: 0 };
        for (when, endpoint, event) in endpoint_events(facts, process, &cluster.name) {
            detection.hear(when.at, endpoint, &event, violations);
        }
    }
}

/// Outlier detection of one cluster in one sidecar, as far as the log has been read.
struct Detection<'a> {
    facts: &'a Facts,
    process: &'a str,
    cluster: &'a Cluster,
    known: KnownEndpoints,
    counts: BTreeMap<&'a str, FailureCount>,
    /// Since when there are the endpoints that there are now.
    others_since: u64,
}

impl<'a> Detection<'a> {
    fn hear(
        &mut self,
        at: u64,
        endpoint: &'a str,
        event: &EndpointEvent<'a>,
        violations: &mut Vec<Violation>,
    ) {
        match event {
            EndpointEvent::Changed(change) => self.changed(at, endpoint, change),
            EndpointEvent::Picked { is_first, panic, .. } => {
                if *is_first && !panic {
                    self.picked(at, endpoint, violations);
                }
            }
            EndpointEvent::Answered { status, begun, asked } => {
                self.ended(at, endpoint, (*begun, *asked, *status >= 500), violations);
            }
            EndpointEvent::Failed { error, unsent, reused, begun, asked } => {
                if blames(error, *unsent, *reused) {
                    self.ended(at, endpoint, (*begun, *asked, true), violations);
                }
            }
        }
    }

    fn changed(&mut self, at: u64, endpoint: &'a str, change: &EndpointChange) {
        self.known.hear(endpoint, change);
        if matches!(change, EndpointChange::Found | EndpointChange::Gone) {
            self.others_since = at;
            self.counts.values_mut().for_each(|count| count.passed_over = 0);
        }
        let count = self.counts.entry(endpoint).or_default();
        match change {
            EndpointChange::Found | EndpointChange::Restored(_) => {
                *count = FailureCount { since: at, ..FailureCount::default() }
            }
            EndpointChange::Ejected(time, _) => {
                let waits_from = Some(at + time.as_micros() as u64 + self.facts.tick_us);
                *count = FailureCount { waits_from, ..FailureCount::default() };
            }
            EndpointChange::Probing => (count.probed, count.waits_from) = (Some(at), None),
            // It will not be asked while its checks fail.
            EndpointChange::Healthy(_) | EndpointChange::CheckFailed => count.passed_over = 0,
            _ => {}
        }
    }

    /// An endpoint is picked, and so those are passed over that wait for their probe.
    fn picked(&mut self, at: u64, endpoint: &str, violations: &mut Vec<Violation>) {
        let known = &self.known;
        let most = most_passed_over(self.cluster, known.count());
        for (other, count) in self.counts.iter_mut().filter(|(other, _)| known.awaits_probe(other)) {
            if count.waits_from.is_none_or(|from| at <= from) || *other == endpoint {
                continue;
            }
            count.passed_over += 1;
            if most.is_some_and(|most| count.passed_over > most) {
                let what = format!("{other} has been out for its time, and is not probed");
                violation(violations, at, what);
                count.waits_from = None;
                count.passed_over = 0;
            }
        }
    }

    /// An attempt that began at `begun`, for a request that began at `asked`, has ended.
    fn ended(
        &mut self,
        at: u64,
        endpoint: &'a str,
        (begun, asked, failed): (u64, u64, bool),
        violations: &mut Vec<Violation>,
    ) {
        // A request counts for the cluster that it began with, in which others may be out or
        // another endpoint has the address.
        let is_of_others = asked < self.others_since || failed && asked == self.others_since;
        if !self.known.has(endpoint) || is_of_others {
            return;
        }
        let count = self.counts.entry(endpoint).or_default();
        let has_become = |is: fn(&EndpointChange) -> bool| {
            let mut changes = self.facts.availability_of(self.process, &self.cluster.name);
            changes.any(|s| s.when.at == at && s.endpoint == endpoint && is(&s.change))
        };
        match (self.known.is_ejected(endpoint), failed) {
            (true, false) => {
                if count.probed.is_some_and(|since| begun >= since)
                    && !has_become(|change| matches!(change, EndpointChange::Restored(_)))
                {
                    let what = format!("the probe of {endpoint} succeeded, and it is still out");
                    violation(violations, at, what);
                }
            }
            (true, true) => {}
            (false, _) if begun < count.since => {}
            (false, false) => count.run = 0,
            (false, true) => {
                count.run += 1;
                let most = self.cluster.outlier_detection.consecutive_failures;
                let (run, has_room) = (count.run, self.known.ejected() < self.known.cap(self.cluster));
                if (1..=run).contains(&most)
                    && has_room
                    && !has_become(|change| matches!(change, EndpointChange::Ejected(..)))
                {
                    let what = format!("{endpoint} failed {run} times in a row and is not ejected");
                    violation(violations, at, what);
                }
            }
        }
    }
}

/// How many requests may go to others while one of `all` endpoints waits for its probe: as many as
/// happen once in a hundred million times. It has no load, so it is picked whenever it is drawn.
fn most_passed_over(cluster: &Cluster, all: usize) -> Option<u32> {
    let share = match cluster.balance.policy {
        _ if cluster.balance.slow_start.is_some() || all < 2 => return None,
        BalancePolicy::P2c => 2.0 / all as f64,
        BalancePolicy::Random | BalancePolicy::LeastRequest { .. } => 1.0 / all as f64,
        BalancePolicy::RoundRobin => return Some(2 * all as u32),
        BalancePolicy::RingHash { .. } | BalancePolicy::Maglev { .. } => return None,
    };
    Some(longest_run(1.0 - share))
}

/// Whether an endpoint is to blame for a failure.
fn blames(error: &str, unsent: bool, reused: bool) -> bool {
    let was_stale = unsent && reused;
    let others = ["client", "pool_full", "pool_timeout", "no_socket", "overload", "refused"];
    !was_stale && !others.contains(&error)
}
