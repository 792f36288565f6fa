//! Whether the testbed itself was good enough for its numbers to mean anything. Past a limit a run
//! is inconclusive, never failed: the fault would be ours and not the mesh's.
//!
//! The limits are what a virtual machine with two shared cores keeps on a good day; a better
//! machine passes easily.

use crate::load::MAX_IN_FLIGHT;
use crate::plan::Plan;
use crate::verdict::Summary;
use crate::verdict::statistics::LATE;
use crate::world::Fidelity;

/// How late the wire may release packets (99th percentile), microseconds, if no configured delay
/// allows more. The userspace wire on two busy shared cores was measured at 0.6 to 4.4 ms.
pub const WIRE_LATE_P99_US: f64 = 5_000.0;
/// ... or this share of the shortest delay that is configured: a larger error would blur the delays
/// themselves.
pub const WIRE_LATE_SHARE: f64 = 0.10;
/// Which share of its requests a load generator may send later than [`LATE`].
pub const LOAD_LATE_SHARE: f64 = 0.01;
/// Which share of the packets may get lost outside the model: beyond it, TCP's answer to the losses
/// shows.
pub const OVERFLOW_SHARE: f64 = 0.001;

/// Judges the run's own quality from what the world says of itself and from one summary for each
/// load of the plan.
///
/// # Errors
/// The reasons why the run is inconclusive, one sentence each.
pub fn trustworthy(fidelity: &Fidelity, plan: &Plan, summaries: &[Summary]) -> Result<(), Vec<String>> {
    let mut reasons = Vec::new();
    let limit = shortest_delay_us(plan).map_or(0.0, |us| us * WIRE_LATE_SHARE).max(WIRE_LATE_P99_US);
    if fidelity.packets > 0 && fidelity.lateness_p99_us > limit {
        reasons.push(format!(
            "the wire released 1 % of the packets more than {:.1} ms late (limit {:.1} ms)",
            fidelity.lateness_p99_us / 1e3,
            limit / 1e3
        ));
    }
    let all = fidelity.packets + fidelity.overflow;
    if fidelity.overflow as f64 > all as f64 * OVERFLOW_SHARE {
        reasons.push(format!(
            "{} of {all} packets were lost outside the model, in full queues of the kernel (limit {} %)",
            fidelity.overflow,
            OVERFLOW_SHARE * 100.0
        ));
    }
    for (load, summary) in plan.loads.iter().zip(summaries) {
        let name = &load.name;
        if summary.late > late_by_chance(summary.requests) {
            reasons.push(format!(
                "load `{name}` sent {} of its {} requests more than {} ms late (limit {} %)",
                summary.late,
                summary.requests,
                LATE.as_millis(),
                LOAD_LATE_SHARE * 100.0
            ));
        }
        if summary.dropped > 0 {
            reasons.push(format!(
                "load `{name}` never sent {} of its {} requests: {MAX_IN_FLIGHT} were already under way",
                summary.dropped, summary.requests
            ));
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

/// How many of so many requests may be late although the share is no larger than it may be: two
/// standard deviations more than the share. Of forty requests one alone says nothing about one
/// percent of them.
fn late_by_chance(requests: u64) -> u64 {
    let expected = requests as f64 * LOAD_LATE_SHARE;
    (expected + 2.0 * expected.sqrt()).ceil() as u64
}

/// The shortest delay that any link is ever given.
fn shortest_delay_us(plan: &Plan) -> Option<f64> {
    let changed = plan.timeline.iter().flat_map(|entry| entry.action.links());
    let delays = plan.links.iter().chain(changed).map(|link| link.profile.delay);
    delays.filter(|delay| !delay.is_zero()).min().map(|delay| delay.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fabric::LinkProfile;
    use crate::mesh::Link;
    use crate::verdict::evaluate::tests::plan;

    fn with_delays(delays_ms: &[u64]) -> Plan {
        let link = |ms: &u64| {
            let profile = LinkProfile { delay: Duration::from_millis(*ms), ..LinkProfile::default() };
            Link { from: 0, to: 1, profile }
        };
        Plan { links: delays_ms.iter().map(link).collect(), ..plan() }
    }

    #[test]
    fn a_good_run_gives_no_reason() {
        let fidelity =
            Fidelity { packets: 10_000, overflow: 10, lateness_p99_us: 5_000.0, ..Fidelity::default() };
        let summary = Summary { requests: 40, late: 2, ..Summary::default() };
        assert_eq!(trustworthy(&fidelity, &plan(), &[summary]), Ok(()));
        assert_eq!(trustworthy(&Fidelity::default(), &plan(), &[]), Ok(()));
    }

    #[test]
    fn every_limit_has_its_reason() {
        let good = Fidelity { packets: 10_000, ..Fidelity::default() };
        let late = Fidelity { lateness_p99_us: 5_100.0, ..good.clone() };
        let lossy = Fidelity { overflow: 11, ..good.clone() };
        let none = Summary { requests: 500, ..Summary::default() };
        let slow = Summary { late: 11, ..none.clone() };
        let dropping = Summary { dropped: 3, ..none.clone() };
        for (fidelity, summary, words) in [
            (&late, &none, "5.1 ms late"),
            (&lossy, &none, "11 of 10011 packets"),
            (&good, &slow, "load `calls` sent 11 of its 500 requests more than 10 ms late (limit 1 %)"),
            (&good, &dropping, "load `calls` never sent 3 of its 500 requests"),
        ] {
            let reasons = trustworthy(fidelity, &plan(), std::slice::from_ref(summary)).unwrap_err();
            assert_eq!(reasons.len(), 1, "{reasons:?}");
            assert!(reasons[0].contains(words), "{reasons:?}");
        }
    }

    #[test]
    fn long_delays_forgive_a_late_wire_and_the_shortest_decides() {
        let fidelity = Fidelity { packets: 1, lateness_p99_us: 9_000.0, ..Fidelity::default() };
        assert!(trustworthy(&fidelity, &with_delays(&[100, 250, 0]), &[]).is_ok());
        assert!(trustworthy(&fidelity, &with_delays(&[100, 80]), &[]).is_err());
        assert!(trustworthy(&fidelity, &with_delays(&[0]), &[]).is_err());
    }
}
