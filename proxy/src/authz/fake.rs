//! An issuer of tokens for tests. Its keys are for nothing else: they are known to everybody.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use serde_json::{Value, json};

/// A key of the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// ECDSA, P-256.
    A,
    /// The same, another key.
    B,
    /// Ed25519.
    Ed,
    /// RSA, 2048 bits.
    Rsa,
}

const EC_A: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgYwR2YeBIk03Rrp4tnEETasteXeX22Vf9MWf/4dna\
     UgOhRANCAAQ4JkN/ATo9I9J9SwV9AIHwOR6QHbu4UFo41KfT6amA5Vsp5rx2lAlZYAzrffGVgWccsVjutxN1ecGr\
     2gKNgGRV";
const EC_B: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgOQz9li+5Vwy85oUkWUeWpcM5ibkiBsl1HVq93Y1u\
     oKKhRANCAASgY4Q8AgllYqjMeblLuWrWHN/8pYvCjETozwSTtUt4ZZ7NRkr7SLnnXTZlB44pBCLGLlpgIB2Fl9e4\
     bIiXXUhY";
const ED: &str = "MC4CAQAwBQYDK2VwBCIEICm4kTLYSDdM1i35lM35h5G8pBm5ATw9sZygkRPgSbbn";
const RSA: &str = "MIIEpAIBAAKCAQEAwr3kh8+ny3Lne3iuQn6UVkwy6K2p+9WEcu0tkRZXMg+Rwvq/Gk8ZWVAudAtmrumvdVfLEy8s\
     +2q05jXbHbBA1ky6HB+bwOiehTb+NQpIDYCPITUyS9yEDLLwc+UpSmaPMCkowuz3KluSjnjoHVr5PwppsB33PGQ2\
     GOBDLhlXZBNytzD6bCr9RXhxdwcJa2q9v9IpwlcRZtmiXLPOvwjk+w0tlBGS0Qb2wz+M+hMYmjZdY6I+bz15JNkS\
     UGocUDAE36333aXTKztjucgDzzkQ3wtsn5P8C6u1F/rWtQbQet0CdzZG2eXAKAJE3sU3pbhcZbdtSqjh5Vdew/mq\
     UKixsQIDAQABAoIBAAbQqW49TKR4jXRLOWH3Vw6cFQ4Cgdff1YZGGZmhvARy+glmSAjOKtdu0GlcOsg1QmArZd5y\
     gLL9vX3u9Y+Y6vP09HBmhMdf/Kgxz/ygMvxR+vBREcUI3xAotPSBWQwTAcDQN+52Z4HyeXMF9S2N0PotTZyNt+jD\
     owcE1iUHWwEUA2SWadGW1C5ztxtghTXtByllWflYZjXt5J0PawGQwKqer7LvJFdieCs7ptvhRhxPwLm7I/LFdNT9\
     e/VdW51fGAEaD8NT23se8YmMcaYZW51Rnryt9OpHT72A9lC7iFk62IX0ZHsdaJz7VDonvWaaGRvgh7oUF7yWEQ/3\
     Pi4gKWkCgYEA/spVKhBTMyhlQHry4w317IIYaG3m0qPHk/QeO7GK+aijPTL3cUEDr5JLwi6+w8Zru8zBlMJRsxzC\
     flRvM/LyWs5gYr3/VmDL3RBMqpQPlYwHnJ33tNjsb30ne0PdpZGG3mlv0bbwPEhOuU9OrYlx3kHEMvD0MU/x9wJ5\
     dTg85c0CgYEAw6qT/z0hijxXDLKsqySPNKWkZP+Q1PcvdpxfUd5cBEh+/+GJ1O6+SoRoevuIyzDJO1jxjZzqCCwb\
     KQN6qKjXCzX2enV498xXdE0sonLqVj8tGwmDizRI11hVW8+brjPuwK28XPhVJdis/fjyivcbKSUNACDpVtJAOCV6\
     YwqnV3UCgYBAyQHOqEf/gg38z0ZjJXGaqZm7M/a1KJ/epvvpAcPsp0yaixMP4RAm3HQW8/vdm95Y6j9uq9pKSM3L\
     gXylIOku3br0YItEU2iC1VopJWyxAeINmL0bZuz3jEM1vJPnPZGli/m6wWFkcp5R0DCZP5GMifxxV4M/5qwHusFX\
     ZO1XIQKBgQCCEezcKZkYOdBsQoKCKoWAK/TCpxlyWPeWU5ER7U0iE8dI9ncXs7WP98E0r+1ZlY7QAupgh0UUNa3A\
     b+2kHMkHTNISyfCmWZJxX7QiMV4SA2FKreJiMVmSvcfQhowpG6DFOTkUXIjN5eHp2wnw0x+dFGI2CarT6mSCbneT\
     S0u+2QKBgQDnnS/LI+rgMVOjzWYUgWHz2zuFbD0xo1KmN1y3WUfNaH6C2VvF58/RipHcKwRKx49V/xkXTdQpepB/\
     EG6ByDYbnuosYs/1b0Okpad/y5Qn81WKlYewsveQYsF/rnunR3rqUQWNadEfsTAUtPFi71W1NcpffMkzb7hBikvb\
     0BMkbA==";
