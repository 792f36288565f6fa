//! The conservation check of a run: what the load generators sent, the kernel redirected, the
//! sidecars carried and the apps answered must be the same numbers. If they are not, some request
//! took an unknown path, and no other number of the report can be trusted.
//!
//! Only a run without faults is held to this: a killed process takes its counters with it. Nor is
//! one that gives its sidecars settings of its own: mirrored and hedged requests were sent by no
//! load, and a shed request never arrives. One that may refuse callers is not either.

use super::evaluate::{Judged, JudgedCondition};
use crate::app::AppKind;
use crate::load::CallKind;
use crate::load::{Outcome, Record};
use crate::metrics::{FABRIC, Series};
use crate::plan::{Plan, ServiceLimits, SidecarKind, TlsMode};

/// Compares the counts, or `None` where there is nothing to compare.
pub fn conservation(plan: &Plan, records: &[Vec<Record>], series: &Series) -> Option<Judged> {
    let told = plan
        .services
        .iter()
        .any(|s| !s.policy.is_empty() || !s.settings.is_empty() || s.limits != ServiceLimits::default());
    let refuses = plan.services.iter().any(|s| !s.authorization.is_empty() || s.tls == Some(TlsMode::Strict))
        || !plan.certificates.is_empty();
    let told = told || refuses;
    if plan.sidecar != SidecarKind::Ours || !plan.timeline.is_empty() || told {
        return None;
    }
    let total = |process: &str, name: &str, labels: &[(&str, &str)]| {
        let labels: Vec<_> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        series.increase(process, name, &labels, i64::MIN, i64::MAX)
    };
    let side = |name: &str, side: &str| total("*/sidecar", name, &[("side", side)]);
    let mut conditions = Vec::new();

    let http = |load: &&crate::load::Load| matches!(load.target.call, CallKind::Http(_) | CallKind::Grpc(_));
    let all_http_apps =
        plan.instances.iter().flat_map(|i| &i.app).all(|a| matches!(a.kind, AppKind::Http(_)));
    if all_http_apps && plan.loads.iter().all(|l| http(&l)) && !plan.loads.is_empty() {
        let arrived = |r: &&Record| !matches!(r.outcome, Outcome::Dropped | Outcome::Connect);
        let sent = records.iter().flatten().filter(arrived).count() as f64;
        let retries = side("proxy_retries_total", "outbound").unwrap_or(0.0);
        let inner = side("proxy_retries_total", "inbound").unwrap_or(0.0);
        let out = side("proxy_requests_total", "outbound");
        let into = side("proxy_requests_total", "inbound");
        let app = total("*/app", "app_requests_total", &[]);
        let into = into.map(|n| n - retries);
        // An attempt that the inbound sidecar repeats may have reached the app or not: it may have
        // met a closing connection.
        let spare = |n: f64| (n - into.unwrap_or(n)).clamp(0.0, inner);
        conditions.push(same(
            "every request crossed both sidecars",
            &[
                ("sent by load", Some(sent)),
                ("outbound sidecars", out),
                ("inbound sidecars", into),
                ("apps", app.map(|n| n - retries).map(|n| n - spare(n))),
            ],
        ));
    }
    for direction in ["outbound", "inbound"] {
        let kernel = total(FABRIC, "iptables_redirected_total", &[("direction", direction)]);
        let sidecars = side("proxy_connections_total", direction);
        // The simulator has no iptables.
        if kernel.is_some() {
            let text = format!("every redirected {direction} connection reached a sidecar");
            conditions.push(same(&text, &[("iptables", kernel), ("sidecars", sidecars)]));
        }
    }
    let passed = conditions.iter().all(|c| c.passed);
    (!conditions.is_empty()).then(|| Judged {
        name: "the counts agree".into(),
        window: "whole run".into(),
        span: (i64::MIN, i64::MAX),
        passed,
        conditions,
        recovered_after_us: None,
        note: None,
    })
}

/// Whether all of these were counted and are the same, above zero.
fn same(text: &str, counts: &[(&str, Option<f64>)]) -> JudgedCondition {
    let first = counts[0].1.unwrap_or(f64::NAN);
    let passed = first > 0.0 && counts.iter().all(|(_, n)| *n == Some(first));
    let show = |(what, n): &(&str, Option<f64>)| match n {
        Some(n) => format!("{what} {n:.0}"),
        None => format!("{what} unknown"),
    };
    JudgedCondition {
        text: text.to_owned(),
        passed,
        actual: first,
        shown: counts.iter().map(show).collect::<Vec<_>>().join(", "),
        samples: counts.iter().filter(|(_, n)| n.is_some()).count() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_agree_only_if_everything_was_counted_and_is_equal() {
        assert!(same("x", &[("a", Some(3.0)), ("b", Some(3.0))]).passed);
        assert!(!same("x", &[("a", Some(3.0)), ("b", Some(4.0))]).passed);
        assert!(!same("x", &[("a", Some(3.0)), ("b", None)]).passed);
        assert!(!same("x", &[("a", Some(0.0)), ("b", Some(0.0))]).passed, "silence proves nothing");
    }
}
