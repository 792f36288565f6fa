//! Key sets of issuers of tokens (JWKS, RFC 7517).
//!
//! [`KeySet::read`] keeps the keys that verify signatures, each with the algorithms that it is for:
//! a token's own word for its algorithm only chooses among them. Each key is judged when the set is
//! read, because one that no signature can fit would take the place of a good one, and refuse every
//! token.

use std::ops::RangeInclusive;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Keys that verify signatures.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Why others are left out, one line.
    left_out: Option<String>,
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
        let mut unused = Vec::new();
        let mut keys = Vec::new();
        for (number, entry) in (1..).zip(document.keys) {
            match Key::read(entry.get()) {
                Ok(key) => keys.push(key),
                Err(why) => unused.push(format!("{}: {why}", called(entry.get(), number))),
            }
        }
        let hidden = unused.len().saturating_sub(REASONS);
        unused.truncate(REASONS);
        if hidden > 0 {
            unused.push(format!("and {hidden} more"));
        }
        let left_out = (!unused.is_empty()).then(|| unused.join("; "));
        match (keys.is_empty(), left_out) {
            (false, left_out) => Ok(KeySet { keys, left_out }),
            (true, Some(why)) => Err(format!("no key verifies signatures ({why})")),
            (true, None) => Err("there is no key in it".into()),
        }
    }

    /// Why some of its keys are not used, if there are such: each by its `kid`, or by its position.
    pub fn left_out(&self) -> Option<&str> {
        self.left_out.as_deref()
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
    pub fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &&Key| key.may_be(id) && key.algorithms.contains(&algorithm);
        self.keys.iter().filter(fits).map(|key| &key.key)
    }

    /// Whether there is a key that is called `id`, or may be, whatever its algorithms are.
    pub fn has(&self, id: Option<&str>) -> bool {
        self.keys.iter().any(|key| key.may_be(id))
    }
}

/// What a person calls an entry of a set.
fn called(entry: &str, number: usize) -> String {
    #[derive(Deserialize)]
    struct Named {
        kid: String,
    }
    match serde_json::from_str::<Named>(entry) {
        // The server's words do not fill the log.
        Ok(Named { kid }) => format!("key {:?}", kid.chars().take(KID_SHOWN).collect::<String>()),
        Err(_) => format!("key {number}"),
    }
}

impl Key {
    /// Whether it may be the one that a token calls `id`.
    fn may_be(&self, id: Option<&str>) -> bool {
        id.is_none() || self.id.is_none() || self.id.as_deref() == id
    }

    fn read(text: &str) -> Result<Self, String> {
        let jwk: Jwk = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err("it is not for signatures (`use`)".into());
        }
        if jwk.common.key_operations.as_ref().is_some_and(|list| !list.contains(&KeyOperations::Verify)) {
            return Err("it is not for verifying (`key_ops`)".into());
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
        judge(&jwk.algorithm, &key)?;
        Ok(Key { id: jwk.common.key_id, algorithms, key })
    }
}

/// Why no signature can fit a key, or anybody's does.
fn judge(of: &AlgorithmParameters, key: &DecodingKey) -> Result<(), String> {
    let bytes = || key.try_get_as_bytes().map_err(|error| error.to_string());
    match of {
        AlgorithmParameters::RSA(key) => {
            let number = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|error| error.to_string());
            judge_rsa(&number(&key.n)?, &number(&key.e)?)
        }
        AlgorithmParameters::OctetKeyPair(_) => judge_ed25519(bytes()?),
        AlgorithmParameters::EllipticCurve(key) => {
            let curve = if key.curve == EllipticCurve::P256 {
                &ECDSA_P256_SHA256_FIXED
            } else {
                &ECDSA_P384_SHA384_FIXED
            };
            let parsed = ParsedPublicKey::new(curve, bytes()?);
            parsed.map(drop).map_err(|_| "it is not a point of its curve".into())
        }
        _ => Ok(()),
    }
}

fn judge_rsa(n: &[u8], e: &[u8]) -> Result<(), String> {
    let wrong =
        || "it is not an RSA key: `n` and `e` must be odd, `e` from 3 to 2^33, no zeros before".into();
    // The library takes the numbers as they are, and looks at them when it reads a key.
    let components = RsaPublicKeyComponents { n, e };
    let built = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(|_| wrong())?;
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(format!("it has {bits} bits, and RSA keys of {least} to {most} are taken"));
    }
    ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, built.as_ref()).map(drop).map_err(|_| wrong())
}

/// Whether it is on the curve is not looked at: half of all texts are, so that would tell little.
fn judge_ed25519(key: &[u8]) -> Result<(), String> {
    let Ok(mut point) = <[u8; 32]>::try_from(key) else {
        return Err(format!("an Ed25519 key has 32 bytes, and this has {}", key.len()));
    };
    // The sign of the other coordinate.
    point[31] &= 0x7f;
    if SMALL_ORDER.contains(&point) {
        return Err("it is a point of small order, which anybody's signature fits".into());
    }
    Ok(())
}

