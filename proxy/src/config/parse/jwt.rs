//! `[[jwt]]`: what its words mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{self, HeaderName};
use http::uri::{Scheme, Uri};
use jsonwebtoken::Algorithm;
use serde_spanned::Spanned;

use super::Check;
use crate::config::diagnose::{did_you_mean, one_of};
use crate::config::{
    ClaimHeader, JwksSource, JwksUrl, JwtProvider, TokenHeader, defaults, model, names, units,
};
use crate::jwk_set::KeySet;

/// Algorithms whose keys verify and do not sign, and their names. HMAC is not among them: whoever
/// could verify its tokens could make them too.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Algorithms that there are (RFC 7518, 8812, 9864) and that are not taken: who writes one has not
/// mistyped another.
const OTHERS: [&str; 4] = ["ES512", "ES256K", "Ed25519", "Ed448"];

impl Check<'_> {
    pub(super) fn jwt(&mut self, given: &[model::Jwt]) -> Vec<Arc<JwtProvider>> {
        self.unique("[[jwt]]", given.iter().map(|provider| &provider.name));
        let issuers = given.iter().map(|provider| &provider.issuer);
        self.unique_by(issuers, |issuer| {
            (
                format!("two [[jwt]] are of the issuer {issuer:?}"),
                "a token finds its [[jwt]] by its `iss`: put what both say into one",
            )
        });
        given.iter().filter_map(|provider| self.jwt_provider(provider)).map(Arc::new).collect()
    }

    fn jwt_provider(&mut self, given: &model::Jwt) -> Option<JwtProvider> {
        let jwks = self.jwks(&given.jwks);
        if given.issuer.get_ref().is_empty() {
            self.diagnostics
                .add("`issuer` is empty", given.issuer.span(), "whose tokens?")
                .help("write the `iss` of its tokens, as the issuer writes it");
        }
        let default = || TokenHeader { name: header::AUTHORIZATION, prefix: "Bearer ".into() };
        let from_headers = match &given.from_headers {
            None => vec![default()],
            Some(list) => list.iter().filter_map(|header| self.token_header(header)).collect(),
        };
        if from_headers.is_empty() && given.from_params.is_empty() {
            self.diagnostics
                .add("no place is left for a token", given.name.span(), "this one")
                .help("leave `from_headers` out for `authorization`, or name a header or a parameter");
        }
        let audiences = given.audiences.as_ref().map_or_else(Vec::new, |list| {
            if list.get_ref().is_empty() {
                self.diagnostics
                    .add("`audiences` is an empty list", list.span(), "for nobody, or for anybody?")
                    .help("leave it out if the audience does not matter");
            }
            list.get_ref().iter().map(|audience| audience.get_ref().clone()).collect()
        });
        let claims = given.claims_to_headers.iter().filter_map(|(name, claim)| {
            let header = self.claim_header(name)?;
            let claim: Vec<_> = claim.get_ref().split('.').map(str::to_owned).collect();
            Some(ClaimHeader { header, claim })
        });
        let claims_to_headers = claims.collect();
        let payload_header = given.payload_header.as_ref().and_then(|name| self.claim_header(name));
        self.one_claim_each(given);
        Some(JwtProvider {
            name: self.name("name", &given.name).into(),
            issuer: given.issuer.get_ref().clone(),
            audiences,
            algorithms: self.algorithms(given.algorithms.as_ref()),
            jwks: jwks?,
            from_headers,
            from_params: given.from_params.iter().map(|name| name.get_ref().clone()).collect(),
            forward: given.forward.unwrap_or(false),
            claims_to_headers,
            payload_header,
            clock_skew: self.duration("clock_skew", given.clock_skew.as_ref(), defaults::CLOCK_SKEW).value,
        })
    }

    /// A header has one value, and names of headers have no case.
    fn one_claim_each(&mut self, given: &model::Jwt) {
        let mut names = BTreeMap::new();
        for name in given.claims_to_headers.keys().chain(&given.payload_header) {
            if let Some(first) = names.insert(name.get_ref().to_ascii_lowercase(), name.span()) {
                self.diagnostics
                    .add(format!("two claims are written to {:?}", name.get_ref()), name.span(), "the second")
                    .also(first, "the first")
                    .help("names of headers have no case: choose another one");
            }
        }
    }

    fn token_header(&mut self, given: &model::TokenHeader) -> Option<TokenHeader> {
        let name = self.header_name(&given.name)?;
        let prefix = given.prefix.as_ref().map_or_else(String::new, |prefix| prefix.get_ref().clone());
        Some(TokenHeader { name, prefix })
    }

    /// A header that the app gets a claim in.
    fn claim_header(&mut self, given: &Spanned<String>) -> Option<HeaderName> {
        self.added_header(given, "for claims")
    }

    /// A header that is added to a request. One that frames or routes a message, or says who the
    /// client is, is not for that.
    pub(super) fn added_header(&mut self, given: &Spanned<String>, what_for: &str) -> Option<HeaderName> {
        let name = self.header_name(given)?;
        let reserved = [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::TE,
            header::TRAILER,
            header::UPGRADE,
            header::EXPECT,
            HeaderName::from_static("x-forwarded-client-cert"),
        ];
        if reserved.contains(&name) {
            let why = match name.as_str() {
                "x-forwarded-client-cert" => "this says whose certificate the client has shown",
                _ => "this frames or routes a message",
            };
            self.diagnostics
                .add(format!("{name:?} is not {what_for}"), given.span(), why)
                .help("choose a header of your own, such as \"x-subject\"");
            return None;
        }
        Some(name)
    }

    fn algorithms(&mut self, given: Option<&Spanned<Vec<Spanned<String>>>>) -> Vec<Algorithm> {
        let Some(list) = given else { return ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect() };
        let known = ALGORITHMS.map(|(name, _)| name);
        if list.get_ref().is_empty() {
            self.diagnostics
                .add("`algorithms` is an empty list", list.span(), "no token would be believed")
                .help("leave it out for those of RSA, ECDSA and Ed25519 keys");
        }
        let algorithm = |name: &Spanned<String>| {
            let words = name.get_ref().as_str();
            let found = ALGORITHMS.iter().find(|(known, _)| *known == words);
            if found.is_none() {
                let help = if words.starts_with("HS") {
                    "whoever can verify such a token can make one: let the issuer sign with a private key"
                        .into()
                } else if words.eq_ignore_ascii_case("none") {
                    "a token without a signature proves nothing".into()
                } else {
                    let meant = did_you_mean(words, known).filter(|_| !OTHERS.contains(&words));
                    meant.map_or_else(
                        || format!("the algorithms are {}", one_of(&known, '"').replace(" or ", " and ")),
                        |meant| format!("did you mean {meant:?}?"),
                    )
                };
                self.diagnostics
                    .add(format!("the algorithm {words:?} is not taken"), name.span(), "not one of them")
                    .help(help);
            }
            found.map(|(_, algorithm)| *algorithm)
        };
        list.get_ref().iter().filter_map(algorithm).collect()
    }

    fn jwks(&mut self, given: &Spanned<model::Jwks>) -> Option<JwksSource> {
        let jwks = given.get_ref();
        let fetched = [
            ("roots", &jwks.roots),
            ("refresh", &jwks.refresh),
            ("timeout", &jwks.timeout),
            ("stale_after", &jwks.stale_after),
        ];
        if jwks.url.is_none() {
            for (key, value) in fetched {
                if let Some(value) = value {
                    self.diagnostics
                        .add(format!("`{key}` is for a key set that is fetched"), value.span(), "no `url`")
                        .help("remove it: a file is followed, and what stands here does not change");
                }
            }
        }
        match (&jwks.inline, &jwks.file, &jwks.url) {
            (Some(text), None, None) => {
                if let Err(wrong) = KeySet::read(text.get_ref()) {
                    self.diagnostics
                        .add("this is not a key set that verifies tokens", text.span(), wrong)
                        .help(r#"a key set is JSON with public keys: {"keys": [...]} (RFC 7517 section 5)"#);
                }
                Some(JwksSource::Inline(text.get_ref().as_str().into()))
            }
            (None, Some(path), None) => Some(JwksSource::File(path.get_ref().into())),
            (None, None, Some(url)) => self.jwks_url(jwks, url).map(JwksSource::Url),
            _ => {
                self.diagnostics
                    .add("`jwks` says in no way or in several where the keys are", given.span(), "this one")
                    .help("write one of `inline`, `file` and `url`");
                None
            }
        }
    }

    fn jwks_url(&mut self, given: &model::Jwks, url: &Spanned<String>) -> Option<JwksUrl> {
        let words = url.get_ref();
        let parsed = words.parse::<Uri>().ok();
        let parsed = parsed.filter(|uri| [Some("http"), Some("https")].contains(&uri.scheme_str()));
        let host = parsed.as_ref().and_then(|uri| uri.host()).map(|host| host.trim_matches(['[', ']']));
        let is_host = |host: &&str| host.parse::<std::net::IpAddr>().is_ok() || names::absolute(host).is_ok();
        let (Some(uri), Some(host)) = (&parsed, host.filter(is_host)) else {
            self.diagnostics
                .add("this is not where a key set can be", url.span(), "not a URL")
                .help(r#"write it like "https://idp.example/keys""#);
            return None;
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            self.diagnostics
                .add("a URL with a user in it", url.span(), "it would be shown in logs, and is not sent")
                .help("remove what stands before the `@`");
            return None;
        }
        let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
        if let Some(roots) = given.roots.as_ref().filter(|_| !is_secure) {
            self.diagnostics
                .add("`roots` is for a server that speaks TLS", roots.span(), "nobody's roots")
                .help("write `https` in `url`, or remove it");
        }
        let roots = given.roots.as_ref().map_or(defaults::JWKS_ROOTS, |roots| roots.get_ref());
        let refresh = self.duration("refresh", given.refresh.as_ref(), defaults::JWKS_REFRESH);
        let timeout = self.duration("timeout", given.timeout.as_ref(), defaults::JWKS_TIMEOUT);
        for (key, value) in [("refresh", &refresh), ("timeout", &timeout)] {
            if let Some(span) = value.span.clone().filter(|_| value.value.is_zero()) {
                let least = units::show(std::time::Duration::from_secs(1));
                self.diagnostics
                    .add(format!("`{key}` is 0"), span, "without end")
                    .help(format!("write \"{least}\" or more"));
            }
        }
        Some(JwksUrl {
            url: words.split('?').next().unwrap_or_default().to_owned(),
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            path: uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string),
            roots: is_secure.then(|| roots.into()),
            refresh: refresh.value,
            timeout: timeout.value,
            stale_after: self.limit("stale_after", given.stale_after.as_ref(), None),
        })
    }
}
