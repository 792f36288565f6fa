//! Sidecars that know whose an endpoint is speak nothing but TLS to it, also as long as they have
//! no certificate.
//!
//! Read off the network itself: with which byte a connection begins that a sidecar has opened.

use super::{Invariant, Violation, violation};
use crate::sim::Who;
use crate::swarm::facts::Facts;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "encrypted", says: "whoever is known is spoken to under TLS and not otherwise", check };

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    let plan = &facts.plan;
    let is_called =
        |service: usize| plan.loads.iter().any(|load| load.target.host == plan.services[service].name);
    for crossing in facts.crossings.iter().filter(|crossing| crossing.who == Who::Sidecar) {
        let (from, to) = (&plan.instances[crossing.from], &plan.instances[crossing.to]);
        let service = &plan.services[to.service];
        let is_known = from.identity.is_some() && service.identity.is_some();
        if is_known && is_called(to.service) && service.port == Some(crossing.port) && !crossing.is_tls() {
            let what = format!("{} has spoken to {} in plaintext", from.name, to.name);
            violation(violations, crossing.opened, what);
        }
    }
}
