//! An endpoint that its active checks say is unhealthy is not picked while another is available.

use std::collections::BTreeMap;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Change, Facts, Moment};

pub(super) const LAW: Law =
    Law { name: "health", says: "an unhealthy endpoint is picked only for want of another", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters().filter(|(_, cluster)| cluster.health.is_some()) {
        let mut turns: BTreeMap<&str, Vec<(Moment, bool)>> = BTreeMap::new();
        for standing in facts.standings_of(process, &cluster.name) {
            let Change::Healthy(healthy) = standing.change else { continue };
            let turns = turns.entry(&standing.endpoint).or_default();
            if turns.last().is_some_and(|(_, before)| *before == healthy) {
                let what = format!("{} turned healthy={healthy} twice in a row", standing.endpoint);
                breach(breaches, standing.when.at, what);
            }
            turns.push((standing.when, healthy));
        }
        for request in facts.requests_to(process, &cluster.name) {
            for (when, endpoint, panic) in request.picks() {
                let before =
                    turns.get(endpoint).and_then(|turns| turns.iter().rev().find(|(t, _)| *t < when));
                if !panic && before.is_some_and(|(_, healthy)| !healthy) {
                    breach(breaches, when.at, format!("{endpoint} was picked although it is unhealthy"));
                }
            }
        }
    }
}
