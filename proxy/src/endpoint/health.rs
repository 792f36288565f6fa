//! What the results of checks add up to: a state that changes after some results in a row that
//! contradict it, so that one lost packet takes nobody out and one lucky answer brings nobody back.
//! Endpoints and the local app are judged alike.
//!
//! The first result of an endpoint decides at once, as in Envoy: nothing is known that it could
//! contradict. Until then the endpoint counts as healthy (Envoy: unhealthy, but it delays a cluster
//! until all have been checked).

use crate::config::Thresholds;
use crate::mutant::Mutant;

/// What checks say of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Nothing yet, or there are no checks.
    #[default]
    Unknown,
    /// It passes.
    Healthy,
    /// It does not pass; it is not picked.
    Unhealthy,
}

impl Health {
    /// Label on the page of clusters.
    pub fn label(self) -> &'static str {
        match self {
            Health::Unknown => "unchecked",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        }
    }
}

/// The results so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checks {
    state: Health,
    /// Results in a row that contradict it.
    against: u32,
}

impl Checks {
    /// Begins with a state instead of with none.
    pub fn starting(state: Health) -> Self {
        Checks { state, against: 0 }
    }

    /// What they add up to.
    pub fn state(&self) -> Health {
        self.state
    }

    /// Whether the last result contradicts the state.
    pub fn is_in_doubt(&self) -> bool {
        self.against > 0
    }

    /// Adds a result; true if it changes the state.
    pub fn on_result(&mut self, passed: bool, thresholds: Thresholds) -> bool {
        let (said, needed) = match passed {
            true => (Health::Healthy, thresholds.healthy),
            false => (Health::Unhealthy, thresholds.unhealthy),
        };
        if said == self.state {
            if !Mutant::CountsChecksNotInARow.is_planted() {
                self.against = 0;
            }
            return false;
        }
        self.against += 1;
        let needed = if passed && Mutant::OneCheckMakesHealthy.is_planted() { 1 } else { needed };
        if self.state == Health::Unknown || self.against >= needed {
            *self = Checks { state: said, against: 0 };
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEEDED: Thresholds = Thresholds { healthy: 2, unhealthy: 3 };

    #[test]
    fn every_state_has_its_label() {
        let labels = [Health::Unknown, Health::Healthy, Health::Unhealthy].map(Health::label);
        assert_eq!(labels, ["unchecked", "healthy", "unhealthy"]);
    }

    fn after(start: Health, results: &str) -> Health {
        let mut checks = Checks::starting(start);
        for result in results.chars() {
            checks.on_result(result == '+', NEEDED);
        }
        checks.state()
    }

    #[test]
    fn the_first_result_decides_and_after_that_it_takes_some_in_a_row() {
        use Health::{Healthy, Unhealthy, Unknown};
        for (start, results, expected) in [
            (Unknown, "", Unknown),
            (Unknown, "+", Healthy),
            (Unknown, "-", Unhealthy),
            (Unknown, "+--", Healthy),
            (Unknown, "+---", Unhealthy),
            (Unknown, "+--+--", Healthy),
            (Unknown, "-+", Unhealthy),
            (Unknown, "-++", Healthy),
            (Unknown, "-+-+", Unhealthy),
            (Unhealthy, "+", Unhealthy),
            (Unhealthy, "++", Healthy),
        ] {
            assert_eq!(after(start, results), expected, "{start:?} {results}");
        }
    }

    proptest! {
        /// The model: the state is what the last run of sufficient length said, or the first
        /// result.
        #[test]
        fn the_state_is_what_the_last_long_enough_run_said(
            results in proptest::collection::vec(any::<bool>(), 1..60),
            healthy in 1u32..5,
            unhealthy in 1u32..5,
        ) {
            let thresholds = Thresholds { healthy, unhealthy };
            let (mut checks, mut model, mut run) = (Checks::default(), results[0], (results[0], 0));
            for result in results {
                run = if result == run.0 { (result, run.1 + 1) } else { (result, 1) };
                if run.1 >= if result { healthy } else { unhealthy } {
                    model = result;
                }
                let changed = checks.on_result(result, thresholds);
                let state = if model { Health::Healthy } else { Health::Unhealthy };
                prop_assert_eq!(checks.state(), state);
                prop_assert!(!changed || !checks.is_in_doubt());
                prop_assert_eq!(checks.is_in_doubt(), result != model);
            }
        }
    }
}
