//! `[[cluster.route]]`: what becomes of the requests to a cluster's addresses, tried in order.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_spanned::Spanned;

use super::{ClusterTimeouts, Retry};

/// `[[cluster.route]]`. The first one that matches counts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name in metrics. Default: its place among the cluster's routes, from 1.
    pub name: Option<Spanned<String>>,
    /// Which requests. Default: all.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// Where they go. Default: to the cluster itself.
    pub to: Option<Spanned<Vec<Target>>>,
    /// What they ask for instead.
    pub rewrite: Option<Spanned<Rewrite>>,
    /// Where the client is sent.
    pub redirect: Option<Spanned<Redirect>>,
    /// The sidecar's own answer.
    pub respond: Option<Spanned<Respond>>,
    /// Changes of the requests' headers.
    #[serde(default)]
    pub request_headers: HeaderEdits,
    /// Changes of the responses' headers.
    #[serde(default)]
    pub response_headers: HeaderEdits,
    /// Who gets a copy.
    pub mirror: Option<Spanned<Mirror>>,
    /// Time limits. What is left out is as the cluster says that a request goes to.
    #[serde(default)]
    pub timeouts: ClusterTimeouts,
    /// Retries after a failure. What is left out is as the cluster says that a request goes to.
    pub retry: Option<Retry>,
    /// Failures that are made on purpose.
    pub fault: Option<Spanned<Fault>>,
}

/// `match`: all that is said must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The whole path, without the query.
    pub path: Option<Spanned<String>>,
    /// What the path begins with, in whole segments: `"/api"` is not the beginning of `/apis`.
    pub prefix: Option<Spanned<String>>,
    /// A regular expression for the whole path.
    pub regex: Option<Spanned<String>>,
    /// One of these methods.
    #[serde(default)]
    pub methods: Vec<Spanned<String>>,
    /// One of these hosts, of any port: `"orders.example"`, or `"*.example"` for every name below
    /// it.
    #[serde(default)]
    pub authorities: Vec<Spanned<String>>,
    /// Headers, by name.
    #[serde(default)]
    pub headers: BTreeMap<Spanned<String>, Value>,
    /// Parameters of the query, by name, neither of them decoded.
    #[serde(default)]
    pub query: BTreeMap<Spanned<String>, Value>,
}

/// `"text"` for exactly that, or `{ prefix = "text" }`, `{ regex = "text" }`, `{ present = true }`.
#[derive(Debug)]
pub enum Value {
    /// Exactly this.
    Exact(String),
    /// Something else.
    Table(ValueTable),
}

/// What a value is like. One of the three.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueTable {
    /// It begins so.
    pub prefix: Option<Spanned<String>>,
    /// A regular expression for the whole of it.
    pub regex: Option<Spanned<String>>,
    /// Whether there is one, whatever it is.
    pub present: Option<Spanned<bool>>,
}

// By hand, as for `Endpoint`: a derived untagged enum loses the places of its words.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Value, E> {
                Ok(Value::Exact(word.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<Value, A::Error> {
                ValueTable::deserialize(MapAccessDeserializer::new(keys)).map(Value::Table)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

/// One of the clusters that share a route's requests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name. Default: the cluster that the route belongs to.
    pub cluster: Option<Spanned<String>>,
    /// Its share, relative to the others'. Default 1.
    pub weight: Option<Spanned<u32>>,
}

/// `rewrite`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// The path. The query stays.
    pub path: Option<Spanned<String>>,
    /// What stands in place of the prefix that was matched.
    pub prefix: Option<Spanned<String>>,
    /// The host, with a port if it has one.
    pub authority: Option<Spanned<String>>,
}

/// `redirect`. What is left out is as in the request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// `"http"` or `"https"`.
    pub scheme: Option<Spanned<String>>,
    /// The host, with a port if it has one.
    pub authority: Option<Spanned<String>>,
    /// The path. The query stays.
    pub path: Option<Spanned<String>>,
    /// What stands in place of the prefix that was matched.
    pub prefix: Option<Spanned<String>>,
    /// 301, 302 (default), 303, 307 or 308.
    pub status: Option<Spanned<u16>>,
}

/// `respond`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// From 200 to 599.
    pub status: Option<Spanned<u16>>,
    /// Its text. Default: none.
    pub body: Option<Spanned<String>>,
}

/// `request_headers` and `response_headers`. A header stands in one of them only.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    /// Instead of what there was.
    #[serde(default)]
    pub set: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Beside what there was.
    #[serde(default)]
    pub add: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Taken away.
    #[serde(default)]
    pub remove: Vec<Spanned<String>>,
}

/// `mirror`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The cluster.
    pub cluster: Option<Spanned<String>>,
    /// How many of the requests. Default `"100%"`.
    pub share: Option<Spanned<String>>,
}

/// `fault`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// How long a request waits before anything else happens to it.
    pub delay: Option<Spanned<String>>,
    /// How many of them do. Default `"100%"`.
    pub delay_share: Option<Spanned<String>>,
    /// The status that a request is answered with instead, 400 to 599.
    pub abort: Option<Spanned<u16>>,
    /// How many of them are. Default `"100%"`.
    pub abort_share: Option<Spanned<String>>,
}
