//! What workloads and the authority say to each other, JSON.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// Asks for a certificate: `POST /v1/certificates`.
#[derive(Debug, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// A certificate signing request (PKCS #10), PEM. Its only name is the workload's.
    pub csr: String,
}

/// A certificate, and whom its owner trusts.
#[derive(Debug, Serialize, Deserialize)]
pub struct IssuedCertificate {
    /// The certificate, PEM.
    pub certificate: String,
    /// Whom its owner trusts.
    pub bundle: Bundle,
}

/// Whom workloads of the trust domain trust: `GET /v1/bundle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Grows with each change.
    pub version: u64,
    /// The certificates of all roots, PEM.
    pub roots: String,
    /// The lists of revoked certificates, one for each root, PEM; empty if there is none.
    pub revoked: String,
}

impl Bundle {
    /// Its `ETag`, by what is in it: a state that was restored from a copy has old numbers again.
    pub fn tag(&self) -> String {
        let text = format!("{}\n{}\n{}", self.version, self.roots, self.revoked);
        format!("\"{}\"", HEXLOWER.encode(&digest(&SHA256, text.as_bytes()).as_ref()[..16]))
    }
}

/// What an operator revokes: `POST /v1/revocations`. Exactly one of the two.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// All certificates of this workload, and the bootstrap tokens that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<crate::spiffe_id::SpiffeId>,
    /// The certificate with this serial number, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// How many certificates were revoked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// That many.
    pub revoked: usize,
}

/// Why there is no answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    /// In words.
    pub error: String,
}
