//! Key sets of issuers (JWKS, RFC 7517), and when they are fetched.
//!
//! [`KeySet::read`] keeps the keys that verify signatures, each with the algorithms that it is for:
//! a token's own word for its algorithm only chooses among them. [`IssuerKeys`] is what workers
//! read; the control thread writes it. [`Schedule`] says when to fetch: at its interval, sooner if
//! a token names a key that is not known, but not more often than [`JWKS_UNKNOWN_KEY`], and after a
//! failure with growing waits, in which the old keys stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use rand::{Rng, RngExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::defaults::{JWKS_RETRY, JWKS_UNKNOWN_KEY};

/// Keys that verify signatures.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A set, whose entries are read one by one: one of a kind that is not known spoils no other.
#[derive(Deserialize)]
struct Document<'t> {
    #[serde(borrow)]
    keys: Vec<&'t RawValue>,
}

impl KeySet {
    /// Reads a key set.
    ///
    /// # Errors
    /// If it is none, or has no key that verifies signatures. Says where.
    pub fn read(text: &str) -> Result<Self, String> {
        let document: Document<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut unused = None;
        let mut keys = Vec::new();
        for (number, entry) in (1..).zip(document.keys) {
            match Key::read(entry.get()) {
                Ok(key) => keys.push(key),
                Err(why) => unused = unused.or(Some(format!("key {number}: {why}"))),
            }
        }
        match (keys.is_empty(), unused) {
            (false, _) => Ok(KeySet { keys }),
            (true, Some(why)) => Err(format!("no key verifies signatures ({why})")),
            (true, None) => Err("there is no key in it".into()),
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none, which no set that was read is.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that a signature by `algorithm` may be of: those called `id`, and those without a
    /// name; all if the token names none.
    pub(super) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &&Key| {
            let named = id.is_none() || key.id.is_none() || key.id.as_deref() == id;
            named && key.algorithms.contains(&algorithm)
        };
        self.keys.iter().filter(fits).map(|key| &key.key)
    }
}

impl Key {
    fn read(text: &str) -> Result<Self, String> {
        let jwk: Jwk = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err("it is not for signatures (`use`)".into());
        }
        let fits = algorithms(&jwk.algorithm);
        let algorithms = match jwk.common.key_algorithm {
            None => fits.to_vec(),
            Some(own) => {
                fits.iter().copied().filter(|algorithm| own.to_string() == name(*algorithm)).collect()
            }
        };
        if algorithms.is_empty() {
            let own = jwk.common.key_algorithm.unwrap_or(KeyAlgorithm::UNKNOWN_ALGORITHM);
            return Err(format!("its kind or its algorithm is not taken ({own})"));
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
        Ok(Key { id: jwk.common.key_id, algorithms, key })
    }
}

/// The name of an algorithm in key sets.
fn name(algorithm: Algorithm) -> String {
    format!("{algorithm:?}")
}

/// The algorithms of a kind of key. A symmetric one has none here: who verifies with it can sign.
fn algorithms(of: &AlgorithmParameters) -> &'static [Algorithm] {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match of {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        _ => &[],
    }
}

/// The keys of one issuer as they are known now. Shared by all workers and the control thread.
#[derive(Debug, Default)]
pub struct IssuerKeys {
    set: ArcSwapOption<KeySet>,
    /// A token named a key that is not known.
    missed: Notify,
    /// Whether somebody keeps them fresh.
    followed: AtomicBool,
    /// Why they are not as new as they should be, if they are not.
    trouble: ArcSwapOption<String>,
}

impl IssuerKeys {
    /// The keys, if there are any.
    pub fn set(&self) -> Option<Arc<KeySet>> {
        self.set.load_full()
    }

    /// Replaces them, or takes them away. There is no trouble any more.
    pub fn put(&self, set: Option<KeySet>) {
        self.set.store(set.map(Arc::new));
        self.trouble.store(None);
    }

    /// Notes why they are not as new as they should be.
    pub fn trouble(&self, why: String) {
        self.trouble.store(Some(Arc::new(why)));
    }

    /// Why they are not as new as they should be; `None` if they are.
    pub fn in_trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    /// A token named a key that is not known.
    pub(super) fn miss(&self) {
        self.missed.notify_one();
    }

    /// Waits until a token names a key that is not known.
    pub async fn missed(&self) {
        self.missed.notified().await;
    }

    /// Whether nobody kept them fresh so far; from now on somebody does.
    pub fn follow(&self) -> bool {
        !self.followed.swap(true, Ordering::Relaxed)
    }
}

