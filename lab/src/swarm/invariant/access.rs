//! What the policies of a service deny never reaches its app, and what they allow is never denied.
//!
//! What is to be denied is written in the names of the loads, so this does not ask the code that it
//! judges.

use super::{Invariant, Violation, violation};
use crate::swarm::facts::Facts;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "access", says: "what is denied reaches no app, and what is allowed does", check };

/// What is said to who is denied.
const FORBIDDEN: &str = "Status(403)";

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    for (id, call) in &facts.calls {
        // What it may do depends on when, and is for another invariant.
        if facts.is_of_revoked(id) {
            continue;
        }
        let is_denied = facts.is_denied(id);
        if let (true, Some((at, app))) = (is_denied, call.arrived.first()) {
            violation(violations, *at, format!("{id} reached {app}"));
        }
        for (at, outcome) in &call.ended {
            if (outcome == FORBIDDEN && !is_denied) || (outcome == "Ok" && is_denied) {
                violation(violations, *at, format!("{id} ended with {outcome}"));
            }
        }
    }
}
