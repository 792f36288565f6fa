//! Tokens in requests: where they stand, whether they are believed, and what the app gets of them.
//!
//! As in Istio, a request without a token passes here, and policies say whether it needed one; a
//! token that is not valid is refused, whoever shows it. The claims of a token count only after its
//! signature was verified by a key of the issuer that it names, with an algorithm that both the
//! configuration and the key allow. Two tokens in one request are refused (RFC 6750 section 2):
//! nobody could say which one the app believes.
//!
//! A worker remembers the tokens that it has verified ([`Remembered`]), so that a signature costs
//! once and not with each request. What is remembered is believed only as long as the issuer's keys
//! are the same; the times of the token are looked at with each request.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::Value;

use super::jwks::IssuerKeys;
use super::token::{Claims, Token};
use crate::config::defaults::{TOKEN_BYTES, TOKENS_REMEMBERED};
use crate::config::{JwksSource, JwtProvider, TokenHeader};
use crate::http::headers::{has_blank_end, is_spelling, remove_spellings};
use crate::jwk_set::KeySet;

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Malformed,
    /// It is longer than any that is looked at.
    #[error("it is too long")]
    TooLong,
    /// There are several in the request.
    #[error("there is more than one")]
    Several,
    /// Nobody is configured whose tokens stand there and who is called so.
    #[error("its issuer is not known")]
    Issuer,
    /// Its algorithm is not one of the issuer's, or not one of the key that it names.
    #[error("its algorithm is not allowed")]
    Algorithm,
    /// The issuer's keys are not known.
    #[error("the keys of its issuer are not known")]
    NoKeys,
    /// None of the issuer's keys is the one that it names.
    #[error("its key is not known")]
    UnknownKey,
    /// It says of itself that nobody may believe it who does not know an extension (`crit`, `b64`).
    #[error("it needs an extension that is not known")]
    Extension,
    /// It was changed, or somebody else has signed it.
    #[error("its signature is wrong")]
    Signature,
    /// It is for somebody else.
    #[error("it is for another audience")]
    Audience,
    /// It is over.
    #[error("it has expired")]
    Expired,
    /// It has not begun.
    #[error("it does not hold yet")]
    NotYet,
}

impl TokenError {
    /// Every one, for metrics.
    pub const ALL: [TokenError; 12] = [
        TokenError::Malformed,
        TokenError::TooLong,
        TokenError::Several,
        TokenError::Issuer,
        TokenError::Algorithm,
        TokenError::NoKeys,
        TokenError::UnknownKey,
        TokenError::Extension,
        TokenError::Signature,
        TokenError::Audience,
        TokenError::Expired,
        TokenError::NotYet,
    ];

    /// Label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            TokenError::Malformed => "malformed",
            TokenError::TooLong => "too_long",
            TokenError::Several => "several",
            TokenError::Issuer => "issuer",
            TokenError::Algorithm => "algorithm",
            TokenError::NoKeys => "no_keys",
            TokenError::UnknownKey => "unknown_key",
            TokenError::Extension => "extension",
            TokenError::Signature => "signature",
            TokenError::Audience => "audience",
            TokenError::Expired => "expired",
            TokenError::NotYet => "not_yet",
        }
    }
}

/// The issuers whose tokens are believed.
#[derive(Debug, Default)]
pub struct Issuers {
    issuers: Vec<Issuer>,
    /// Headers that only a sidecar writes.
    own_headers: Vec<HeaderName>,
}

/// One of them.
#[derive(Debug)]
pub struct Issuer {
    /// Its configuration.
    pub config: Arc<JwtProvider>,
    /// Its keys.
    pub keys: Arc<IssuerKeys>,
}

/// Where a token stands in a request.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    Header(HeaderName),
    Parameter(String),
}

