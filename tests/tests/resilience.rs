//! What the sidecar does against failures, shown from both sides: each scenario holds, and does not hold when the feature
//! behind it is switched off. A scenario that passes either way would prove nothing.
//!
//! In the simulator, several seeds of each. That each holds on the kernel too is what CI shows by running every scenario.

mod sim_kit;

use lab::plan::SidecarKind;
use lab::run::Verdict;
use sim_kit::*;
use toml::Table;

/// Seeds of each scenario in the simulator.
const SEEDS: u64 = 3;

/// A scenario, what switches its feature off, and the expectation that must break then.
struct Story {
    scenario: &'static str,
    /// Keys for the policy of `orders`.
    off: &'static str,
    breaks: &'static str,
}

const STORIES: &[Story] = &[
    Story {
        scenario: "slow-replica",
        off: "balance.policy = \"round_robin\"",
        breaks: "99 of 100 callers wait no longer than twice as long as healthy ones",
    },
    Story {
        scenario: "failing-replica",
        off: "retry.attempts = 0",
        breaks: "callers see next to nothing of it",
    },
    Story {
        scenario: "retry-storm",
        off: "retry_budget = { share = \"100%\", per_second = 1000, reserve = 1000 }",
        breaks: "servers that fail get at most a fifth more to do",
    },
    Story {
        scenario: "overload",
        off: "adaptive_concurrency = false",
        breaks: "half of the callers hear within 100 ms, one way or the other",
    },
    Story { scenario: "blackholed-replica", off: "timeouts.per_try = \"0s\"", breaks: "nobody fails" },
    Story { scenario: "zone-lost", off: "retry.attempts = 0", breaks: "callers do not notice" },
    Story { scenario: "rolling-restart", off: "retry.attempts = 0", breaks: "not one request fails" },
    Story { scenario: "flapping-replica", off: "retry.attempts = 0", breaks: "callers do not notice" },
];

impl Story {
    /// The scenario's text with its feature switched off.
    fn without(&self) -> String {
        let text = std::fs::read_to_string(tests::scenario(self.scenario)).expect("a scenario");
        let mut file: Table = toml::from_str(&text).expect("TOML");
        let off: Table = toml::from_str(self.off).expect("TOML");
        let orders = file["service"]["orders"].as_table_mut().expect("a service");
        let policy = orders.entry("policy").or_insert_with(|| Table::new().into());
        merge(policy.as_table_mut().expect("a table"), off);
        file.to_string()
    }
}

fn merge(table: &mut Table, more: Table) {
    for (key, value) in more {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(more)) => merge(inner, more),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

fn simulated(name: &str) {
    let story = STORIES.iter().find(|story| story.scenario == name).expect("a story");
    let path = tests::scenario(name);
    for_seeds(&path, &read(&path), SidecarKind::Ours, SEEDS, passed);
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
}
