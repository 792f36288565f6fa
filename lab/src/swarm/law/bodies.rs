//! Bodies arrive whole, the first time and when they are sent again; and an answer belongs to its question.

use super::{Breach, Law, breach};
use crate::swarm::facts::Facts;

pub(super) const LAW: Law = Law {
    name: "bodies",
    says: "what arrives complete is what was sent, and an answer is the right one",
    check,
};

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (id, call) in &facts.calls {
        let at = call.sent.first().copied().unwrap_or_default();
        if let Some(length) = facts.body_of(id)
            && let Some(other) = call.lengths.iter().find(|other| **other != length)
        {
            breach(breaches, at, format!("an app got {other} bytes of {id}, which has {length}"));
        }
        if call.ended.iter().any(|(_, outcome)| outcome == "Mismatch") {
            breach(breaches, at, format!("{id} was given the answer to something else"));
        }
    }
}