/// A token of a request that is believed.
#[derive(Debug, Clone)]
pub struct ShownToken {
    /// What it says.
    pub token: Rc<Token>,
    /// Whether it had been verified before.
    pub was_known: bool,
    issuer: usize,
    place: Place,
    /// Its payload as it came, if the app gets that.
    payload: Option<HeaderValue>,
}

/// What a request shows: its headers and its target, before anything has been taken away.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'r> {
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// Its target.
    pub uri: &'r Uri,
}

impl Issuers {
    /// Those of a configuration. The keys of issuers that `before` had with the same source of keys
    /// are kept.
    pub fn new(configs: &[Arc<JwtProvider>], before: Option<&Issuers>) -> Self {
        let known = |config: &JwtProvider| {
            let before = before?.issuers.iter();
            let mut same = before
                .filter(|issuer| issuer.config.issuer == config.issuer && issuer.config.jwks == config.jwks);
            same.next().map(|issuer| issuer.keys.clone())
        };
        let keys = |config: &JwtProvider| {
            let keys = IssuerKeys::default();
            if let JwksSource::Inline(text) = &config.jwks {
                match KeySet::read(text) {
                    Ok(set) => keys.put(Some(set)),
                    Err(why) => keys.trouble(why),
                }
            }
            keys
        };
        let issuer = |config: &Arc<JwtProvider>| {
            let keys = known(config).unwrap_or_else(|| Arc::new(keys(config)));
            Issuer { config: config.clone(), keys }
        };
        let own_headers = configs.iter().flat_map(|config| {
            let claims = config.claims_to_headers.iter().map(|claim| &claim.header);
            claims.chain(&config.payload_header).cloned()
        });
        Issuers { issuers: configs.iter().map(issuer).collect(), own_headers: own_headers.collect() }
    }

    /// Whether there is none, so that no request is looked at.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// Headers that only a sidecar writes: of claims, and of payloads.
    pub fn own_headers(&self) -> &[HeaderName] {
        &self.own_headers
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.iter()
    }

    /// The name of the issuer of a token.
    pub fn name_of(&self, shown: &ShownToken) -> &str {
        &self.issuers[shown.issuer].config.name
    }

    /// The name of the issuer that the token of a request names, believed or not; empty if it is
    /// none of these.
    pub fn named_by(&self, request: Shown<'_>) -> &str {
        let found = self.find(request).ok().flatten();
        let claimed = found.and_then(|(_, text)| claimed_issuer(text).ok());
        let issuer = self.issuers.iter().find(|issuer| Some(&issuer.config.issuer) == claimed.as_ref());
        issuer.map_or("", |issuer| &issuer.config.name)
    }

    /// The token of a request; `None` if it shows none.
    ///
    /// # Errors
    /// If it shows one that is not believed.
    pub fn token(
        &self,
        request: Shown<'_>,
        remembered: &mut Remembered,
        now: SystemTime,
    ) -> Result<Option<ShownToken>, TokenError> {
        let Some((place, text)) = self.find(request)? else { return Ok(None) };
        if text.len() > TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        if let Some(known) = remembered.find(text)
            && let Some(issuer) = self.issuers.get(known.issuer)
            && issuer.reads(&place)
            && (Arc::ptr_eq(&known.config, &issuer.config) || known.config == issuer.config)
            && issuer.keys.set().is_some_and(|set| Arc::ptr_eq(&set, &known.keys))
        {
            issuer.check_times(&known.token, now)?;
            let Known { token, issuer, payload, .. } = known;
            return Ok(Some(ShownToken { token, was_known: true, issuer, place, payload }));
        }
        let claimed = claimed_issuer(text)?;
        let found =
            self.issuers.iter().position(|issuer| issuer.config.issuer == claimed && issuer.reads(&place));
        let position = found.ok_or(TokenError::Issuer)?;
        let issuer = &self.issuers[position];
        let keys = issuer.keys.set().ok_or_else(|| {
            issuer.keys.miss();
            TokenError::NoKeys
        })?;
        let token = Rc::new(issuer.verify(text, &keys)?);
        issuer.check_times(&token, now)?;
        let payload = issuer.config.payload_header.as_ref().and_then(|_| text.split('.').nth(1));
        let payload = payload.and_then(|payload| HeaderValue::from_str(payload).ok());
        let known = Known {
            token: token.clone(),
            issuer: position,
            config: issuer.config.clone(),
            keys,
            payload: payload.clone(),
        };
        remembered.put(text, known);
        Ok(Some(ShownToken { token, was_known: false, issuer: position, place, payload }))
    }

