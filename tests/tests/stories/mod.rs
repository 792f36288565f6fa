//! What the sidecar does against failures, as scenarios that hold and that must not hold when the
//! feature behind them is switched off. A scenario that passes either way would prove nothing.

use lab::syntax::settings::merge;
use toml::Table;

/// One of them.
pub struct Story {
    /// The file's name.
    pub scenario: &'static str,
    /// Keys for the policy of `orders` that switch its feature off.
    pub off: &'static str,
    /// The expectation that must break then.
    pub breaks: &'static str,
}

/// All of them.
pub const STORIES: &[Story] = &[
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
    Story {
        scenario: "metastable",
        off: "timeouts.per_try = \"150ms\"",
        breaks: "and when it is over, all is soon as before",
    },
    Story {
        scenario: "registry-down",
        off: "discovery.stale_after = \"2s\"",
        breaks: "callers do not notice",
    },
];

impl Story {
    /// The scenario's text with its feature switched off.
    pub fn without(&self) -> String {
        let text = std::fs::read_to_string(tests::scenario(self.scenario)).expect("a scenario");
        let mut file: Table = toml::from_str(&text).expect("TOML");
        let off: Table = toml::from_str(self.off).expect("TOML");
        let orders = file["service"]["orders"].as_table_mut().expect("a service");
        let policy = orders.entry("policy").or_insert_with(|| Table::new().into());
        merge(policy.as_table_mut().expect("a table"), off);
        file.to_string()
    }
}
