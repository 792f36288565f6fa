//! Who this workload is, and how it talks to others.

use std::net::SocketAddr;
use std::path::PathBuf;
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
    /// How many handshakes a worker answers at once.
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
}

impl Snapshot {
    /// Whom a port of the app is open to.
    pub fn inbound_tls(&self, port: u16) -> TlsMode {
        self.inbound_port_tls.get(&port).copied().unwrap_or(self.tls.mode)
    }
}
