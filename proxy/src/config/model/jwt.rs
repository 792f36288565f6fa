//! `[[jwt]]`: whose tokens are believed, and where they stand in a request.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[[jwt]]`: one issuer of tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// Its name, in logs and metrics.
    pub name: Spanned<String>,
    /// The `iss` of its tokens.
    pub issuer: Spanned<String>,
    /// One of these must be among the `aud` of a token. Default: it does not matter.
    pub audiences: Option<Spanned<Vec<Spanned<String>>>>,
    /// Algorithms of signatures. Default: those of RSA, ECDSA and Ed25519 keys.
    pub algorithms: Option<Spanned<Vec<Spanned<String>>>>,
    /// Where its keys are.
    pub jwks: Spanned<Jwks>,
    /// Headers in which a token may stand. Default: `authorization`, after `Bearer `.
    pub from_headers: Option<Vec<TokenHeader>>,
    /// Parameters of the query in which a token may stand. Default: none.
    #[serde(default)]
    pub from_params: Vec<Spanned<String>>,
    /// Whether the app gets the token. Default: false.
    pub forward: Option<bool>,
    /// Headers that the app gets, and the claims that are written there.
    #[serde(default)]
    pub claims_to_headers: BTreeMap<Spanned<String>, Spanned<String>>,
    /// A header in which the app gets all claims, as base64url of their JSON.
    pub payload_header: Option<Spanned<String>>,
    /// How much the clocks of issuer and sidecar may differ. Default `"60s"`.
    pub clock_skew: Option<Spanned<String>>,
}

/// `jwks = { .. }`: exactly one of `inline`, `file` and `url`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// The key set itself, JSON.
    pub inline: Option<Spanned<String>>,
    /// A file with the key set, which is followed.
    pub file: Option<Spanned<String>>,
    /// Where the key set is fetched: `"https://HOST:PORT/PATH"`, or with `http`.
    pub url: Option<Spanned<String>>,
    /// A file with the roots that may have certified the server. Default: the system's.
    pub roots: Option<Spanned<String>>,
    /// How often it is fetched. Default `"10m"`.
    pub refresh: Option<Spanned<String>>,
    /// How long an answer may take. Default `"5s"`.
    pub timeout: Option<Spanned<String>>,
    /// How long keys are used while they cannot be fetched anew. Default `"0s"`: for ever.
    pub stale_after: Option<Spanned<String>>,
}

/// One of `from_headers`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenHeader {
    /// The header.
    pub name: Spanned<String>,
    /// What stands before the token. Default: nothing.
    pub prefix: Option<Spanned<String>>,
}
