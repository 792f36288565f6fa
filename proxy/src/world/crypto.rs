//! The cryptography of a process: aws-lc, with the operating system's entropy.
//!
//! Chosen over ring because it has the hybrid key exchange X25519MLKEM768, which keeps what is
//! recorded today secret from a quantum computer of tomorrow. Full handshakes take as long as with
//! ring. Bulk takes about twice as long (5.8 to 7.9 Gbit/s in memory, both ends on one processor,
//! and ring 10.5 to 15.3), and it takes 40 s longer to build.

use std::sync::Arc;

use rcgen::KeyPair;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// That of production. TLS 1.3 only.
pub fn system() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes the key of a workload or of a root.
pub type KeySource = fn() -> Result<KeyPair, rcgen::Error>;

/// That of production: ECDSA over P-256, which every TLS library reads, from the operating system's
/// entropy.
///
/// # Errors
/// If there is none.
pub fn system_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate()
}
