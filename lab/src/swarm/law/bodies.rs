//! Bodies arrive whole, the first time and when they are sent again; an answer belongs to its question; and what no app has
//! answered well is no success, whatever an app that breaks HTTP has made it look like.

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
        let sent = facts.body_of(id);
        if let Some(length) = sent
            && let Some(other) = call.lengths.iter().find(|other| **other != length)
        {
            breach(breaches, at, format!("an app got {other} bytes of {id}, which has {length}"));
        }
        if call.ended.iter().any(|(_, outcome)| outcome == "Mismatch") {
            breach(breaches, at, format!("{id} was given the answer to something else"));
        }
        // An app that takes lines over TCP says nothing of them.
        let succeeded = call.ended.iter().find(|(_, outcome)| outcome == "Ok" && sent.is_some());
        if let Some((ended, _)) = succeeded
            && !call.answered.iter().any(|(at, status)| at <= ended && *status < 400)
        {
            breach(breaches, *ended, format!("{id} succeeded, and no app has answered it well"));
        }
        if let Some((length, by)) = call.got.as_ref().filter(|_| succeeded.is_some()) {
            let app = facts.app_of(by);
            if app.is_none_or(|app| u64::from(app.size) != *length) {
                let what =
                    format!("{id} was answered with {length} bytes by `{by}`, which sends no such answer");
                breach(breaches, at, what);
            }
        }
    }
}
