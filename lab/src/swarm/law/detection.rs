//! Who speaks HTTP is never taken for somebody who does not, however few bytes come at a time. (Who says nothing for too long
//! is another matter: that one may wait for the server to speak.)

use super::{Breach, Law, breach};
use crate::plan::{AppKind, Target};
use crate::swarm::facts::Facts;

pub(super) const LAW: Law =
    Law { name: "detection", says: "who speaks HTTP is not taken for somebody else", check };

fn check(facts: &Facts, breaches: &mut Vec<Breach>) {
    let plan = &facts.plan;
    let is_http = plan.loads.iter().all(|load| matches!(load.target, Target::Http { .. }));
    // A registry's port is declared.
    let answers = plan
        .instances
        .iter()
        .filter_map(|instance| instance.app.as_ref())
        .all(|app| matches!(app.kind, AppKind::Http(_) | AppKind::Registry));
    if !(is_http && answers) {
        return;
    }
    for instance in plan.instances.iter().filter(|instance| instance.sidecar.is_some()) {
        let process = format!("{}/sidecar", instance.name);
        for wrong in ["opaque", "tls", "server_first"] {
            let times = facts.last(&process, "proxy_detections_total", &[("result", wrong)]);
            if let Some(times) = times.filter(|times| *times > 0.0) {
                let what = format!("{process} took HTTP for {wrong}, {times} times");
                breach(breaches, facts.end_us(), what);
            }
        }
    }
}
