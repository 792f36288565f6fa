//! The name of a workload: a SPIFFE id, such as `spiffe://cluster.local/ns/shop/sa/web`.
//!
//! It is read as strictly as the SPIFFE-ID specification asks for (version 1.0, section 2), so that
//! one workload has one spelling: ids are compared as text, and nothing is decoded, folded or
//! normalised. It stands below everything else, because the configuration names workloads, the
//! connection carries one, and TLS and policy compare them. What obtains and proves an identity is
//! in [`crate::identity`].
//!
//! A value of this type is always valid.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// With what every id begins. The specification allows no other spelling of the scheme.
const SCHEME: &str = "spiffe://";

/// Longest id, bytes (SPIFFE-ID 2.3).
const MAX_LEN: usize = 2048;

/// Longest name of a trust domain, bytes (SPIFFE-ID 2.1).
const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// The name of a workload. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId(Arc<str>);

/// Why a text is no SPIFFE id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// It begins with something else.
    #[error("a SPIFFE id begins with `spiffe://`")]
    Scheme,
    /// It is longer than 2048 bytes.
    #[error("a SPIFFE id has at most {MAX_LEN} bytes")]
    TooLong,
    /// Nothing stands between the scheme and the path.
    #[error("the trust domain is missing: write `spiffe://<trust domain>/<path>`")]
    NoTrustDomain,
    /// The trust domain is longer than 255 bytes.
    #[error("a trust domain has at most {MAX_TRUST_DOMAIN_LEN} bytes")]
    LongTrustDomain,
    /// A character that no trust domain has, a port and a user among them.
    #[error("{0:?} is not allowed in a trust domain: it has lower-case letters, digits, `.`, `-` and `_`")]
    TrustDomainChar(char),
    /// A character that no path has, an escape among them.
    #[error("{0:?} is not allowed in the path of a SPIFFE id: it has letters, digits, `.`, `-` and `_`")]
    PathChar(char),
    /// `//`, or a `/` at the end.
    #[error("the path of a SPIFFE id has no empty segment and no `/` at its end")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("the path of a SPIFFE id has no segment `.` or `..`")]
    DotSegment,
}

