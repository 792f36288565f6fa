//! `[identity]` and `[tls]`: who this workload is, and how it talks to others.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[identity]`: who this workload is, and where its certificate comes from. Only read at start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Its SPIFFE id.
    pub id: Spanned<String>,
    /// The authority that signs its certificates.
    pub ca: Option<Spanned<CaClient>>,
    /// The folder with `tls.crt`, `tls.key` and `ca.crt`, as cert-manager writes it, and
    /// optionally `crl.pem`. It is watched.
    pub files: Option<Spanned<String>>,
    /// The agent that hands certificates out over the SPIFFE Workload API.
    pub workload_api: Option<Spanned<WorkloadApi>>,
}

/// `[identity.workload_api]`: asks an agent of this machine, such as SPIRE's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadApi {
    /// Where it listens: `"unix:///path"`, or `"tcp://IP:PORT"`. Default: what the environment has
    /// as `SPIFFE_ENDPOINT_SOCKET`.
    pub socket: Option<Spanned<String>>,
}

/// `[identity.ca]`: asks a certificate authority (`proxy ca run`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaClient {
    /// Where it is, `"IP:PORT"`; several are tried in turn.
    pub addresses: Vec<Spanned<String>>,
    /// The file with its roots, PEM, by which it is judged until it has told the roots itself.
    pub roots: Spanned<String>,
    /// The file with the bootstrap token, read again whenever it is needed. None is needed by a
    /// workload that is never without a certificate.
    pub token: Spanned<String>,
    /// How often it is asked whether roots or revocations have changed. Default `"1m"`.
    pub refresh: Option<Spanned<String>>,
}

/// `[tls]`: mutual TLS on the way in.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// `"strict"`, `"permissive"` or `"disabled"`, for every port that does not say otherwise.
    /// Default: `"permissive"` with an `[identity]`.
    pub mode: Option<Spanned<String>>,
    /// How long a handshake may take. Default `"5s"`.
    pub handshake: Option<Spanned<String>>,
    /// How many handshakes each worker answers at once. Default 256.
    pub handshakes: Option<Spanned<usize>>,
}
