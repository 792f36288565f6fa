//! The [`stories`] in the simulator: what they promise breaks without the feature, whatever the seed.
//! That it holds with it is what `sim_scenarios.rs` and `two_worlds.rs` see.

mod sim_kit;
mod stories;

use lab::plan::SidecarKind;
use lab::run::Verdict;
use sim_kit::*;
use stories::STORIES;

/// Seeds of each scenario in the simulator.
const SEEDS: u64 = 3;

fn simulated(name: &str) {
    let story = STORIES.iter().find(|story| story.scenario == name).expect("a story");
    let path = tests::scenario(name);
    let mut broken = 0;
    for_seeds(&path, &parse(name, &story.without()), SidecarKind::Ours, SEEDS, |history| {
        let report = history.result.as_ref().map_err(Clone::clone)?;
        let breaks = report.expectations.iter().any(|e| e.name == story.breaks && !e.passed);
        broken += u64::from(breaks && report.verdict == Verdict::Failed);
        Ok(())
    });
    assert_eq!(broken, SEEDS, "{name} holds as well with {}", story.off);
}

macro_rules! simulated {
    ($($test:ident: $name:literal,)*) => {$(
        #[test]
        fn $test() {
            simulated($name);
        }
    )*};
}

simulated! {
    a_slow_replica_costs_callers_little_only_because_the_balancer_avoids_it: "slow-replica",
    a_replica_that_fails_now_and_then_is_hidden_only_by_retries: "failing-replica",
    retries_do_not_become_a_storm_only_because_of_their_budget: "retry-storm",
    an_overload_is_borne_only_because_of_a_limit_that_follows_latency: "overload",
    a_blackholed_replica_is_noticed_only_because_tries_have_a_limit: "blackholed-replica",
    a_lost_zone_costs_no_request_only_because_of_retries: "zone-lost",
    a_rolling_restart_costs_no_request_only_because_of_retries: "rolling-restart",
    a_flapping_replica_is_hidden_only_by_retries: "flapping-replica",
    a_failure_ends_with_its_cause_only_because_tries_are_not_given_up_early: "metastable",
    a_registry_that_is_gone_is_borne_only_because_stale_endpoints_are_kept: "registry-down",
}
