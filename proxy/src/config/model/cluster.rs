//! `[[cluster]]`: a set of endpoints behind virtual addresses, and how requests to it are treated.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_spanned::Spanned;

use super::{
    Adaptive, Balance, ClusterLimits, Discovery, Health, OutlierDetection, Retry, RetryBudget, Route,
};

/// `[cluster.timeouts]`; `"0s"` switches a limit off.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTimeouts {
    /// From a request's head to its response's end, with all attempts.
    pub request: Option<Spanned<String>>,
    /// From the beginning of an attempt to the response's head.
    pub per_try: Option<Spanned<String>>,
    /// From the end of a request to the response's head.
    pub response: Option<Spanned<String>>,
}

/// `[[cluster]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its name.
    pub name: Spanned<String>,
    /// The virtual addresses that apps dial, `"IP:PORT"`. May be left out if there is `sni`, or if
    /// a route leads here.
    #[serde(default)]
    pub addresses: Vec<Spanned<String>>,
    /// Server names of TLS connections to addresses of no cluster that lead here: `"db.example"`,
    /// or `"*.example"` for every name below it. The exact name goes before the longest wildcard.
    /// The app's TLS is passed through.
    #[serde(default)]
    pub sni: Vec<Spanned<String>>,
    /// `"detect"` (default, except on `opaque_ports`), `"http"` or `"tcp"`.
    pub protocol: Option<Spanned<String>>,
    /// Where it really is: `"IP:PORT"`, or a table with more. Needed unless there is `discovery`;
    /// may be empty if its routes lead elsewhere.
    pub endpoints: Option<Spanned<Vec<Spanned<Endpoint>>>>,
    /// Where its endpoints are learned.
    pub discovery: Option<Spanned<Discovery>>,
    /// Carry HTTP/1 requests over shared HTTP/2 connections. Only where every endpoint has a
    /// sidecar of this kind, which makes them HTTP/1 again. Default: if this workload and all
    /// endpoints have an identity.
    pub bridge: Option<Spanned<bool>>,
    /// Time limits of requests to it.
    #[serde(default)]
    pub timeouts: ClusterTimeouts,
    /// Retries after a failure.
    pub retry: Option<Retry>,
    /// How many retries there may be.
    pub retry_budget: Option<RetryBudget>,
    /// What becomes of requests to its addresses, tried in order. One that no route matches goes to
    /// its endpoints.
    #[serde(default)]
    pub route: Vec<Spanned<Route>>,
    /// When an endpoint is ejected.
    pub outlier_detection: Option<OutlierDetection>,
    /// Active checks of its endpoints. Default: none.
    pub health: Option<Health>,
    /// How much it may take of this sidecar.
    #[serde(default)]
    pub limits: ClusterLimits,
    /// Whether requests in flight are limited by a adaptive concurrency limit: true, or a table
    /// with its bounds. Default: false.
    pub adaptive_concurrency: Option<Spanned<Adaptive>>,
    /// Which endpoint gets a request.
    pub balance: Option<Balance>,
    /// Labels that an endpoint must have to be used. Default: none, so all are.
    #[serde(default)]
    pub subset: BTreeMap<String, Spanned<String>>,
}

/// `"10.0.0.11:8080"`, or `{ address = "10.0.0.11:8080", zone = "a", priority = 1, weight = 3,
/// labels = { version = "2" } }`.
#[derive(Debug)]
pub enum Endpoint {
    /// Only its address.
    Address(String),
    /// More than that.
    Table(Box<EndpointTable>),
}

/// An endpoint of which more is known than its address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointTable {
    /// `"IP:PORT"`.
    pub address: Spanned<String>,
    /// The zone it is in. Default: none.
    pub zone: Option<Spanned<String>>,
    /// Which are used first: those with the lowest. Default 0.
    pub priority: Option<Spanned<u32>>,
    /// Its share, relative to the others'. Default 1.
    pub weight: Option<Spanned<u32>>,
    /// What it speaks: `"http"` or `"tcp"`. Counts if the cluster declares nothing and all
    /// endpoints that say so agree.
    pub protocol: Option<Spanned<String>>,
    /// Who is expected there. Default: nobody in particular.
    pub identity: Option<Spanned<String>>,
    /// What tells it apart, for subsets.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

// By hand: a derived untagged enum loses the places of its words and says only "did not match any
// variant".
impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Endpoint;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Endpoint, E> {
                Ok(Endpoint::Address(word.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<Endpoint, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(keys)).map(Endpoint::Table)
            }
        }
        deserializer.deserialize_any(Words)
    }
}
