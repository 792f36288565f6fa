//! Cryptography of which every byte follows from the seed, so that a history with TLS is as
//! repeatable as one without.
//!
//! Each process draws from a stream of its own, which is in force while one of its tasks is polled.
//! rustls takes its randomness from a static, and has no other way to learn whose it is. Only what
//! draws at random is replaced, and what costs most and is not on trial: the key exchange looks
//! like X25519 on the wire and is none (nor anything hybrid, because the provider makes those keys
//! itself); certificates are signed by Ed25519, which needs no chance, and handshakes by a hash
//! that looks like it ([`signatures`]); and of the suites there is the one whose hash costs least.
//! Everything else is the sidecar's own provider. Nothing secret may ever come from here: who knows
//! the seed knows all keys, and who sees a handshake knows its secret.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::Ed25519KeyPair;
use proxy::world::{RngTree, World, crypto};
use rand::Rng;
use rand::rngs::StdRng;
use rcgen::{KeyPair, PKCS_ED25519};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::{CipherSuite, Error, NamedGroup};

use super::signatures;

/// Bytes that X25519 shows, and of the seed of a key of Ed25519.
const KEY: usize = 32;

thread_local! {
    static DRAWN_FROM: RefCell<Option<Entropy>> = const { RefCell::new(None) };
}

/// The stream of one process.
#[derive(Clone)]
pub(super) struct Entropy(Rc<RefCell<StdRng>>);

impl Entropy {
    /// That of the process whose other chance is `rng`.
    pub fn new(rng: &RngTree) -> Self {
        Entropy(Rc::new(RefCell::new(rng.child("cryptography", 0).rng())))
    }
}

/// While it lives, keys are drawn from the stream of one process.
pub(super) struct Drawing(Option<Entropy>);

impl Drawing {
    pub fn begin(from: &Entropy) -> Self {
        Drawing(DRAWN_FROM.replace(Some(from.clone())))
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        DRAWN_FROM.set(self.0.take());
    }
}

/// A world with this cryptography.
pub(super) fn seeded<N>(world: World<N>) -> World<N> {
    let mut provider = CryptoProvider {
        secure_random: &SimRandom,
        kx_groups: vec![&SimX25519],
        signature_verification_algorithms: signatures::ALGORITHMS,
        key_provider: &signatures::SimKeys,
        ..CryptoProvider::clone(&crypto::system())
    };
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    world.with_crypto(Arc::new(provider), new_key)
}

/// Makes a key of the process that is running.
fn new_key() -> Result<KeyPair, rcgen::Error> {
    let unavailable = |_| rcgen::Error::RingUnspecified;
    let seed = draw().map_err(|_| rcgen::Error::RingUnspecified)?;
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| rcgen::Error::RingUnspecified)?;
    let der = key.to_pkcs8v1().map_err(unavailable)?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der.as_ref().into(), &PKCS_ED25519)
}

fn draw() -> Result<[u8; KEY], GetRandomFailed> {
    let mut bytes = [0; KEY];
    SimRandom.fill(&mut bytes)?;
    Ok(bytes)
}

/// The stream of the process that is running. Outside of all processes there is none: what draws
/// there would make the history depend on something else than the seed.
#[derive(Debug)]
struct SimRandom;

impl SecureRandom for SimRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        DRAWN_FROM.with_borrow(|entropy| {
            let entropy = entropy.as_ref().ok_or(GetRandomFailed)?;
            entropy.0.borrow_mut().fill_bytes(bytes);
            Ok(())
        })
    }
}

#[derive(Debug)]
struct SimX25519;

impl SupportedKxGroup for SimX25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Exchange(draw()?)))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// What is shown to the other side. The secret follows from what both have shown: a hash instead of
/// arithmetic on a curve, twice in each handshake.
struct Exchange([u8; KEY]);

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        if peer.len() != KEY {
            return Err(Error::PeerMisbehaved(rustls::PeerMisbehaved::InvalidKeyShare));
        }
        let shown = [self.0.as_slice().min(peer), self.0.as_slice().max(peer)].concat();
        Ok(SharedSecret::from(digest(&SHA256, &shown).as_ref()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.0
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u64) -> String {
        let entropy = Entropy::new(&RngTree::new(seed));
        let _drawing = Drawing::begin(&entropy);
        new_key().expect("a key").serialize_pem()
    }

    #[test]
    fn keys_follow_from_the_seed_and_from_nothing_else() {
        assert_eq!(key(1), key(1));
        assert_ne!(key(1), key(2));
    }

    #[test]
    fn outside_of_all_processes_nothing_is_drawn() {
        assert!(new_key().is_err());
        assert!(SimX25519.start().is_err());
    }

    #[test]
    fn both_sides_agree_on_a_secret_and_refuse_a_key_that_is_none() {
        let entropy = Entropy::new(&RngTree::new(1));
        let _drawing = Drawing::begin(&entropy);
        let (one, other) = (SimX25519.start().unwrap(), SimX25519.start().unwrap());
        let (of_one, of_other) = (one.pub_key().to_vec(), other.pub_key().to_vec());
        let (a, b) = (one.complete(&of_other).unwrap(), other.complete(&of_one).unwrap());
        assert_eq!(a.secret_bytes(), b.secret_bytes());
        assert!(SimX25519.start().unwrap().complete(&[1, 2, 3]).is_err());
    }
}
