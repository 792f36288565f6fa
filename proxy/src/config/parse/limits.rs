//! `[cluster.limits]` and `adaptive_concurrency`.

use serde_spanned::Spanned;

use super::Check;
use crate::config::{Adaptive, ClusterLimits, model};

impl Check<'_> {
    pub(super) fn cluster_limits(&mut self, given: &model::ClusterLimits) -> ClusterLimits {
        let default = ClusterLimits::default();
        let mut count = |key: &str, given: &Option<Spanned<u32>>, default| {
            let Some(count) = given else { return default };
            if *count.get_ref() == 0 {
                self.diagnostics
                    .add(format!("`{key}` of 0 would refuse everything"), count.span(), "must be at least 1")
                    .help("to send nothing to a service, remove its cluster");
            }
            *count.get_ref()
        };
        let connections = count("connections", &given.connections, default.connections);
        let requests = count("requests", &given.requests, default.requests);
        // Without these two there is still something that passes.
        let number = |given: &Option<Spanned<u32>>, default| given.as_ref().map_or(default, |n| *n.get_ref());
        ClusterLimits {
            connections,
            requests,
            pending: number(&given.pending, default.pending),
            retries: number(&given.retries, default.retries),
        }
    }

    pub(super) fn adaptive(&mut self, given: Option<&Spanned<model::Adaptive>>) -> Option<Adaptive> {
        let given = given?;
        let table = match given.get_ref() {
            model::Adaptive::On(on) => return on.then(Adaptive::default),
            model::Adaptive::Table(table) => table,
        };
        let default = Adaptive::default();
        let number = |given: &Option<Spanned<u32>>, default| given.as_ref().map_or(default, |n| *n.get_ref());
        let min = number(&table.min, default.min);
        let max = number(&table.max, default.max.max(min));
        let initial = number(&table.initial, default.initial.clamp(min, max.max(min)));
        if min == 0 || !(min..=max).contains(&initial) {
            self.diagnostics
                .add(
                    "the bounds of `adaptive_concurrency` contradict each other",
                    given.span(),
                    format!("`min` is {min}, `initial` is {initial}, `max` is {max}"),
                )
                .help("`min` is at least 1, `initial` is between `min` and `max`");
        }
        Some(Adaptive { initial, min, max })
    }
}
