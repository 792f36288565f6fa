//! The cryptography of a process: aws-lc, with the operating system's entropy.
//!
//! Chosen over ring because it has the hybrid key exchange X25519MLKEM768, which keeps what is
//! recorded today secret from a quantum computer of tomorrow, and because it signs and verifies
//! faster.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// That of production. TLS 1.3 only.
pub fn system() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