    /// Where the request's token stands, and the token.
    fn find<'r>(&self, request: Shown<'r>) -> Result<Option<(Place, &'r str)>, TokenError> {
        let mut found: Option<(Place, &'r str)> = None;
        let mut add = |place: Place, text: &'r str| match &found {
            // Two issuers may look at the same place.
            Some((other, same)) if *other == place && std::ptr::eq(*same, text) => Ok(()),
            Some(_) => Err(TokenError::Several),
            None => {
                found = Some((place, text));
                Ok(())
            }
        };
        for issuer in &self.issuers {
            for header in &issuer.config.from_headers {
                for value in request.headers.get_all(&header.name) {
                    if let Some(text) = behind_prefix(header, value)? {
                        add(Place::Header(header.name.clone()), text)?;
                    }
                }
                // Some apps take it for the header itself.
                let has_spellings = header.name.as_str().contains('-');
                for (other, value) in request.headers.iter().filter(|_| has_spellings) {
                    if is_spelling(other, &header.name) && behind_prefix(header, value)?.is_some() {
                        return Err(TokenError::Malformed);
                    }
                }
            }
            for name in &issuer.config.from_params {
                for pair in parameters(request.uri) {
                    if let Some(text) = parameter(pair, name)? {
                        add(Place::Parameter(name.clone()), text)?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Takes away what a client may not say, and writes what the app shall get: claims as headers.
    /// The token itself goes unless it is to be forwarded.
    pub fn prepare(&self, shown: Option<&ShownToken>, headers: &mut HeaderMap, uri: &mut Uri) {
        for name in &self.own_headers {
            // A token may stand in a header that claims are written to.
            remove_spellings(headers, name);
        }
        let Some(shown) = shown else { return };
        let config = &self.issuers[shown.issuer].config;
        if !config.forward {
            match &shown.place {
                Place::Header(name) => self.remove_token(headers, name),
                Place::Parameter(name) => remove_parameter(uri, name),
            }
        }
        for claim in &config.claims_to_headers {
            if let Some(value) = shown.token.claim(&claim.claim).and_then(as_header) {
                headers.insert(&claim.header, value);
            }
        }
        if let Some((name, payload)) = config.payload_header.as_ref().zip(shown.payload.as_ref()) {
            headers.insert(name, payload.clone());
        }
    }

    /// Removes the one value of a header that is a token. Other credentials are the app's matter.
    fn remove_token(&self, headers: &mut HeaderMap, name: &HeaderName) {
        let readers = || self.issuers.iter().flat_map(|issuer| &issuer.config.from_headers);
        let is_token = |value: &HeaderValue| {
            readers().any(|header| header.name == *name && behind_prefix(header, value) != Ok(None))
        };
        let others = headers.get_all(name).iter().filter(|value| !is_token(value)).cloned();
        let others: Vec<_> = others.collect();
        headers.remove(name);
        for other in others {
            headers.append(name, other);
        }
    }
}

/// Why a token could not be verified by a key that is for it.
fn why_refused(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind as E;
    match error.kind() {
        // The signature is looked at first: this is what the issuer has signed.
        E::Json(_) | E::Base64(_) => TokenError::Malformed,
        // Its form was looked at before, but not what it calls critical.
        E::InvalidToken => TokenError::Extension,
        _ => TokenError::Signature,
    }
}

/// Why the header of a token cannot be read: perhaps because its algorithm is none that there is.
fn why_unreadable(text: &str) -> TokenError {
    #[derive(Deserialize)]
    struct Named {
        alg: String,
    }
    let header = BASE64_URL_SAFE_NO_PAD.decode(text.split('.').next().unwrap_or_default()).ok();
    let named = header.and_then(|header| serde_json::from_slice::<Named>(&header).ok());
    match named {
        Some(Named { alg }) if alg.parse::<Algorithm>().is_err() => TokenError::Algorithm,
        _ => TokenError::Malformed,
    }
}

impl Issuer {
    /// Whether its tokens may stand there.
    fn reads(&self, place: &Place) -> bool {
        match place {
            Place::Header(name) => self.config.from_headers.iter().any(|header| header.name == *name),
            Place::Parameter(name) => self.config.from_params.contains(name),
        }
    }

    /// Verifies a token by one of the issuer's keys, and checks for whom it is.
    fn verify(&self, text: &str, keys: &KeySet) -> Result<Token, TokenError> {
        let header = decode_header(text).map_err(|_| why_unreadable(text))?;
        if !self.config.algorithms.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        let mut validation = Validation::new(header.alg);
        // Times are compared with this world's clock, and the rest is compared below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let mut outcome = Err(TokenError::UnknownKey);
        for key in keys.candidates(header.kid.as_deref(), header.alg) {
            match decode::<Claims>(text, key, &validation) {
                Ok(verified) => {
                    outcome = Ok(verified.claims.0);
                    break;
                }
                Err(error) => outcome = Err(why_refused(&error)),
            }
        }
        if outcome == Err(TokenError::UnknownKey) {
            self.keys.miss();
            if keys.has(header.kid.as_deref()) {
                outcome = Err(TokenError::Algorithm);
            }
        }
        let claims = outcome?;
        let is_time = |name: &str| claims.get(name).is_none_or(Value::is_number);
        if !is_time("exp") || !is_time("nbf") {
            return Err(TokenError::Malformed);
        }
        let token = Token::of(claims);
        // What was read before the signature was verified chose the issuer; this is the same text.
        if token.claims.get("iss").and_then(Value::as_str) != Some(&self.config.issuer) {
            return Err(TokenError::Issuer);
        }
        let wanted = &self.config.audiences;
        if !wanted.is_empty() && !token.audiences().any(|audience| wanted.iter().any(|own| own == audience)) {
            return Err(TokenError::Audience);
        }
        Ok(token)
    }

    fn check_times(&self, token: &Token, now: SystemTime) -> Result<(), TokenError> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let skew = self.config.clock_skew.as_secs_f64();
        if token.expires.is_some_and(|expires| now > expires + skew) {
            return Err(TokenError::Expired);
        }
        if token.not_before.is_some_and(|begins| now + skew < begins) {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }
}

/// The `iss` that a token gives itself, before anybody has verified it.
fn claimed_issuer(text: &str) -> Result<String, TokenError> {
    let claims: Claims =
        jsonwebtoken::dangerous::insecure_decode_claims(text).map_err(|_| TokenError::Malformed)?;
    match claims.0.get("iss") {
        Some(Value::String(issuer)) => Ok(issuer.clone()),
        _ => Err(TokenError::Issuer),
    }
}

/// The token in a header; `None` if something else stands there, such as `Basic`. What names the
/// scheme, and is not it and a token with spaces between, is a token that cannot be read: there are
/// apps that find one in it.
fn behind_prefix<'v>(header: &TokenHeader, value: &'v HeaderValue) -> Result<Option<&'v str>, TokenError> {
    let (bytes, prefix) = (value.as_bytes(), header.prefix.as_bytes());
    // The names of schemes have no case (RFC 9110 section 11.1).
    let begins = bytes.len() >= prefix.len() && bytes[..prefix.len()].eq_ignore_ascii_case(prefix);
    let scheme = prefix
        .strip_suffix(b" ")
        .filter(|scheme| !scheme.is_empty() && scheme.iter().copied().all(is_in_word));
    let names = |scheme: &[u8]| {
        bytes.split(|byte| !is_in_word(*byte)).filter(|word| word.eq_ignore_ascii_case(scheme)).count()
    };
    match (begins, scheme.map_or(0, names)) {
        (false, 0) => Ok(None),
        (true, 0 | 1) => {
            let text = std::str::from_utf8(&bytes[prefix.len()..]).map_err(|_| TokenError::Malformed)?;
            Ok(Some(text.trim_matches(' ')))
        }
        _ => Err(TokenError::Malformed),
    }
}

/// Whether the name of a scheme may have this byte (RFC 9110 section 5.6.2).
fn is_in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What stands between `&` in a query.
fn parameters(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().unwrap_or_default().split('&')
}

/// The token in a parameter of this name, which apps decode. Tokens need no escapes. Some apps
/// begin a parameter behind `;` too: a token there cannot be read.
fn parameter<'q>(pair: &'q str, name: &str) -> Result<Option<&'q str>, TokenError> {
    let value = |part: &'q str| {
        let (key, text) = part.split_once('=')?;
        (is_called(key, name) && !text.is_empty()).then_some(text)
    };
    match pair.split(';').find_map(value) {
        Some(_) if pair.contains(';') => Err(TokenError::Malformed),
        found => Ok(found),
    }
}

