//! Signatures that cost no arithmetic twice. To check one of Ed25519 is most of what a handshake
//! costs in the simulator, and all of them are made in the same thread: whoever signs notes what it
//! has signed, and whoever checks looks there first. A signature that nobody has noted is checked
//! as ever, so what is forged, or made for another message, is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
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
/// Signatures that are remembered at most: more than one history has.
const MOST: usize = 1 << 14;

thread_local! {
    /// Hashes of public key, message and signature of those that are valid.
    static VALID: RefCell<BTreeSet<[u8; 32]>> = const { RefCell::new(BTreeSet::new()) };
}

/// What is accepted.
pub(super) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[&RememberedEd25519],
    mapping: &[(SignatureScheme::ED25519, &[&RememberedEd25519])],
};

fn hash(public_key: &[u8], message: &[u8], signature: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [public_key, message, signature] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn remember(valid: [u8; 32]) {
    VALID.with_borrow_mut(|all| {
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(valid);
    });
}

#[derive(Debug)]
struct RememberedEd25519;

impl SignatureVerificationAlgorithm for RememberedEd25519 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let hash = hash(public_key, message, signature);
        if VALID.with_borrow(|all| all.contains(&hash)) {
            return Ok(());
        }
        let key = UnparsedPublicKey::new(&ED25519, public_key);
        key.verify(message, signature).map_err(|_| InvalidSignature)?;
        remember(hash);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }
}

/// Loads keys that note what they sign.
#[derive(Debug)]
pub(super) struct NotingKeys;

impl KeyProvider for NotingKeys {
    fn load_private_key(&self, der: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let key = provider::default_provider().key_provider.load_private_key(der)?;
        Ok(Arc::new(NotingKey(key)))
    }
}

#[derive(Debug)]
struct NotingKey(Arc<dyn SigningKey>);

impl SigningKey for NotingKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let public_key = self.0.public_key()?;
        let public_key = public_key.as_ref().last_chunk::<PUBLIC_KEY>().copied()?;
        Some(Box::new(NotingSigner { signer: self.0.choose_scheme(offered)?, public_key }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct NotingSigner {
    signer: Box<dyn Signer>,
    public_key: [u8; PUBLIC_KEY],
}

impl Signer for NotingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.signer.sign(message)?;
        remember(hash(&self.public_key, message, &signature));
        Ok(signature)
    }

    fn scheme(&self) -> SignatureScheme {
        self.signer.scheme()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ED25519};

    use super::*;

    #[test]
    fn what_was_signed_here_is_valid_and_nothing_else_is() {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let noting = NotingKeys.load_private_key(key.serialize_der().try_into().expect("a key")).unwrap();
        let signer = noting.choose_scheme(&[SignatureScheme::ED25519]).expect("it signs so");
        let signature = signer.sign(b"yes").unwrap();
        let (public_key, noted) = (key.public_key_raw(), VALID.with_borrow(BTreeSet::len));
        let check = |message: &[u8], signature: &[u8]| {
            RememberedEd25519.verify_signature(public_key, message, signature).is_ok()
        };
        assert_eq!(noted, 1);
        assert!(check(b"yes", &signature));
        assert!(!check(b"no", &signature));
        assert!(!check(b"yes", &[&signature[..63], &[!signature[63]]].concat()));
        assert_eq!(VALID.with_borrow(BTreeSet::len), 1, "found by what the signer has noted");
        VALID.with_borrow_mut(BTreeSet::clear);
        assert!(check(b"yes", &signature), "and by arithmetic");
        assert_eq!(VALID.with_borrow(BTreeSet::len), 1);
    }
}
