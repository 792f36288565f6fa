//! Who this workload is, and how it talks to others.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::Snapshot;
use crate::config::defaults;
use crate::spiffe_id::SpiffeId;

/// Who this workload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its name.
    pub id: SpiffeId,
    /// Where its certificate comes from.
    pub source: IdentitySource,
}

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentitySource {
    /// A folder that something else writes to.
    Files(PathBuf),
    /// An authority that is asked.
    Ca(CaClient),
    /// An agent that pushes them, at this socket or at the one that the environment names.
    WorkloadApi(Option<AgentSocket>),
}

/// Where an agent listens (SPIFFE Workload Endpoint, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSocket {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

impl FromStr for AgentSocket {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            // An authority would stand behind two slashes, and there is none.
            let path = path.strip_prefix("//").unwrap_or(path);
            let absolute = path.starts_with('/') && !path.contains(['?', '#']);
            return if absolute {
                Ok(AgentSocket::Unix(path.into()))
            } else {
                Err("the path must be absolute")
            };
        }
        match text.strip_prefix("tcp://").map(str::parse) {
            Some(Ok(address)) => Ok(AgentSocket::Tcp(address)),
            Some(Err(_)) => Err("behind tcp:// stand an IP address and a port"),
            None => Err("it begins with unix: or tcp:"),
        }
    }
}

impl fmt::Display for AgentSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgentSocket::Unix(path) => write!(f, "unix://{}", path.display()),
            AgentSocket::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Serialize for AgentSocket {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How the certificate authority is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaClient {
    /// Where it is; tried in turn.
    pub addresses: Vec<SocketAddr>,
    /// The file with the roots by which it is judged at first.
    pub roots: PathBuf,
    /// The file with the bootstrap token.
    pub token: PathBuf,
    /// How often it is asked whether roots or revocations have changed.
    pub refresh: Duration,
}

/// Mutual TLS on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Of ports that have no mode of their own.
    pub mode: TlsMode,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How many handshakes may be under way on a worker.
    pub handshakes: usize,
}

impl Default for Tls {
    /// That of a workload without an identity.
    fn default() -> Self {
        Tls { mode: TlsMode::Disabled, handshake: defaults::HANDSHAKE, handshakes: defaults::HANDSHAKES }
    }
}

/// Whom a port of the app is open to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// To workloads of the mesh, which prove who they are.
    Strict,
    /// To everybody; workloads of the mesh prove who they are.
    Permissive,
    /// To everybody, and nobody is asked.
    Disabled,
}

impl TlsMode {
    /// Each with its word in the configuration.
    pub const ALL: [(&'static str, TlsMode); 3] =
        [("strict", TlsMode::Strict), ("permissive", TlsMode::Permissive), ("disabled", TlsMode::Disabled)];

    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, one)| *one == self).map_or("", |(word, _)| word)
    }
}

impl Snapshot {
    /// Whom a port of the app is open to.
    pub fn inbound_tls(&self, port: u16) -> TlsMode {
        self.inbound_port_tls.get(&port).copied().unwrap_or(self.tls.mode)
    }

    /// What an operator should look at although the configuration can be used, one sentence each:
    /// names of workloads that nobody proves. Registries are full of names that a workload without
    /// an identity has no use for, so these are no mistakes.
    pub fn doubts(&self) -> Vec<String> {
        let own = self.identity.as_ref().map(|identity| &identity.id);
        let in_vain = |expected: &SpiffeId| own.is_none_or(|own| !expected.is_member_of(own.trust_domain()));
        let why = match own {
            None => "is called in plaintext all the same, since there is no [identity]".into(),
            Some(own) => format!("cannot be called, since it is of another trust domain than {own}"),
        };
        let mut doubts = Vec::new();
        for cluster in &self.clusters {
            let named =
                cluster.endpoints.iter().filter_map(|one| Some((one.address, one.identity.as_ref()?)));
            if let Some((address, expected)) = named.into_iter().find(|(_, expected)| in_vain(expected)) {
                let name = &cluster.name;
                doubts.push(format!("cluster {name:?}: the endpoint {address}, {expected}, {why}"));
            }
        }
        let told = self.register.as_ref().and_then(|register| register.endpoint.identity.as_ref());
        if let Some(told) = told.filter(|told| own != Some(told)) {
            doubts.push(format!(
                "register: callers are told to expect {told}, which is not who this workload is: they refuse it"
            ));
        }
        doubts
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    /// What is doubted with an `[identity]`, or with none.
    fn doubts(own: Option<&str>, more: &str) -> Vec<String> {
        let own = own.map(|id| format!("identity = {{ id = '{id}', files = '/certs' }}\n"));
        let text = format!("service = 'web'\n{}{more}", own.unwrap_or_default());
        parse("sidecar.toml", &text).expect("it can be used").doubts()
    }

    #[test]
    fn names_that_nobody_proves_are_doubted() {
        const WEB: Option<&str> = Some("spiffe://mesh.test/ns/shop/sa/web");
        let to = |id: &str| {
            format!(
                "[[cluster]]\nname = 'orders'\naddresses = ['10.96.0.10:80']\n\
                 endpoints = ['10.0.0.1:80', {{ address = '10.0.0.2:80', identity = '{id}' }}]"
            )
        };
        let (near, far) = (to("spiffe://mesh.test/orders"), to("spiffe://other.test/orders"));
        assert_eq!(doubts(WEB, &near), [""; 0]);
        assert_eq!(
            doubts(None, &near),
            [
                "cluster \"orders\": the endpoint 10.0.0.2:80, spiffe://mesh.test/orders, is called in plaintext \
              all the same, since there is no [identity]"
            ]
        );
        assert_eq!(
            doubts(WEB, &far),
            [
                "cluster \"orders\": the endpoint 10.0.0.2:80, spiffe://other.test/orders, cannot be called, since \
              it is of another trust domain than spiffe://mesh.test/ns/shop/sa/web"
            ]
        );
        let register = |id: &str| {
            format!(
                "register = {{ etcd = {{ endpoints = ['http://10.0.0.5:2379'], prefix = '/a/' }}, \
                 address = '10.0.0.1:80', identity = '{id}' }}"
            )
        };
        assert_eq!(doubts(WEB, &register("spiffe://mesh.test/ns/shop/sa/web")), [""; 0]);
        for own in [WEB, None] {
            let said = doubts(own, &register("spiffe://mesh.test/orders")).join("");
            assert!(
                said.starts_with("register: callers are told to expect spiffe://mesh.test/orders"),
                "{said}"
            );
        }
    }
}
