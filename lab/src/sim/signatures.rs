//! Signatures of handshakes that cost no arithmetic. To make and to check one of Ed25519 is most of
//! what a handshake costs in the simulator. A key that signs here says so by a hash of its public
//! key and the message, and whoever checks works out the same hash. So what was made for another
//! message or by another key is refused; only who means to forge could, and nobody in a simulation
//! does. Certificates are signed by Ed25519, and so is everything else that does not come from
//! here: it is checked as ever, but each only once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA512};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use rustls::crypto::{KeyProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, alg_id,
};
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

/// Bytes of a public key of Ed25519: the last of a SubjectPublicKeyInfo (RFC 8410 section 4).
const PUBLIC_KEY: usize = 32;

/// Real signatures that are remembered at most: more than one history has.
const MOST: usize = 1 << 10;

thread_local! {
    /// Hashes of public key, message and signature of those that were found to be valid.
    static VALID: RefCell<BTreeSet<Vec<u8>>> = const { RefCell::new(BTreeSet::new()) };
}

/// What is accepted.
pub(super) static ALGORITHMS: WebPkiSupportedAlgorithms =
    WebPkiSupportedAlgorithms { all: &[&SimEd25519], mapping: &[(SignatureScheme::ED25519, &[&SimEd25519])] };

/// Of a public key, a message and perhaps its signature: as long as a signature of Ed25519.
fn hash(public_key: &[u8], message: &[u8], signature: &[u8]) -> impl AsRef<[u8]> {
    let mut context = Context::new(&SHA512);
    for part in [public_key, message, signature] {
        context.update(part);
    }
    context.finish()
}

#[derive(Debug)]
struct SimEd25519;

impl SignatureVerificationAlgorithm for SimEd25519 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        if hash(public_key, message, &[]).as_ref() == signature {
            return Ok(());
        }
        let hash = hash(public_key, message, signature);
        if VALID.with_borrow(|valid| valid.contains(hash.as_ref())) {
            return Ok(());
        }
        let key = UnparsedPublicKey::new(&ED25519, public_key);
        key.verify(message, signature).map_err(|_| InvalidSignature)?;
        VALID.with_borrow_mut(|valid| {
            if valid.len() >= MOST {
                valid.clear();
            }
            valid.insert(hash.as_ref().to_vec());
        });
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }
}

/// Loads keys that sign by a hash.
#[derive(Debug)]
pub(super) struct SimKeys;

impl KeyProvider for SimKeys {
    fn load_private_key(&self, der: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let key = provider::default_provider().key_provider.load_private_key(der)?;
        Ok(Arc::new(SimKey(key)))
    }
}

#[derive(Debug)]
struct SimKey(Arc<dyn SigningKey>);

impl SigningKey for SimKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = self.0.choose_scheme(offered)?.scheme();
        let public_key = *self.0.public_key()?.last_chunk::<PUBLIC_KEY>()?;
        (scheme == SignatureScheme::ED25519).then(|| Box::new(SimSigner(public_key)) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct SimSigner([u8; PUBLIC_KEY]);

impl Signer for SimSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(hash(&self.0, message, &[]).as_ref().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};

    use super::*;

    #[test]
    fn what_a_key_has_signed_is_valid_for_its_message_alone_and_so_is_a_real_signature() {
        let new = || KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let (key, other) = (new(), new());
        let loaded = SimKeys.load_private_key(key.serialize_der().try_into().expect("a key")).unwrap();
        let signer = loaded.choose_scheme(&[SignatureScheme::ED25519]).expect("it signs so");
        let check = |by: &KeyPair, message: &[u8], signature: &[u8]| {
            SimEd25519.verify_signature(by.public_key_raw(), message, signature).is_ok()
        };
        for signature in [signer.sign(b"yes").unwrap(), key.sign(b"yes").unwrap()] {
            assert_eq!(signature.len(), 64, "on the wire it looks like one of Ed25519");
            assert!(check(&key, b"yes", &signature));
            assert!(!check(&key, b"no", &signature));
            assert!(!check(&other, b"yes", &signature));
            assert!(!check(&key, b"yes", &[&signature[..63], &[!signature[63]]].concat()));
        }
        assert!(loaded.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_none());
    }
}
