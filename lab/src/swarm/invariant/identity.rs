//! Who proves who it is, proves it: the certificate is valid at that moment, and who answers at an
//! address is the workload that the plan has there and nobody else. And certificates are renewed
//! without a handshake that fails for it.
//!
//! What the sidecars say of certificates is what they have read in them. Who should be where is
//! taken from the plan.

use std::collections::BTreeSet;

use super::revoked::is_revoked;
use super::{Invariant, Violation, violation};
use crate::sim::EPOCH;
use crate::swarm::facts::{Facts, RequestStep};
use proxy::telemetry::LogEvent;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "identity",
    says: "whoever is believed is who it should be, and has a certificate that is valid",
    check,
};

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    if facts.plan.authorities.is_empty() {
        return;
    }
    let everybody: BTreeSet<&str> =
        facts.plan.instances.iter().filter_map(|instance| Some(&*instance.identity.as_ref()?.id)).collect();
    for (when, process, event) in facts.sidecar_events() {
        let (who, from, to) = match event {
            LogEvent::ServerProved { address, identity, not_before, not_after, .. } => {
                let expected = facts.instance_of(address).and_then(|instance| expected(facts, instance));
                if expected != Some(identity) {
                    let what = format!("{process} believed {identity} at {address}, where {expected:?} is");
                    violation(violations, when.at, what);
                }
                (identity, *not_before, *not_after)
            }
            LogEvent::ClientProved { identity, not_before, not_after, .. } => {
                if !everybody.contains(&**identity) {
                    violation(violations, when.at, format!("{process} believed {identity}, who is nobody"));
                }
                (identity, *not_before, *not_after)
            }
            _ => continue,
        };
        let now = EPOCH.as_secs() + when.at / 1_000_000;
        if now < from || now > to {
            let what =
                format!("{process} believed {who} at {now}, whose certificate is valid from {from} to {to}");
            violation(violations, when.at, what);
        }
    }
    renewed(facts, violations);
}

/// Who should be at an instance.
fn expected(facts: &Facts, instance: usize) -> Option<&String> {
    facts.plan.services[facts.plan.instances[instance].service].identity.as_ref()
}

/// No handshake fails where nothing goes wrong, but certificates follow each other.
fn renewed(facts: &Facts, violations: &mut Vec<Violation>) {
    let authorities = || facts.plan.authorities.iter().map(|authority| authority.instance);
    let is_well = |instance: usize, until: u64| facts.is_undisturbed(instance, 0, until);
    for request in &facts.requests {
        for (when, step) in &request.steps {
            let RequestStep::Failed { endpoint, error, .. } = step else { continue };
            if error != "handshake" {
                continue;
            }
            let name = request.process.strip_suffix("/sidecar");
            let caller = facts.plan.instances.iter().position(|instance| name == Some(&*instance.name));
            let (Some(caller), Some(callee)) = (caller, facts.instance_of(endpoint)) else { continue };
            // They may have nobody in common whom they believe, or one of them is revoked.
            if facts.plan.signer(caller) != facts.plan.signer(callee) || is_revoked(facts, caller, when.at) {
                continue;
            }
            let ends = [caller, callee].into_iter();
            if ends.chain(authorities()).all(|instance| is_well(instance, when.at)) {
                let what = format!("{} has had no handshake with {endpoint}", request.process);
                violation(violations, when.at, what);
            }
        }
    }
}
