//! The events at a cluster's endpoints as one sidecar sees them, in the order of its log; and which
//! endpoints can be picked.

use std::collections::BTreeMap;

use proxy::config::Cluster;

use super::facts::{EndpointChange, Facts, LogPosition, RequestStep};

/// An event at an endpoint.
pub enum EndpointEvent<'a> {
    /// Its availability changes.
    Changed(&'a EndpointChange),
    /// It is picked for a request.
    Picked {
        /// When that began.
        begun: u64,
        /// Whether nobody was picked for it before.
        is_first: bool,
        /// Whether the cluster was in panic mode.
        panic: bool,
    },
    /// It answers an attempt.
    Answered {
        /// The status.
        status: u64,
        /// When the attempt began.
        begun: u64,
        /// When its request began.
        asked: u64,
    },
    /// An attempt at it fails.
    Failed {
        /// The kind of error.
        error: &'a str,
        /// Whether not a byte of the request was sent.
        unsent: bool,
        /// Whether it went over a connection that had carried others.
        reused: bool,
        /// When the attempt began.
        begun: u64,
        /// When its request began.
        asked: u64,
    },
}

/// All events at the endpoints of a cluster, in order.
pub fn endpoint_events<'a>(
    facts: &'a Facts,
    process: &'a str,
    cluster: &'a str,
) -> Vec<(LogPosition, &'a str, EndpointEvent<'a>)> {
    let availability = facts.availability_of(process, cluster);
    let mut all: Vec<_> =
        availability.map(|s| (s.when, s.endpoint.as_str(), EndpointEvent::Changed(&s.change))).collect();
    for request in facts.requests_to(process, cluster) {
        let mut is_first = true;
        for (when, step) in &request.steps {
            let begun = |endpoint: &str| request.tried(endpoint, *when).unwrap_or(request.begun);
            let (endpoint, event) = match step {
                RequestStep::Picked { endpoint, panic } => {
                    let is_first = std::mem::take(&mut is_first);
                    (endpoint, EndpointEvent::Picked { begun: request.begun, is_first, panic: *panic })
                }
                RequestStep::Answered { endpoint, status, .. } => (
                    endpoint,
                    EndpointEvent::Answered { status: *status, begun: begun(endpoint), asked: request.begun },
                ),
                RequestStep::Failed { endpoint, error, unsent, reused } => {
                    let (unsent, reused, begun) = (*unsent, *reused, begun(endpoint));
                    (endpoint, EndpointEvent::Failed { error, unsent, reused, begun, asked: request.begun })
                }
                RequestStep::Again { .. } | RequestStep::GivenUp(_) | RequestStep::Done(_) => continue,
            };
            all.push((*when, endpoint.as_str(), event));
        }
    }
    all.sort_by_key(|(when, ..)| *when);
    all
}

/// The endpoints that a sidecar knows, and which of them are unavailable.
pub struct KnownEndpoints {
    endpoints: BTreeMap<String, EndpointStatus>,
}

/// Why an endpoint is unavailable.
#[derive(Default)]
struct EndpointStatus {
    ejected: bool,
    unhealthy: bool,
}

impl KnownEndpoints {
    /// Those of the configuration. A registry's are found later.
    pub fn new(cluster: &Cluster) -> Self {
        let endpoints = cluster.endpoints.iter().map(|e| (e.address.to_string(), EndpointStatus::default()));
        KnownEndpoints { endpoints: endpoints.collect() }
    }

    /// Takes a change.
    pub fn hear(&mut self, endpoint: &str, change: &EndpointChange) {
        match change {
            EndpointChange::Found => {
                self.endpoints.insert(endpoint.to_owned(), EndpointStatus::default());
            }
            EndpointChange::Gone => {
                self.endpoints.remove(endpoint);
            }
            _ => {
                // Of one that is gone, a request that began before may still say something.
                let Some(status) = self.endpoints.get_mut(endpoint) else { return };
                match change {
                    EndpointChange::Ejected(..) => status.ejected = true,
                    EndpointChange::Restored(_) => status.ejected = false,
                    EndpointChange::Healthy(healthy) => status.unhealthy = !healthy,
                    _ => {}
                }
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether it is one of them.
    pub fn has(&self, endpoint: &str) -> bool {
        self.endpoints.contains_key(endpoint)
    }

    /// Whether it is ejected, or being probed.
    pub fn is_ejected(&self, endpoint: &str) -> bool {
        self.endpoints.get(endpoint).is_some_and(|status| status.ejected)
    }

    /// Whether it is ejected and otherwise available.
    pub fn awaits_probe(&self, endpoint: &str) -> bool {
        self.endpoints.get(endpoint).is_some_and(|status| status.ejected && !status.unhealthy)
    }

    /// How many are.
    pub fn ejected(&self) -> usize {
        self.endpoints.values().filter(|status| status.ejected).count()
    }

    /// How many may be at once.
    pub fn cap(&self, cluster: &Cluster) -> usize {
        // One always may.
        ((self.count() as f64 * cluster.outlier_detection.cap) as usize).max(1)
    }

    /// How many can be picked.
    pub fn available(&self) -> usize {
        self.endpoints.values().filter(|status| !status.ejected && !status.unhealthy).count()
    }
}