/// How many bits an RSA key may have: what verifies signatures takes no others.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// How many reasons are given why keys are left out.
const REASONS: usize = 8;

/// How much of the name of a key is shown, characters.
const KID_SHOWN: usize = 64;

/// The points of Ed25519 whose order divides 8, without the bit of the sign: 0, 1, two of order 8
/// and -1, then 0 and 1 as somebody may write them beyond the prime (libsodium's
/// `ge25519_has_small_order`). A signature by one of them needs no private key.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    small(1, 0),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    small(0xec, 0xff),
    small(0xed, 0xff),
    small(0xee, 0xff),
];

/// A number, little-endian, whose first byte is `first` and whose others are `rest`.
const fn small(first: u8, rest: u8) -> [u8; 32] {
    let mut bytes = [rest; 32];
    bytes[0] = first;
    bytes[31] &= 0x7f;
    bytes
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
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

    #[test]
    fn a_key_that_no_signature_fits_is_left_out_and_named() {
        let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let ec = |x: &[u8], y: &[u8]| json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y)});
        let rsa = |n: &[u8], e: &[u8]| json!({"kty": "RSA", "n": base64(n), "e": base64(e)});
        let ed = |x: &[u8]| json!({"kty": "OKP", "crv": "Ed25519", "x": base64(x)});
        let good = Signer::A.jwk();
        let changed = |key: &str, value: serde_json::Value| {
            let mut jwk = good.clone();
            jwk[key] = value;
            jwk
        };
        let mut modulus = BASE64_URL_SAFE_NO_PAD.decode(Signer::Rsa.jwk()["n"].as_str().unwrap()).unwrap();
        let n = modulus.clone();
        modulus[255] -= 1;
        let even = modulus;
        let long = |bytes: usize| vec![0xff; bytes];
        for (jwk, why) in [
            (ec(&[1; 32], &[1; 32]), "key 1: it is not a point of its curve"),
            (ec(&[0; 32], &[0; 32]), "not a point"),
            (ec(&[1; 31], &[1; 32]), "not a point"),
            (changed("y", "AA".into()), "key \"a\": it is not a point"),
            (changed("crv", "P-384".into()), "its kind or its algorithm is not taken"),
            (rsa(&long(64), &[1, 0, 1]), "it has 512 bits, and RSA keys of 2048 to 8192 are taken"),
            (rsa(&long(128), &[1, 0, 1]), "it has 1024 bits"),
            (rsa(&long(2048), &[1, 0, 1]), "it has 16384 bits"),
            (rsa(&n, &[0]), "it is not an RSA key"),
            (rsa(&n, &[]), "it is not an RSA key"),
            (rsa(&n, &[1]), "it is not an RSA key"),
            (rsa(&n, &[2]), "it is not an RSA key"),
            (rsa(&n, &long(8)), "it is not an RSA key"),
            (rsa(&[&[0], &*n].concat(), &[1, 0, 1]), "it is not an RSA key"),
            (rsa(&even, &[1, 0, 1]), "it is not an RSA key"),
            (ed(&[1, 2]), "an Ed25519 key has 32 bytes, and this has 2"),
            (ed(&[9; 44]), "this has 44"),
            (changed("key_ops", json!(["sign"])), "it is not for verifying"),
            (changed("key_ops", json!(["encrypt"])), "it is not for verifying"),
            (changed("key_ops", json!([])), "it is not for verifying"),
        ] {
            let said = KeySet::read(&json!({"keys": [jwk]}).to_string()).unwrap_err();
            assert!(said.contains(why), "{jwk}: {said}");
            let both = KeySet::read(&json!({"keys": [jwk, Signer::B.jwk()]}).to_string()).unwrap();
            assert_eq!(both.len(), 1);
            assert!(both.left_out().unwrap().contains(why), "{jwk}: {:?}", both.left_out());
        }
        for jwk in [changed("key_ops", json!(["sign", "verify"])), rsa(&n, &[3])] {
            let read = KeySet::read(&json!({"keys": [jwk]}).to_string()).unwrap();
            assert_eq!((read.len(), read.left_out()), (1, None));
        }
        let many = json!({"keys": vec![json!({"kty": "x"}); 20]}).to_string();
        assert!(KeySet::read(&many).unwrap_err().ends_with("; and 12 more)"));
    }

    #[test]
    fn a_point_of_small_order_is_no_key_whatever_its_sign() {
        for point in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut x = point;
                x[31] |= sign;
                let x = BASE64_URL_SAFE_NO_PAD.encode(x);
                let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string();
                let said = KeySet::read(&set).unwrap_err();
                assert!(said.contains("small order"), "{x}: {said}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            let _ = KeySet::read(&text);
            let _ = KeySet::read(&format!("{{\"keys\":[{text}]}}"));
        }
    }
}
