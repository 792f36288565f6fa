//! An endpoint that its active checks say is unhealthy is not picked while another is available.

use std::collections::BTreeMap;

use super::{Breach, Law, breach};
use crate::swarm::facts::{Change, Facts, Moment};

pub(super) const LAW: Law =
    Law { name: "health", says: "an unhealthy endpoint is picked only for want of another", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    for (process, cluster) in facts.clusters().filter(|(_, cluster)| cluster.health.is_some()) {
        // `None`: nothing is known of it. So it is of one that has gone, of which a check may still say something, and comes
        // again.
        let mut gone: BTreeMap<&str, u64> = BTreeMap::new();
        let mut turns: BTreeMap<&str, Vec<(Moment, Option<bool>)>> = BTreeMap::new();
        for standing in facts.standings_of(process, &cluster.name) {
            let turn = match standing.change {
                Change::Healthy(healthy) => Some(healthy),
                Change::Found => None,
                Change::Gone => {
                    gone.insert(&standing.endpoint, standing.when.at);
                    continue;
                }
                _ => continue,
            };
            let turns = turns.entry(&standing.endpoint).or_default();
            if let Some(healthy) = turn
                && turns.last().is_some_and(|(_, before)| *before == turn)
            {
                let what = format!("{} turned healthy={healthy} twice in a row", standing.endpoint);
                breach(breaches, standing.when.at, what);
            }
            turns.push((standing.when, turn));
        }
        for request in facts.requests_to(process, &cluster.name) {
            for (when, endpoint, panic) in request.picks() {
                // A request keeps the endpoints that it began with, and with them what was known of one that has gone since.
                if gone.get(endpoint).is_some_and(|at| *at >= request.begun) {
                    continue;
                }
                let before =
                    turns.get(endpoint).and_then(|turns| turns.iter().rev().find(|(t, _)| *t < when));
                if !panic && before.is_some_and(|(_, healthy)| *healthy == Some(false)) {
                    breach(breaches, when.at, format!("{endpoint} was picked although it is unhealthy"));
                }
            }
        }
    }
}
