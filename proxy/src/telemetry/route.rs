//! What is counted of each route.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::families::families;
use super::labels::{ClusterRoute, ClusterRouteResult};

families! {
    /// The metrics of all routes.
    pub(super) struct RouteFamilies {
        requests: Family<ClusterRoute, Counter> =
            "route_requests", "Requests by the route that matched";
        faults: Family<ClusterRouteResult, Counter> =
            "route_faults", "Requests that failed on purpose";
        mirrors: Family<ClusterRouteResult, Counter> =
            "route_mirrors", "Copies of requests by what became of them";
    }
}

/// Metrics of one route.
#[derive(Debug, Clone)]
pub struct RouteMetrics {
    /// Requests that it matched.
    pub requests: Counter,
    /// Requests that were delayed on purpose.
    pub delays: Counter,
    /// Requests that were answered with a failure on purpose.
    pub aborts: Counter,
    mirrors: [Counter; MIRRORS.len()],
}

/// What became of the copy of a request. In the order of the labels in `MIRRORS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorOutcome {
    /// It was answered.
    Answered,
    /// It was sent, or could not be, and no answer came.
    Failed,
    /// It was not made: too many were under way.
    TooMany,
    /// It was not sent: the request's body was too long.
    TooLong,
    /// It was not sent: the request ended before its body.
    Incomplete,
}

const MIRRORS: [&str; 5] = ["answered", "failed", "too_many", "too_long", "incomplete"];

impl RouteFamilies {
    pub(super) fn of(&self, cluster: &str, route: &str) -> RouteMetrics {
        let label = ClusterRoute { cluster: cluster.to_owned(), route: route.to_owned() };
        let result =
            |result| ClusterRouteResult { cluster: cluster.to_owned(), route: route.to_owned(), result };
        RouteMetrics {
            requests: self.requests.get_or_create_owned(&label),
            delays: self.faults.get_or_create_owned(&result("delay")),
            aborts: self.faults.get_or_create_owned(&result("abort")),
            mirrors: MIRRORS.map(|end| self.mirrors.get_or_create_owned(&result(end))),
        }
    }
}

impl RouteMetrics {
    /// Counts what became of a copy.
    pub fn mirrored(&self, end: MirrorOutcome) {
        self.mirrors[end as usize].inc();
    }
}
