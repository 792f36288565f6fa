//! A certificate authority for one trust domain: `proxy ca`.
//!
//! A workload makes a key, and asks for a certificate for it: the first time with a bootstrap token
//! that names it, and from then on with the certificate that it has. Keys never leave the workload.
//! What it gets lives shortly, and with it come the roots that it is to trust and the lists of what
//! was revoked. A root is followed by the next in time, so that any two workloads trust each other
//! at any moment ([`roots`]).
//!
//! [`authority`] decides, `issue` signs, `store` keeps, [`serve`] answers. All of it runs on the
//! network and the disk of a [`World`](crate::world::World), so the simulator has authorities too.
//!
//! What it leaves out: intermediate authorities, several authorities for one trust domain, and
//! hardware that keeps keys. Who needs those has cert-manager or SPIRE, whose certificates the
//! sidecar takes as well.

pub mod authority;
pub mod client;
pub mod issue;
mod proof;
pub mod roots;
pub mod serve;
pub(crate) mod store;
pub mod token;
pub mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::PrivateKeyDer;

use crate::spiffe_id::SpiffeId;
use crate::tls::Credentials;
use crate::tls::pem::{self, PemError, PemFile};
use crate::tls::trust::TrustBundle;
pub use authority::{Authority, AuthorityError, Settings};
pub use store::IssuedRecord;

/// A bundle as TLS takes it.
///
/// # Errors
/// If a part cannot be read.
pub fn trust_bundle(bundle: &wire::Bundle, crypto: &CryptoProvider) -> Result<TrustBundle, PemError> {
    let roots = PemFile { path: Path::new("roots of the authority"), text: &bundle.roots };
    let revoked = PemFile { path: Path::new("revoked certificates of the authority"), text: &bundle.revoked };
    let revoked = (!bundle.revoked.is_empty()).then_some(&revoked);
    TrustBundle::of_pem(&roots, revoked, crypto.signature_verification_algorithms)
}

/// What a workload, or the authority itself, proves itself with: a certificate of the authority
/// (PEM) for `key`, and whom to trust.
///
/// # Errors
/// Why they are of no use, in words.
pub fn credentials(
    certificate: &str,
    key: &KeyPair,
    bundle: &wire::Bundle,
    id: &SpiffeId,
    crypto: &CryptoProvider,
    now: SystemTime,
) -> Result<Credentials, String> {
    let trust = trust_bundle(bundle, crypto).map_err(|error| error.to_string())?.without_expired(now)?;
    let file = PemFile { path: Path::new("certificate of the authority"), text: certificate };
    let chain = pem::certificates(&file).map_err(|error| error.to_string())?;
    let chain = chain.into_iter().map(|(_, certificate)| certificate).collect();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let made = Credentials::new(chain, key, Arc::new(trust), id, crypto, now);
    made.map_err(|error| error.to_string())
}
