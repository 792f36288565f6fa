//! A set of endpoints behind virtual addresses, and how requests to it are treated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::dump;
use super::route::Route;
use super::{
    Adaptive, Balance, ClusterLimits, Discovery, Health, OutlierDetection, Protocol, Retry, RetryBudget,
};
use crate::spiffe_id::SpiffeId;

/// Time limits of a request to a cluster; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RequestTimeouts {
    /// From the request's head to the response's end, with all attempts.
    #[serde(serialize_with = "dump::optional_duration")]
    pub request: Option<Duration>,
    /// Of each attempt.
    pub attempt_timeouts: AttemptTimeouts,
}

/// Time limits of one attempt; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct AttemptTimeouts {
    /// From its beginning, connecting and sending included, to the response's head.
    #[serde(serialize_with = "dump::optional_duration")]
    pub per_try: Option<Duration>,
    /// From the end of the request to the response's head.
    #[serde(serialize_with = "dump::optional_duration")]
    pub response: Option<Duration>,
}

/// What tells endpoints apart.
pub type Labels = Arc<BTreeMap<String, String>>;

/// A set of endpoints behind virtual addresses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The addresses that apps dial.
    pub addresses: Vec<SocketAddr>,
    /// Server names of TLS connections to addresses of no cluster that lead here, in lower case;
    /// `*.` stands for every name below.
    pub sni: Vec<String>,
    /// What its endpoints speak.
    pub protocol: Protocol,
    /// Ports of its addresses that are opaque although [`Cluster::protocol`] says to detect, since
    /// nobody declared it.
    pub opaque_at: BTreeSet<u16>,
    /// Whether [`Cluster::protocol`] is the configuration's, and not what the endpoints say or do
    /// not say.
    pub declared: bool,
    /// Where it really is: what the configuration lists, or what was discovered so far.
    pub endpoints: Arc<Vec<Endpoint>>,
    /// Where its endpoints are learned, if the configuration does not list them.
    pub discovery: Option<Discovery>,
    /// Whether HTTP/1 requests go over shared HTTP/2 connections, because sidecars at the endpoints
    /// restore them. `None`: if all endpoints prove by TLS that they are sidecars.
    pub bridge: Option<bool>,
    /// Time limits of requests to it.
    pub timeouts: RequestTimeouts,
    /// Retries after a failure.
    pub retry: Arc<Retry>,
    /// How many of them there may be.
    pub retry_budget: RetryBudget,
    /// When an endpoint is ejected.
    pub outlier_detection: OutlierDetection,
    /// Active checks of its endpoints.
    pub health: Option<Arc<Health>>,
    /// How much it may take of this sidecar.
    pub limits: ClusterLimits,
    /// The limit of requests in flight that follows latency.
    pub adaptive: Option<Adaptive>,
    /// Which endpoint gets a request.
    pub balance: Arc<Balance>,
    /// What an endpoint must have to be used at all.
    pub subset: Labels,
    /// What an endpoint must have besides to be used by routes that choose a subset: the first of
    /// them is subset 1 of `endpoint::PickContext`, and so on.
    pub subsets: Vec<Labels>,
    /// What becomes of requests to its addresses; what none of them matches goes to its endpoints.
    pub routes: Vec<Route>,
    /// Whether a request that no route matches has nowhere to go: it has routes, and no endpoints
    /// of its own.
    pub routes_only: bool,
}

/// One address of a cluster and what is known of it beforehand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// The zone it is in, if that is known.
    pub zone: Option<Arc<str>>,
    /// Which are used first: those with the lowest.
    pub priority: u8,
    /// Its share, relative to the others'; at least 1.
    pub weight: u32,
    /// What it says that it speaks.
    pub protocol: Option<Protocol>,
    /// Who is expected there.
    pub identity: Option<SpiffeId>,
    /// What tells it apart, for subsets.
    pub labels: Labels,
}

impl Endpoint {
    /// An endpoint of which only the address is known.
    pub fn at(address: SocketAddr) -> Self {
        let labels = Arc::default();
        Endpoint { address, zone: None, priority: 0, weight: 1, protocol: None, identity: None, labels }
    }

    /// Whether it has all of these labels.
    pub fn has(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

impl Cluster {
    /// Settles what nobody declared: the protocol that the endpoints agree on, or else the ports
    /// that are opaque. Those are the virtual ones that are named as such, or all of them if an
    /// endpoint's port is, since that is the port that the service was given.
    pub fn settle_protocol(&mut self, opaque_ports: &BTreeSet<u16>) {
        if self.declared {
            return;
        }
        let mut said = self.endpoints.iter().filter_map(|endpoint| endpoint.protocol);
        let first = said.next();
        let agreed = first.filter(|first| said.all(|other| other == *first));
        self.protocol = agreed.unwrap_or_default();
        let all = self.endpoints.iter().any(|endpoint| opaque_ports.contains(&endpoint.address.port()));
        let ports = self.addresses.iter().map(SocketAddr::port);
        let opaque = |port: &u16| agreed.is_none() && (all || opaque_ports.contains(port));
        self.opaque_at = ports.filter(opaque).collect();
    }

    /// Whether HTTP/1 requests go over shared HTTP/2 connections; `has_identity` says whether this
    /// workload can prove who it is. Unless the configuration decides: if all endpoints are sidecars
    /// like this one, since nobody else can prove to be the workload that is expected there.
    pub fn is_bridged(&self, has_identity: bool) -> bool {
        self.bridge.unwrap_or_else(|| {
            let known = self.endpoints.iter().filter(|endpoint| endpoint.identity.is_some()).count();
            has_identity && known > 0 && known == self.endpoints.len()
        })
    }

    /// What is spoken with the virtual address at `port`.
    pub fn protocol_at(&self, port: u16) -> Protocol {
        if self.opaque_at.contains(&port) { Protocol::Tcp } else { self.protocol }
    }
}