/// When a key set is fetched.
#[derive(Debug)]
pub struct Schedule {
    refresh: Duration,
    stale_after: Option<Duration>,
    due: Instant,
    /// When it was fetched last, whatever came of it.
    last: Option<Instant>,
    /// When it was fetched with success.
    good: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// Of a set that is fetched at once, and then every `refresh`.
    pub fn new(refresh: Duration, stale_after: Option<Duration>, now: Instant) -> Self {
        Schedule { refresh, stale_after, due: now, last: None, good: None, failures: 0 }
    }

    /// When to fetch next.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// When the keys are too old to be used.
    pub fn stale(&self) -> Option<Instant> {
        Some(self.good? + self.stale_after?)
    }

    /// It was fetched.
    pub fn fetched(&mut self, now: Instant, rng: &mut impl Rng) {
        self.last = Some(now);
        self.good = Some(now);
        self.failures = 0;
        // A little early, and not all sidecars at once.
        self.due = now + self.refresh.mul_f64(rng.random_range(0.9..1.0));
    }

    /// It could not be fetched.
    pub fn failed(&mut self, now: Instant, rng: &mut impl Rng) {
        self.last = Some(now);
        let (first, longest) = JWKS_RETRY;
        let wait = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        self.due = now + wait.min(self.refresh).mul_f64(rng.random_range(0.5..1.0));
    }

    /// A token named a key that is not known: perhaps there is a new one.
    pub fn missed(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| last + JWKS_UNKNOWN_KEY).max(now);
        self.due = self.due.min(earliest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use serde_json::json;

    use super::*;
    use crate::authz::fake::{Signer, jwks};

    #[test]
    fn keys_that_cannot_verify_are_left_out_and_spoil_nothing() {
        let mut set: serde_json::Value = serde_json::from_str(&jwks(&[Signer::A, Signer::Rsa])).unwrap();
        let keys = set["keys"].as_array_mut().unwrap();
        keys.push(json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}));
        keys.push(json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}));
        keys.push(json!({"kty": "new-kind"}));
        let mut for_encryption = Signer::B.jwk();
        for_encryption["use"] = "enc".into();
        keys.push(for_encryption);
        let set = KeySet::read(&set.to_string()).unwrap();
        assert_eq!(set.len(), 2);
        let found = |id, algorithm| set.candidates(id, algorithm).count();
        assert_eq!(found(Some("a"), Algorithm::ES256), 1);
        assert_eq!(found(Some("a"), Algorithm::RS256), 0, "a key has its own algorithm");
        assert_eq!(found(Some("b"), Algorithm::ES256), 0);
        assert_eq!(found(None, Algorithm::ES256), 1);
        assert_eq!(found(Some("rsa"), Algorithm::PS512), 1);
        assert_eq!(found(None, Algorithm::HS256), 0);
    }

    #[test]
    fn what_is_no_key_set_says_why_and_where() {
        for (text, why) in [
            ("", "EOF while parsing"),
            ("{\n\"keys\": [1,]}", "line 2 column"),
            ("{}", "missing field `keys`"),
            ("{\"keys\": []}", "there is no key in it"),
            (
                "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AA\"}]}",
                "key 1: its kind or its algorithm is not taken",
            ),
            ("[]", "invalid"),
        ] {
            let said = KeySet::read(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_cause_a_fetch_but_no_storm() {
        let (begun, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(Duration::from_secs(600), None, begun);
        assert_eq!(schedule.due(), begun);
        schedule.fetched(begun, &mut rng);
        assert!(schedule.due() >= at(540) && schedule.due() <= at(600));
        let mut fetches = 0;
        for second in 0..120 {
            schedule.missed(at(second));
            if schedule.due() <= at(second) {
                fetches += 1;
                schedule.fetched(at(second), &mut rng);
            }
        }
        assert_eq!(fetches, 3, "at 30, 60 and 90 s");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_keys_grow_stale() {
        let (begun, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let (refresh, stale) = (Duration::from_secs(600), Some(Duration::from_secs(3600)));
        let mut schedule = Schedule::new(refresh, stale, begun);
        assert_eq!(schedule.stale(), None);
        schedule.fetched(begun, &mut rng);
        assert_eq!(schedule.stale(), Some(begun + Duration::from_secs(3600)));
        let mut waits = Vec::new();
        for _ in 0..10 {
            let now = schedule.due();
            schedule.failed(now, &mut rng);
            waits.push(schedule.due() - now);
        }
        assert!(waits[0] <= Duration::from_secs(1) && waits[9] >= Duration::from_secs(30), "{waits:?}");
        assert_eq!(schedule.stale(), Some(begun + Duration::from_secs(3600)), "failures prolong nothing");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            let _ = KeySet::read(&text);
            let _ = KeySet::read(&format!("{{\"keys\":[{text}]}}"));
        }
    }
}