impl SpiffeId {
    /// The id of a service account in a namespace, in Istio's form.
    ///
    /// # Errors
    /// If one of the three has characters that it may not have, or is empty.
    pub fn of_service_account(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_trust_domain(trust_domain)?;
        check_segment(namespace)?;
        check_segment(service_account)?;
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// Who the certificate authority of a trust domain is. No workload gets a certificate with this
    /// name.
    ///
    /// # Panics
    /// If `trust_domain` is none.
    pub fn of_authority(trust_domain: &str) -> Self {
        format!("{SCHEME}{trust_domain}/sidelab/ca").parse().expect("a trust domain that was checked")
    }

    /// The id as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id without its scheme: what Istio calls the principal.
    pub fn principal(&self) -> &str {
        &self.0[SCHEME.len()..]
    }

    /// Whose certificates prove it.
    pub fn trust_domain(&self) -> &str {
        self.principal().split('/').next().unwrap_or_default()
    }

    /// The path with the `/` that it begins with; empty for the id of the trust domain itself.
    pub fn path(&self) -> &str {
        &self.principal()[self.trust_domain().len()..]
    }

    /// The namespace, if the path is `/ns/<namespace>/sa/<service account>`.
    pub fn namespace(&self) -> Option<&str> {
        self.account().map(|(namespace, _)| namespace)
    }

    /// The service account, if the path is `/ns/<namespace>/sa/<service account>`.
    pub fn service_account(&self) -> Option<&str> {
        self.account().map(|(_, service_account)| service_account)
    }

    /// Whether it belongs to this trust domain.
    pub fn is_member_of(&self, trust_domain: &str) -> bool {
        self.trust_domain() == trust_domain
    }

    fn account(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let service_account = rest.strip_prefix("sa/")?;
        (!service_account.contains('/')).then_some((namespace, service_account))
    }
}

/// Checks the name of a trust domain, as an id has it.
///
/// # Errors
/// If it is empty, too long, or has characters that it may not have.
pub fn check_trust_domain(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::NoTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(SpiffeIdError::LongTrustDomain);
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    match name.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(SpiffeIdError::TrustDomainChar(c)),
        None => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match segment {
        "" => Err(SpiffeIdError::EmptySegment),
        "." | ".." => Err(SpiffeIdError::DotSegment),
        _ => segment.chars().find(|c| !allowed(*c)).map_or(Ok(()), |c| Err(SpiffeIdError::PathChar(c))),
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_LEN {
            return Err(SpiffeIdError::TooLong);
        }
        let principal = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = match principal.split_once('/') {
            Some((trust_domain, path)) => (trust_domain, Some(path)),
            None => (principal, None),
        };
        check_trust_domain(trust_domain)?;
        path.map_or(Ok(()), |path| path.split('/').try_for_each(check_segment))?;
        Ok(SpiffeId(text.into()))
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.as_str().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> SpiffeId {
        text.parse().expect("a SPIFFE id")
    }

    #[test]
    fn an_id_is_read_into_its_parts() {
        let web = id("spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(web.trust_domain(), "cluster.local");
        assert_eq!(web.path(), "/ns/shop/sa/web");
        assert_eq!(web.principal(), "cluster.local/ns/shop/sa/web");
        assert_eq!((web.namespace(), web.service_account()), (Some("shop"), Some("web")));
        assert!(web.is_member_of("cluster.local") && !web.is_member_of("cluster"));
        assert_eq!(SpiffeId::of_service_account("cluster.local", "shop", "web"), Ok(web));
    }

    #[test]
    fn an_id_of_another_form_has_no_namespace() {
        for text in [
            "spiffe://td",
            "spiffe://td/ns/shop",
            "spiffe://td/ns/shop/sa",
            "spiffe://td/ns/shop/sa/web/more",
            "spiffe://td/NS/shop/sa/web",
            "spiffe://td/x/ns/shop/sa/web",
            "spiffe://td/ns/shop/more/sa/web",
        ] {
            let id = id(text);
            assert_eq!((id.namespace(), id.service_account()), (None, None), "{text}");
            assert_eq!(id.trust_domain(), "td");
        }
        assert_eq!(id("spiffe://td").path(), "");
    }

    #[test]
    fn what_the_specification_forbids_is_refused_with_its_reason() {
        use SpiffeIdError as E;
        for (text, why) in [
            ("", E::Scheme),
            ("https://td/a", E::Scheme),
            ("SPIFFE://td/a", E::Scheme),
            ("spiffe:/td/a", E::Scheme),
            ("spiffe://", E::NoTrustDomain),
            ("spiffe:///ns/a/sa/b", E::NoTrustDomain),
            ("spiffe://TD/a", E::TrustDomainChar('T')),
            ("spiffe://td:80/a", E::TrustDomainChar(':')),
            ("spiffe://user@td/a", E::TrustDomainChar('@')),
            ("spiffe://td?q", E::TrustDomainChar('?')),
            ("spiffe://tä/a", E::TrustDomainChar('ä')),
            ("spiffe://td/", E::EmptySegment),
            ("spiffe://td/a/", E::EmptySegment),
            ("spiffe://td//a", E::EmptySegment),
            ("spiffe://td/./a", E::DotSegment),
            ("spiffe://td/a/..", E::DotSegment),
            ("spiffe://td/a%20b", E::PathChar('%')),
            ("spiffe://td/a?q", E::PathChar('?')),
            ("spiffe://td/a#f", E::PathChar('#')),
            ("spiffe://td/a\0", E::PathChar('\0')),
            ("spiffe://td/ns/*/sa/b", E::PathChar('*')),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
        }
        assert_eq!(format!("spiffe://{}", "t".repeat(256)).parse::<SpiffeId>(), Err(E::LongTrustDomain));
        assert_eq!(format!("spiffe://td/{}", "p".repeat(2037)).parse::<SpiffeId>(), Err(E::TooLong));
        assert!(format!("spiffe://td/{}", "p".repeat(2036)).parse::<SpiffeId>().is_ok());
    }

    #[test]
    fn an_account_cannot_smuggle_a_segment_in() {
        assert_eq!(SpiffeId::of_service_account("td", "a/sa/b", "c"), Err(SpiffeIdError::PathChar('/')));
        assert_eq!(SpiffeId::of_service_account("td", "a", ".."), Err(SpiffeIdError::DotSegment));
        assert_eq!(SpiffeId::of_service_account("td/x", "a", "b"), Err(SpiffeIdError::TrustDomainChar('/')));
        assert_eq!(SpiffeId::of_service_account("td", "", "b"), Err(SpiffeIdError::EmptySegment));
    }

    #[test]
    fn it_is_a_text_in_files() {
        let web = id("spiffe://td/ns/shop/sa/web");
        assert_eq!(serde_json::to_string(&web).expect("JSON"), "\"spiffe://td/ns/shop/sa/web\"");
        assert_eq!(serde_json::from_str::<SpiffeId>("\"spiffe://td/ns/shop/sa/web\"").expect("an id"), web);
        let wrong = serde_json::from_str::<SpiffeId>("\"http://td\"").expect_err("no id");
        assert!(wrong.to_string().contains("begins with `spiffe://`"), "{wrong}");
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_unchanged(
            domain in "[a-z0-9._-]{1,40}",
            path in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,12}", 0..6),
        ) {
            let path: String = path.iter().map(|segment| format!("/{segment}")).collect();
            let text = format!("spiffe://{domain}{path}");
            let id: SpiffeId = text.parse().expect("a SPIFFE id");
            prop_assert_eq!(id.to_string(), text);
            prop_assert_eq!(id.trust_domain(), &domain);
            prop_assert_eq!(id.path(), &path);
        }

        #[test]
        fn the_account_of_an_id_is_the_one_it_was_made_of(
            namespace in "[a-z0-9-]{1,20}", account in "[a-z0-9-]{1,20}",
        ) {
            let id = SpiffeId::of_service_account("td", &namespace, &account).expect("an id");
            prop_assert_eq!(id.namespace(), Some(&*namespace));
            prop_assert_eq!(id.service_account(), Some(&*account));
        }

        #[test]
        fn no_text_makes_it_panic_and_an_id_has_one_spelling(text in "(spiffe://)?[a-zA-Z./_%@:-]{0,30}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert!(!text.ends_with('/') && !id.path().contains("//") && !id.path().contains('%'));
            }
        }
    }
}
