//! What a cluster and its endpoints look like now, for the page that shows it: as text, a line for
//! each, or as JSON.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::Cluster;
use crate::config;
use crate::endpoint::{Endpoint, Phase};

/// A cluster as it is now.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// Requests in flight.
    pub in_flight: u32,
    /// How many may be, where that follows latency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Its endpoints, in the order of the cluster.
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint as it is now.
#[derive(Debug, Serialize)]
pub struct EndpointStatus {
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it is ejected.
    pub state: State,
    /// What active checks say.
    pub health: &'static str,
    /// Active requests and opaque connections.
    pub pending: u32,
    /// How long answers take, about.
    #[serde(rename = "latency_seconds", serialize_with = "seconds")]
    pub latency: Duration,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// Which are used first: those with the lowest.
    pub priority: u8,
    /// Where it is, if that is known.
    pub zone: Option<Arc<str>>,
}

/// Whether an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum State {
    /// No.
    InUse,
    /// It is.
    Ejected {
        /// Why.
        reason: &'static str,
        /// For how long still; zero: the next request is its probe.
        #[serde(rename = "seconds", serialize_with = "seconds")]
        rest: Duration,
    },
    /// A probe is under way, which decides.
    Probing {
        /// Why it was ejected.
        reason: &'static str,
    },
}

fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

impl Cluster {
    /// What it looks like at `now`.
    pub fn status(&self, now: Instant) -> ClusterStatus {
        let endpoints = self.endpoints.iter().zip(self.config.endpoints.iter());
        ClusterStatus {
            name: self.config.name.clone(),
            in_flight: self.concurrency.in_flight(),
            limit: self.concurrency.limit(),
            endpoints: endpoints.map(|(endpoint, known)| EndpointStatus::new(endpoint, known, now)).collect(),
        }
    }
}

impl EndpointStatus {
    fn new(endpoint: &Endpoint, known: &config::Endpoint, now: Instant) -> Self {
        let state = match endpoint.phase() {
            Phase::Closed => State::InUse,
            Phase::HalfOpen(reason) if endpoint.awaits_probe(now) => {
                State::Ejected { reason: reason.label(), rest: Duration::ZERO }
            }
            Phase::HalfOpen(reason) => State::Probing { reason: reason.label() },
            Phase::Ejected(until, reason) => {
                State::Ejected { reason: reason.label(), rest: until.saturating_duration_since(now) }
            }
        };
        EndpointStatus {
            address: endpoint.address(),
            state,
            health: endpoint.health().label(),
            pending: endpoint.pending(),
            latency: endpoint.latency(now),
            weight: known.weight,
            priority: known.priority,
            zone: known.zone.clone(),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::InUse => f.write_str("in use"),
            State::Probing { reason } => write!(f, "ejected ({reason}), its probe is under way"),
            State::Ejected { reason, rest } if rest.is_zero() => {
                write!(f, "ejected ({reason}), the next request is its probe")
            }
            State::Ejected { reason, rest } => write!(f, "ejected ({reason}) for another {rest:.1?}"),
        }
    }
}

impl fmt::Display for ClusterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        write!(f, "{name}  in flight {}", self.in_flight)?;
        if let Some(limit) = self.limit {
            write!(f, " of {limit}")?;
        }
        writeln!(f)?;
        for endpoint in &self.endpoints {
            writeln!(
                f,
                "{name}  {}  {}  {}  pending {}  latency {:.1?}  weight {}  priority {}  zone {}",
                endpoint.address,
                endpoint.state,
                endpoint.health,
                endpoint.pending,
                endpoint.latency,
                endpoint.weight,
                endpoint.priority,
                endpoint.zone.as_deref().unwrap_or("-"),
            )?;
        }
        Ok(())
    }
}
