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
mod issue;
pub mod roots;
pub mod serve;
mod store;
pub mod token;
pub mod wire;

use std::fmt::Write as _;
use std::path::Path;

use rustls::crypto::CryptoProvider;

use crate::tls::pem::{PemError, PemFile};
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}
