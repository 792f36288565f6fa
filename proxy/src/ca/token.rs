//! Tokens of the authority: what a workload shows that has no certificate yet, and what an operator
//! shows. A token names whose it is and ends at a time; the authority signs it (HMAC-SHA-256) and
//! keeps none.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use super::issue::BACKDATED;
use crate::spiffe_id::SpiffeId;

/// How far ahead the clock may be by which a token was made: as far as certificates are backdated.
const SKEW: Duration = BACKDATED;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityToken {
    /// Whose it is.
    pub bearer: Bearer,
    /// Since when it counts, seconds of Unix time.
    pub issued: u64,
    /// The last revocation of the workload when it was made, by its number, if there was one. It
    /// does not count after another.
    pub follows: Option<u64>,
    /// Until when, seconds of Unix time.
    pub expires: u64,
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bearer {
    /// A workload, which may have certificates of its own.
    Workload(SpiffeId),
    /// Who runs the authority.
    Operator,
}

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("there is neither a certificate nor a token (Authorization: Bearer)")]
    Missing,
    /// It is not one of this authority's.
    #[error("the token is not one of this authority's")]
    Foreign,
    /// It was made later than now.
    #[error("the token is of the future: the clock of the authority, or of who has made it, is wrong")]
    Future,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

impl AuthorityToken {
    /// A token that counts from `now` on, and until another revocation than the one that it
    /// `follows`.
    pub fn new(bearer: Bearer, follows: Option<u64>, now: SystemTime, lifetime: Duration) -> Self {
        AuthorityToken {
            bearer,
            issued: unix(now),
            follows,
            expires: unix(now).saturating_add(lifetime.as_secs()),
        }
    }

    /// The token as text.
    pub fn sign(&self, key: &[u8]) -> String {
        let claims = serde_json::to_vec(self).expect("names and numbers are JSON");
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &claims);
        format!("{}.{}", BASE64.encode(claims), BASE64.encode(mac))
    }

    /// Reads a token, and checks that it counts at `now`.
    ///
    /// # Errors
    /// If it does not.
    pub fn verify(text: &str, key: &[u8], now: SystemTime) -> Result<Self, TokenError> {
        let (claims, mac) = text.trim().split_once('.').ok_or(TokenError::Foreign)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|_| TokenError::Foreign);
        let (claims, mac) = (decode(claims)?, decode(mac)?);
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::verify(&key, &claims, &mac).map_err(|_| TokenError::Foreign)?;
        let token: AuthorityToken = serde_json::from_slice(&claims).map_err(|_| TokenError::Foreign)?;
        // It would count for longer than it was made for.
        if token.issued > unix(now) + SKEW.as_secs() {
            return Err(TokenError::Future);
        }
        if unix(now) < token.expires { Ok(token) } else { Err(TokenError::Expired) }
    }
}

pub(super) use crate::world::seconds as unix;

/// Whole milliseconds of Unix time.
pub(super) fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = b"the key of this authority";

    fn token() -> AuthorityToken {
        let id = "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap();
        AuthorityToken::new(Bearer::Workload(id), None, at(100), Duration::from_secs(99))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_counts_from_its_time_until_its_end_and_only_where_it_was_made() {
        let text = token().sign(KEY);
        assert_eq!(AuthorityToken::verify(&format!("{text}\n"), KEY, at(198)), Ok(token()));
        assert_eq!(AuthorityToken::verify(&text, KEY, at(40)), Ok(token()), "clocks differ");
        assert_eq!(AuthorityToken::verify(&text, KEY, at(39)), Err(TokenError::Future));
        assert_eq!(AuthorityToken::verify(&text, KEY, at(199)), Err(TokenError::Expired));
        assert_eq!(AuthorityToken::verify(&text, b"another", at(100)), Err(TokenError::Foreign));
    }

    proptest! {
        #[test]
        fn no_other_text_counts(at_byte in 0_usize..300, new in "[A-Za-z0-9_.-]") {
            let text = token().sign(KEY);
            let mut other = text.clone();
            let at_byte = at_byte % text.len();
            other.replace_range(at_byte..=at_byte, &new);
            if other != text {
                // The last letter of base64 may have bits that mean nothing; those are refused too.
                prop_assert_eq!(AuthorityToken::verify(&other, KEY, at(100)), Err(TokenError::Foreign));
            }
        }
    }
}
