//! What happens at a cluster's endpoints in the eyes of one sidecar, in the order of its log; and who can be picked there.

use std::collections::BTreeMap;

use proxy::config::Cluster;

use super::facts::{Change, Facts, Moment, Step};

/// What happens at an endpoint.
pub enum Happening<'a> {
    /// It is seen otherwise.
    Changed(&'a Change),
    /// It is picked for a request.
    Picked {
        /// When that began.
        begun: u64,
        /// Whether nobody was picked for it before.
        is_first: bool,
        /// Whether availability counted for nothing.
        panic: bool,
    },
    /// It answers a try.
    Answered {
        /// The status.
        status: u64,
        /// When the try began.
        begun: u64,
        /// When its request began.
        asked: u64,
    },
    /// A try fails there.
    Failed {
        /// The kind of error.
        error: &'a str,
        /// Whether not a byte of the request was sent.
        unsent: bool,
        /// Whether it went over a connection that had carried others.
        reused: bool,
        /// When the try began.
        begun: u64,
        /// When its request began.
        asked: u64,
    },
}

/// All that happens at the endpoints of a cluster, in order.
pub fn happenings<'a>(
    facts: &'a Facts,
    process: &'a str,
    cluster: &'a str,
) -> Vec<(Moment, &'a str, Happening<'a>)> {
    let standings = facts.standings_of(process, cluster);
    let mut all: Vec<_> =
        standings.map(|s| (s.when, s.endpoint.as_str(), Happening::Changed(&s.change))).collect();
    for request in facts.requests_to(process, cluster) {
        let mut is_first = true;
        for (when, step) in &request.steps {
            let begun = |endpoint: &str| request.tried(endpoint, *when).unwrap_or(request.begun);
            let (endpoint, happening) = match step {
                Step::Picked { endpoint, panic } => {
                    let is_first = std::mem::take(&mut is_first);
                    (endpoint, Happening::Picked { begun: request.begun, is_first, panic: *panic })
                }
                Step::Answered { endpoint, status, .. } => (
                    endpoint,
                    Happening::Answered { status: *status, begun: begun(endpoint), asked: request.begun },
                ),
                Step::Failed { endpoint, error, unsent, reused } => {
                    let (unsent, reused, begun) = (*unsent, *reused, begun(endpoint));
                    (endpoint, Happening::Failed { error, unsent, reused, begun, asked: request.begun })
                }
                Step::Again { .. } | Step::GivenUp(_) | Step::Done(_) => continue,
            };
            all.push((*when, endpoint.as_str(), happening));
        }
    }
    all.sort_by_key(|(when, ..)| *when);
    all
}

/// The endpoints that a sidecar knows of, and which it leaves alone.
pub struct Known {
    endpoints: BTreeMap<String, Left>,
}

/// Why an endpoint is left alone.
#[derive(Default)]
struct Left {
    ejected: bool,
    unhealthy: bool,
}

impl Known {
    /// Those of the configuration. A registry's are found later.
    pub fn new(cluster: &Cluster) -> Self {
        let endpoints = cluster.endpoints.iter().map(|e| (e.address.to_string(), Left::default()));
        Known { endpoints: endpoints.collect() }
    }

    /// Takes a change.
    pub fn hear(&mut self, endpoint: &str, change: &Change) {
        match change {
            Change::Found => {
                self.endpoints.insert(endpoint.to_owned(), Left::default());
            }
            Change::Gone => {
                self.endpoints.remove(endpoint);
            }
            _ => {
                // Of one that is gone, a request that began before may still say something.
                let Some(left) = self.endpoints.get_mut(endpoint) else { return };
                match change {
                    Change::Ejected(..) => left.ejected = true,
                    Change::Restored(_) => left.ejected = false,
                    Change::Healthy(healthy) => left.unhealthy = !healthy,
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
        self.endpoints.get(endpoint).is_some_and(|left| left.ejected)
    }

    /// Whether it is ejected and nothing else speaks against it.
    pub fn awaits_probe(&self, endpoint: &str) -> bool {
        self.endpoints.get(endpoint).is_some_and(|left| left.ejected && !left.unhealthy)
    }

    /// How many are.
    pub fn ejected(&self) -> usize {
        self.endpoints.values().filter(|left| left.ejected).count()
    }

    /// How many may be at once.
    pub fn cap(&self, cluster: &Cluster) -> usize {
        // One always may.
        ((self.count() as f64 * cluster.outlier_detection.cap) as usize).max(1)
    }

    /// Of how many nothing speaks against being picked.
    pub fn available(&self) -> usize {
        self.endpoints.values().filter(|left| !left.ejected && !left.unhealthy).count()
    }
}