const RSA_MODULUS: &str = "wr3kh8-ny3Lne3iuQn6UVkwy6K2p-9WEcu0tkRZXMg-\
     Rwvq_Gk8ZWVAudAtmrumvdVfLEy8s-2q05jXbHbBA1ky6HB-bwOiehTb-NQpIDYCPITUyS9yEDLLwc-UpSmaPMCk\
     owuz3KluSjnjoHVr5PwppsB33PGQ2GOBDLhlXZBNytzD6bCr9RXhxdwcJa2q9v9IpwlcRZtmiXLPOvwjk-\
     w0tlBGS0Qb2wz-M-hMYmjZdY6I-\
     bz15JNkSUGocUDAE36333aXTKztjucgDzzkQ3wtsn5P8C6u1F_rWtQbQet0CdzZG2eXAKAJE3sU3pbhcZbdtSqjh\
     5Vdew_mqUKixsQ";

impl Signer {
    /// The name of the key.
    pub fn kid(self) -> &'static str {
        match self {
            Signer::A => "a",
            Signer::B => "b",
            Signer::Ed => "ed",
            Signer::Rsa => "rsa",
        }
    }

    /// Its public half, as a key set has it.
    pub fn jwk(self) -> Value {
        let ec = |x, y| json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y});
        let mut jwk = match self {
            Signer::A => ec(
                "OCZDfwE6PSPSfUsFfQCB8DkekB27uFBaONSn0-mpgOU",
                "WynmvHaUCVlgDOt98ZWBZxyxWO63E3V5wavaAo2AZFU",
            ),
            Signer::B => ec(
                "oGOEPAIJZWKozHm5S7lq1hzf_KWLwoxE6M8Ek7VLeGU",
                "ns1GSvtIueddNmUHjikEIsYuWmAgHYWX17hsiJddSFg",
            ),
            Signer::Ed => json!({
                "kty": "OKP", "crv": "Ed25519", "x": "yZnMS3EQDBxQ5W42jwABqSWVq_lRH-kTkxaQZMMQKes",
            }),
            Signer::Rsa => json!({"kty": "RSA", "use": "sig", "n": RSA_MODULUS, "e": "AQAB"}),
        };
        jwk["kid"] = self.kid().into();
        jwk
    }

    fn key(self) -> EncodingKey {
        let der = |text: &str| BASE64_STANDARD.decode(text).expect("a key");
        match self {
            Signer::A => EncodingKey::from_ec_der(&der(EC_A)),
            Signer::B => EncodingKey::from_ec_der(&der(EC_B)),
            Signer::Ed => EncodingKey::from_ed_der(&der(ED)),
            Signer::Rsa => EncodingKey::from_rsa_der(&der(RSA)),
        }
    }

    /// A token with these claims.
    pub fn token(self, claims: &Value) -> String {
        let algorithm = match self {
            Signer::A | Signer::B => Algorithm::ES256,
            Signer::Ed => Algorithm::EdDSA,
            Signer::Rsa => Algorithm::RS256,
        };
        self.token_with(algorithm, Some(self.kid()), claims)
    }

    /// The same with this algorithm and this name of the key.
    pub fn token_with(self, algorithm: Algorithm, kid: Option<&str>, claims: &impl Serialize) -> String {
        let header = Header { kid: kid.map(Into::into), ..Header::new(algorithm) };
        encode(&header, claims, &self.key()).expect("a token")
    }
}

/// The key set of these keys.
pub fn jwks(keys: &[Signer]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// A token that nobody has signed.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}
