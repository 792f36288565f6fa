//! Whose tokens are believed, as it was checked. `authz` verifies them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use jsonwebtoken::Algorithm;
use serde::Serialize;

use super::dump;

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JwtProvider {
    /// Its name, in logs and metrics.
    pub name: Arc<str>,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// One of these must be among a token's `aud`; if there is none, it does not matter.
    pub audiences: Vec<String>,
    /// Algorithms that its signatures may have.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub jwks: JwksSource,
    /// Headers in which a token may stand, each with what stands before it.
    pub from_headers: Vec<TokenHeader>,
    /// Parameters of the query in which a token may stand.
    pub from_params: Vec<String>,
    /// Whether the app gets the token.
    pub forward: bool,
    /// Headers that the app gets, and the claims that are written there.
    pub claims_to_headers: Vec<ClaimHeader>,
    /// A header in which the app gets all claims.
    #[serde(serialize_with = "dump::optional_text")]
    pub payload_header: Option<HeaderName>,
    /// How much the clocks of issuer and sidecar may differ.
    #[serde(serialize_with = "dump::duration")]
    pub clock_skew: Duration,
}

/// Where a token may stand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenHeader {
    /// The header.
    #[serde(serialize_with = "dump::text")]
    pub name: HeaderName,
    /// What stands before the token.
    pub prefix: String,
}

/// A claim that the app gets in a header.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClaimHeader {
    /// The header.
    #[serde(serialize_with = "dump::text")]
    pub header: HeaderName,
    /// The keys that lead to the claim.
    pub claim: Vec<String>,
}

/// Where a key set is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JwksSource {
    /// In the configuration. It can be read.
    Inline(#[serde(serialize_with = "dump::redacted")] Arc<str>),
    /// In a file, which is followed.
    File(PathBuf),
    /// At a server.
    Url(JwksUrl),
}

/// A server of a key set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JwksUrl {
    /// As it was written, without the query: what logs and pages show.
    pub url: String,
    /// Its host: an address, or a name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path and the query.
    #[serde(serialize_with = "dump::without_query")]
    pub path: String,
    /// The roots that may have certified the server; `None`: it does not speak TLS.
    pub roots: Option<PathBuf>,
    /// How often it is fetched.
    #[serde(serialize_with = "dump::duration")]
    pub refresh: Duration,
    /// How long an answer may take.
    #[serde(serialize_with = "dump::duration")]
    pub timeout: Duration,
    /// How long keys are used while they cannot be fetched anew; `None`: for ever.
    #[serde(serialize_with = "dump::optional_duration")]
    pub stale_after: Option<Duration>,
}
