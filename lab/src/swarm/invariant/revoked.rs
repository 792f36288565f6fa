//! A sidecar that hears of a revocation ends what the revoked workload has open with it, and takes
//! nothing more of it; and it hears of it in time.
//!
//! When it has heard is what it logs; what it does then is read off the network and the apps. That
//! a peer whose root is gone has the time of a drain is a story of `tests/tests/sim_tls.rs`: a root
//! outlives a run of the swarm.

use std::rc::Rc;

use super::{Invariant, Violation, violation};
use crate::fault::Action;
use crate::plan::IdentitySource;
use crate::sim::{Crossing, Who};
use crate::swarm::facts::{Facts, LogPosition};
use crate::swarm::lines::Note;
use proxy::telemetry::LogEvent;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "revoked", says: "whoever is revoked loses its connections and gets no others", check };

/// For a question of the authority and its answer, microseconds.
const ASKING: u64 = 400_000;

/// A revocation that has happened.
struct Revocation<'a> {
    /// When, microseconds.
    at: u64,
    /// Position of the service.
    service: usize,
    /// The identity that does not count any more.
    id: &'a str,
    /// Whose authority has revoked it.
    authority: usize,
}

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for revocation in revocations(facts) {
        for (position, instance) in facts.plan.instances.iter().enumerate() {
            if instance.service == revocation.service || instance.identity.is_none() {
                continue;
            }
            let process: Rc<str> = format!("{}/sidecar", instance.name).into();
            let heard = facts.sidecar_events().find(|(when, other, event)| {
                **other == process
                    && when.at >= revocation.at
                    && matches!(event, LogEvent::TrustChanged { .. })
            });
            match heard {
                Some((when, ..)) => holds(facts, &revocation, (position, &process), when, violations),
                None => in_time(facts, &revocation, (position, &process), violations),
            }
        }
    }
}

fn revocations(facts: &Facts) -> impl Iterator<Item = Revocation<'_>> {
    facts.plan.timeline.iter().filter_map(|entry| {
        let Action::Revoke(revoke) = &entry.action else { return None };
        let is_told =
            |(_, note): &(LogPosition, &Note)| matches!(note, Note::Applied(fault) if *fault == entry.name);
        let (when, _) = facts.notes().find(is_told)?;
        let (authority, id) = facts.plan.certified(revoke.service).ok()?;
        Some(Revocation { at: when.at, service: revoke.service, id, authority })
    })
}

/// Whether a workload is revoked at that time.
pub(super) fn is_revoked(facts: &Facts, instance: usize, at: u64) -> bool {
    let service = facts.plan.instances[instance].service;
    revocations(facts).any(|revocation| revocation.service == service && revocation.at <= at)
}

/// What a sidecar does that has heard of it.
fn holds(
    facts: &Facts,
    revocation: &Revocation<'_>,
    (instance, process): (usize, &Rc<str>),
    heard: LogPosition,
    violations: &mut Vec<Violation>,
) {
    let is_of_revoked = |from: usize| facts.plan.instances[from].service == revocation.service;
    let soon = heard.at + 2 * facts.tick_us;
    let entries = || facts.plan.timeline.iter().filter(|entry| entry.action.touches(instance));
    let is_stopped = entries().any(|entry| entry.action.stops_processes());
    let coming = || {
        let to_it = facts.crossings.iter().filter(|crossing| crossing.to == instance);
        to_it.filter(|crossing| is_of_revoked(crossing.from) && crossing.who == Who::Sidecar)
    };
    let proofs = facts.sidecar_events().filter_map(|(when, other, event)| match event {
        LogEvent::ClientProved { identity, .. } if *other == *process && identity == revocation.id => {
            Some(when)
        }
        _ => None,
    });
    for proved in proofs {
        let accepted = |crossing: &&Crossing| {
            crossing.opened <= proved.at && crossing.closed[1].is_none_or(|closed| closed >= proved.at)
        };
        let candidates: Vec<&Crossing> = coming().filter(accepted).collect();
        if proved > heard && !candidates.is_empty() && candidates.iter().all(|c| c.opened > heard.at) {
            violation(violations, proved.at, format!("{process} has believed {} again", revocation.id));
        }
        if let [only] = candidates[..]
            && proved < heard
            && !is_stopped
            && only.closed[1].is_none_or(|closed| closed > soon)
        {
            let of = &facts.plan.instances[only.from].name;
            let what = format!("a connection of {of} to {process} is open, which has heard at {}", heard.at);
            violation(violations, soon, what);
        }
    }
    let app = format!("{}/app", facts.plan.instances[instance].name);
    for (id, call) in &facts.calls {
        let is_its = facts.caller_of(id).is_some_and(|(from, _)| is_of_revoked(from));
        let late = call.arrived.iter().find(|(at, by)| *at > soon && **by == *app);
        if let Some((at, _)) = late.filter(|_| is_its)
            && facts.is_undisturbed(instance, heard.at.saturating_sub(ASKING), *at)
        {
            violation(violations, *at, format!("{id} has reached {app}, whose sidecar has heard of it"));
        }
    }
}

/// A sidecar that nothing disturbs has heard of it after a while.
fn in_time(
    facts: &Facts,
    revocation: &Revocation<'_>,
    (instance, process): (usize, &Rc<str>),
    violations: &mut Vec<Violation>,
) {
    let authority = &facts.plan.authorities[revocation.authority];
    let asks = facts.plan.instances[instance].identity.as_ref();
    if asks.is_none_or(|identity| identity.source != IdentitySource::Authority(revocation.authority)) {
        return;
    }
    let until = revocation.at + (authority.certificate_lifetime / 10).as_micros() as u64 + ASKING;
    let renewed = facts.sidecar_events().any(|(when, other, event)| {
        *other == *process
            && (revocation.at..until).contains(&when.at)
            && matches!(event, LogEvent::CertificateInForce { .. })
    });
    let is_well = |instance: usize| facts.is_undisturbed(instance, 0, until);
    if !renewed && until < facts.end_us() && is_well(instance) && is_well(authority.instance) {
        violation(violations, until, format!("{process} has not heard that {} is revoked", revocation.id));
    }
}
