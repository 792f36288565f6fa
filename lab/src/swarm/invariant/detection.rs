//! HTTP is never taken for another protocol, however few bytes arrive at a time. (A client that is
//! silent for too long is another matter: it may be waiting for the server to speak first.)

use super::{Invariant, Violation, violation};
use crate::app::AppKind;
use crate::load::CallKind;
use crate::plan::Instance;
use crate::swarm::facts::Facts;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "detection", says: "HTTP is not taken for another protocol", check };

fn check(facts: &Facts, violations: &mut Vec<Violation>) {
    let plan = &facts.plan;
    let is_http = plan.loads.iter().all(|load| !matches!(load.target.call, CallKind::Tcp(_)));
    let answers = plan
        .instances
        .iter()
        .filter_map(|instance| instance.app.as_ref())
        .all(|app| matches!(app.kind, AppKind::Http(_) | AppKind::Registry(_)));
    if !(is_http && answers) {
        return;
    }
    // A registry's port is declared: whatever is not TLS is opaque there.
    let is_declared = |instance: &&Instance| {
        instance.app.as_ref().is_some_and(|app| matches!(app.kind, AppKind::Registry(_)))
    };
    let sidecars = plan.instances.iter().filter(|instance| instance.sidecar.is_some());
    for instance in sidecars.filter(|instance| !is_declared(instance)) {
        let process = format!("{}/sidecar", instance.name);
        // What sidecars say to each other where there are identities begins as TLS does.
        let wrong: &[&str] = match plan.authorities.is_empty() {
            true => &["opaque", "tls", "server_first"],
            false => &["opaque", "server_first"],
        };
        for wrong in wrong {
            let times = facts.last(&process, "proxy_detections_total", &[("result", wrong)]);
            if let Some(times) = times.filter(|times| *times > 0.0) {
                let what = format!("{process} took HTTP for {wrong}, {times} times");
                violation(violations, facts.end_us(), what);
            }
        }
    }
}
