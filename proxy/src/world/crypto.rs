//! The cryptography of a process: aws-lc, with the operating system's entropy.
//!
//! Chosen over ring because it has the hybrid key exchange X25519MLKEM768, which keeps what is
//! recorded today secret from a quantum computer of tomorrow. Full handshakes take as long as with
//! ring, and it takes 40 s longer to build. Bulk takes about twice as long on processors that have
//! VAES but not AVX-512, for which ring alone has a version of AES-GCM (5.8 to 7.9 Gbit/s with
//! AES-256 in memory, both ends on one processor, and ring 10.5 to 15.3).

use std::sync::Arc;

use rcgen::KeyPair;
use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// That of production. TLS 1.3 only. Prefers AES-128 to AES-256, as BoringSSL and Go do: it takes
/// ten rounds a block instead of fourteen, and nobody breaks either.
pub fn system() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quicker_aes_is_preferred_and_everything_else_is_still_offered() {
        let offered: Vec<CipherSuite> = system().cipher_suites.iter().map(|suite| suite.suite()).collect();
        let all = [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        assert_eq!(offered, all);
    }
}