/// Whether the name of a parameter is `name` once it is decoded.
fn is_called(key: &str, name: &str) -> bool {
    percent_decode_str(key).eq(name.bytes())
}

fn remove_parameter(uri: &mut Uri, name: &str) {
    let query = uri.query().unwrap_or_default();
    let is_other = |pair: &&str| pair.split_once('=').is_none_or(|(key, _)| !is_called(key, name));
    let rest: Vec<_> = query.split('&').filter(is_other).collect();
    let written = match rest.as_slice() {
        [] => uri.path().to_owned(),
        rest => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let Ok(path) = PathAndQuery::try_from(written) else { return };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path);
    *uri = Uri::from_parts(parts).expect("it has the parts that it had");
}

/// A claim as a header: a text, a number, or true or false. A text that no header can have is left
/// out: the app would see another one than policies do.
fn as_header(claim: &Value) -> Option<HeaderValue> {
    match claim {
        Value::String(text) if has_blank_end(text.as_bytes()) => None,
        Value::String(text) => HeaderValue::from_str(text).ok(),
        Value::Number(_) | Value::Bool(_) => HeaderValue::from_str(&claim.to_string()).ok(),
        _ => None,
    }
}

/// What was found out about a token.
#[derive(Debug, Clone)]
struct Known {
    token: Rc<Token>,
    issuer: usize,
    /// That of the issuer when it was verified.
    config: Arc<JwtProvider>,
    keys: Arc<KeySet>,
    payload: Option<HeaderValue>,
}

type Texts = HashMap<Box<str>, Known, BuildHasherDefault<DefaultHasher>>;

/// Tokens that were verified, by their text. Two halves: when the younger one is full, the older
/// one is forgotten, but for what was shown again in the meantime. Only what was verified is put
/// in, so nobody can fill it but issuers.
#[derive(Debug, Default)]
pub struct Remembered {
    young: Texts,
    old: Texts,
}

impl Remembered {
    fn find(&mut self, text: &str) -> Option<Known> {
        if let Some(known) = self.young.get(text) {
            return Some(known.clone());
        }
        let (text, known) = self.old.remove_entry(text)?;
        self.put_owned(text, known.clone());
        Some(known)
    }

    fn put(&mut self, text: &str, known: Known) {
        self.put_owned(text.into(), known);
    }

    fn put_owned(&mut self, text: Box<str>, known: Known) {
        if self.young.len() >= TOKENS_REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(text, known);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
