//! `[cluster.discovery]`, `[register]`, and the file that a watched cluster is read from.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;

use super::EndpointTable;

/// `[cluster.discovery]`: where a cluster's endpoints are learned. Exactly one of `file`, `etcd`
/// and `dns`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// A file of `[[endpoint]]` tables, which is followed.
    pub file: Option<Spanned<String>>,
    /// A prefix of keys in etcd.
    pub etcd: Option<Spanned<Etcd>>,
    /// A name.
    pub dns: Option<Spanned<Dns>>,
    /// How long endpoints are kept while the source cannot be asked. Default `"0s"`: for ever.
    pub stale_after: Option<Spanned<String>>,
    /// How long endpoints are kept after the source says that there are none at all. Default
    /// `"0s"`: not at all.
    pub empty_grace: Option<Spanned<String>>,
}

/// `etcd = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// Its servers, `"http://IP:PORT"` or `"IP:PORT"`, tried in turn.
    pub endpoints: Vec<Spanned<String>>,
    /// What all keys of the service begin with, with a slash at the end.
    pub prefix: Spanned<String>,
}

/// `dns = { .. }`: either `name` and `port`, or `srv`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// A host: all of its addresses are endpoints.
    pub name: Option<Spanned<String>>,
    /// The port of those.
    pub port: Option<Spanned<u16>>,
    /// A service, `"_http._tcp.orders.example"`: its records say where it is, with priorities and
    /// weights.
    pub srv: Option<Spanned<String>>,
    /// Name servers, `"IP"` or `"IP:PORT"`, asked in turn. Default: those of /etc/resolv.conf.
    #[serde(default)]
    pub servers: Vec<Spanned<String>>,
    /// The shortest time after which it is asked again. Default `"1s"`.
    pub min_ttl: Option<Spanned<String>>,
    /// The longest. Default `"5m"`.
    pub max_ttl: Option<Spanned<String>>,
}

/// `[register]`: tells others where the app is, for as long as it is ready.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Where. The key is the prefix and the name of the instance.
    pub etcd: Spanned<Etcd>,
    /// The address at which others reach the app, `"IP:PORT"`.
    pub address: Spanned<String>,
    /// How long others still see it after this sidecar has vanished. Default `"15s"`.
    pub ttl: Option<Spanned<String>>,
    /// The zone it is in. Default: none.
    pub zone: Option<Spanned<String>>,
    /// Which are used first: those with the lowest. Default 0.
    pub priority: Option<Spanned<u32>>,
    /// Its share, relative to the others'. Default 1.
    pub weight: Option<Spanned<u32>>,
    /// What it speaks: `"http"` or `"tcp"`. Callers that declare nothing go by it. Default: they
    /// find out.
    pub protocol: Option<Spanned<String>>,
    /// Whom callers should expect there. Default: nobody in particular.
    pub identity: Option<Spanned<String>>,
    /// What tells it apart, for subsets.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The whole of a `discovery.file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointsFile {
    /// The endpoints. None at all is said by `endpoint = []`, so that an empty file is a mistake.
    pub endpoint: Vec<Spanned<EndpointTable>>,
}
