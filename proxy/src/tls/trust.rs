//! Whom this workload trusts: the roots of its trust domain, and the certificates that were
//! revoked before their time.
//!
//! A chain is judged alike on both sides of a connection: by RFC 5280 (webpki), and by what the
//! X509-SVID specification asks of a workload's certificate, which is exactly one URI that names
//! the workload. Names of hosts do not count.
//!
//! A root is a certificate that says of itself that it is an authority's (CA:TRUE, as X509-SVID 4.1
//! asks for). One of version 1 says nothing of itself and is none. Otherwise whoever has the key of
//! a workload's certificate that somebody puts among the roots could be everybody.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, Error, ExtendedKeyPurpose, OtherError};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::credentials::validity;
use super::pem::{self, PemError, PemFile};
use super::revoked::{self, RevocationList};
use super::verified::VerifiedChains;
use crate::mutant::Mutant;
use crate::spiffe_id::SpiffeId;

/// Roots and revocations. Immutable: a rotation makes a new one.
#[derive(Debug)]
pub struct TrustBundle {
    anchors: Vec<TrustAnchor<'static>>,
    /// Until when each of them is valid.
    ends: Vec<SystemTime>,
    /// The roots that are left out because they have expired: position, and when.
    expired: Vec<(usize, SystemTime)>,
    revoked: Vec<Arc<RevocationList>>,
    /// Lists of bundles before that are by none of the roots, and are not in this one any more.
    kept: Vec<Arc<RevocationList>>,
    verified: VerifiedChains,
    /// Of signatures, of certificates and of handshakes alike.
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// On which side of a connection the owner of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerSide {
    /// It opened the connection.
    Client,
    /// It accepted it.
    Server,
}

/// Why a workload's certificate is refused, beyond what [`CertificateError`] has words for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It has no URI, or several.
    #[error("the certificate has {0} URIs, and a workload's has exactly one: its SPIFFE id")]
    Uris(usize),
    /// Its URI is no SPIFFE id.
    #[error("the certificate's URI `{0}` is not a SPIFFE id: {1}")]
    NotSpiffe(String, crate::spiffe_id::SpiffeIdError),
    /// It names a trust domain, and nobody in it (X509-SVID 2).
    #[error("{0} names a trust domain and no workload")]
    NoWorkload(SpiffeId),
    /// It is another trust domain's.
    #[error("{0} is of another trust domain than {1}")]
    TrustDomain(SpiffeId, String),
    /// A root has its issuer's name, and another key.
    #[error("no root of the bundle has signed it, though one has its issuer's name")]
    Signature,
    /// It, or a certificate between it and the root, is signed in a way that nobody here can check.
    #[error("its signature is by an algorithm, or by a kind of key, that is not supported")]
    Algorithm,
    /// Something else that webpki does not like, in its words.
    #[error("{0}")]
    Other(String),
    /// It is another workload's.
    #[error("the server is {found}, and {expected} was expected there")]
    Unexpected {
        /// Whose certificate it is.
        found: SpiffeId,
        /// Whose it should be.
        expected: SpiffeId,
    },
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        let other = OtherError(std::sync::Arc::new(error));
        Error::InvalidCertificate(CertificateError::Other(other))
    }
}

impl TrustBundle {
    /// The bundle of these files: certificates of roots, and lists of revoked certificates.
    ///
    /// # Errors
    /// If one cannot be read, or there is no root: which file, which line, and what is wrong.
    pub fn of_pem(
        roots: &PemFile<'_>,
        revoked: Option<&PemFile<'_>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, PemError> {
        let mut bundle = TrustBundle::empty(algorithms);
        for (line, root) in pem::certificates(roots)? {
            bundle.add_root(&root).map_err(|why| roots.error(line, why))?;
        }
        bundle.check().map_err(|why| roots.error(1, why.into()))?;
        if let Some(file) = revoked {
            let lists = pem::revocation_lists(file)?;
            if lists.is_empty() {
                // Taken for a list of nobody, half a file would let everybody in again.
                return Err(file.error(1, "there is no list of revoked certificates in it".into()));
            }
            for (line, list) in &lists {
                bundle.add_revoked(list).map_err(|why| file.error(*line, why))?;
            }
            bundle.check_revoked().map_err(|(position, why)| file.error(lists[position].0, why.into()))?;
        }
        Ok(bundle)
    }

    /// The bundle of these certificates of roots and lists of revoked certificates, in DER.
    ///
    /// # Errors
    /// If one cannot be read, or there is no root.
    pub fn of_der<'a>(
        roots: impl IntoIterator<Item = CertificateDer<'a>>,
        revoked: impl IntoIterator<Item = &'a [u8]>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, String> {
        let mut bundle = TrustBundle::empty(algorithms);
        for (position, root) in (1..).zip(roots) {
            bundle.add_root(&root).map_err(|why| format!("certificate {position}: {why}"))?;
        }
        bundle.check()?;
        revoked.into_iter().try_for_each(|list| bundle.add_revoked(list))?;
        bundle.check_revoked().map_err(|(_, why)| why)?;
        Ok(bundle)
    }

    fn empty(algorithms: WebPkiSupportedAlgorithms) -> Self {
        TrustBundle {
            anchors: Vec::new(),
            ends: Vec::new(),
            expired: Vec::new(),
            revoked: Vec::new(),
            kept: Vec::new(),
            verified: VerifiedChains::default(),
            algorithms,
        }
    }

    /// The bundle without the roots that have expired at `now`, which webpki would go on to trust.
    ///
    /// # Errors
    /// If none is left.
    pub fn without_expired(mut self, now: SystemTime) -> Result<Self, &'static str> {
        let roots = std::mem::take(&mut self.anchors).into_iter().zip(std::mem::take(&mut self.ends));
        for (position, (anchor, end)) in (1..).zip(roots) {
            if end < now {
                self.expired.push((position, end));
            } else {
                self.anchors.push(anchor);
                self.ends.push(end);
            }
        }
        match self.anchors.is_empty() {
            true => Err("it is a bundle without a root: all in it have expired"),
            false => Ok(self),
        }
    }

    /// What an operator should look at although the bundle can be used, one sentence each.
    pub fn doubts(&self, now: SystemTime) -> Vec<String> {
        let text = |at: SystemTime| OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default();
        let expired = |(position, end): &(usize, SystemTime)| {
            format!("root {position} has expired at {} and is left out", text(*end))
        };
        let mut doubts: Vec<String> = self.expired.iter().map(expired).collect();
        for (position, list) in (1..).zip(&self.revoked) {
            if !self.anchors.iter().any(|anchor| list.is_by(anchor)) {
                doubts.push(format!("list {position} of revoked certificates is by none of the roots"));
            }
            if let Some(due) = list.due.filter(|due| *due <= now) {
                let due = text(due);
                doubts.push(format!(
                    "list {position} of revoked certificates is old: the next was due at {due}"
                ));
            }
        }
        let kept = |list: &Arc<RevocationList>| {
            format!(
                "the list of revoked certificates by `{}` is gone or an older one: it was by none of the roots, \
                 and stays in force until a restart",
                list.issuer
            )
        };
        doubts.extend(self.kept.iter().map(kept));
        doubts
    }

    fn add_root(&mut self, root: &CertificateDer<'_>) -> Result<(), String> {
        let not_a_root = |why: String| format!("this certificate is not that of a root: {why}");
        let valid = validity(root).map_err(|error| not_a_root(error.to_string()))?;
        if !is_authority(root) {
            let whose = identity(root).map_or_else(|_| "no authority's".into(), |id| format!("{id}'s"));
            return Err(not_a_root(format!(
                "it is {whose}. An authority's has CA:TRUE in its basic constraints, and keyCertSign if it \
                 has a key usage"
            )));
        }
        let anchor = anchor_from_trusted_cert(root).map_err(|error| not_a_root(pki_words(&error)))?;
        self.anchors.push(anchor.to_owned());
        self.ends.push(valid.not_after);
        Ok(())
    }

    fn add_revoked(&mut self, list: &[u8]) -> Result<(), String> {
        self.revoked.push(Arc::new(RevocationList::read(list, &self.anchors, &self.algorithms)?));
        Ok(())
    }

    /// Whether each root has a list of its own that a list has the name of. One that is damaged
    /// would otherwise revoke nobody. The list of a root that is gone may stay.
    ///
    /// # Errors
    /// The position of the list that is by nobody, and what is wrong with it.
    fn check_revoked(&self) -> Result<(), (usize, &'static str)> {
        let has_list = |root: &TrustAnchor<'_>| self.revoked.iter().any(|list| list.is_by(root));
        for (position, list) in self.revoked.iter().enumerate().filter(|(_, list)| list.is_unproved()) {
            if self.anchors.iter().any(|root| list.has_name_of(root) && !has_list(root)) {
                let why = "this list of revoked certificates has the name of a root, and that root has not \
                           signed it";
                return Err((position, why));
            }
        }
        Ok(())
    }

    /// Has this bundle follow `before`, which is in force. No root's list of revoked certificates
    /// may be gone or an older one, unless the root is gone too. A list by none of the roots may be
    /// that of an authority between, or of a root that is gone: it does not keep the new bundle out
    /// and is kept beside it, unless a root has gone.
    ///
    /// # Errors
    /// If it may not: why, and what to do.
    pub fn follow(&mut self, before: &TrustBundle) -> Result<(), String> {
        let has_gone = before.anchors.iter().any(|root| !self.anchors.contains(root));
        for list in before.revoked.iter().chain(&before.kept) {
            let mut of_issuer = self.revoked.iter().filter(|new| new.is_by_issuer_of(list)).peekable();
            let what = if of_issuer.peek().is_none() { "is gone" } else { "is an older one" };
            if of_issuer.any(|new| !new.is_older_than(list)) {
                continue;
            }
            if list.is_unproved() {
                if !has_gone {
                    self.kept.push(list.clone());
                    self.verified = VerifiedChains::default();
                }
                continue;
            }
            if !self.anchors.iter().any(|root| list.is_by(root)) {
                continue;
            }
            return Err(format!(
                "the list of revoked certificates by `{}` {what}, and who is revoked would get in again: put \
                 the newest there, which may be empty, or restart to do without",
                list.issuer
            ));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.anchors.is_empty() {
            return Err("there is no root certificate, so nobody could be trusted");
        }
        Ok(())
    }

    /// Judges the chain that `side` of a connection sent, its own certificate first, and says whose
    /// it is: a workload of `trust_domain`.
    ///
    /// # Errors
    /// If it does not lead to a root, is not valid at `now`, was revoked, or names no workload of
    /// the trust domain.
    pub fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: PeerSide,
        trust_domain: &str,
        now: UnixTime,
    ) -> Result<SpiffeId, Error> {
        let now = match Mutant::BelievesTheExpired.is_planted() {
            true => validity(end_entity).map_or(now, |valid| now.min(unix_time(valid.not_after))),
            false => now,
        };
        let id = self.verified.or_judge(end_entity, intermediates, (side, now), || {
            self.judge(end_entity, intermediates, side, now)
        })?;
        if id.path().is_empty() {
            return Err(IdentityError::NoWorkload(id).into());
        }
        if !id.is_member_of(trust_domain) {
            return Err(IdentityError::TrustDomain(id, trust_domain.to_owned()).into());
        }
        Ok(id)
    }

    /// Whether a chain leads to a root, and whose it is.
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: PeerSide,
        now: UnixTime,
    ) -> Result<SpiffeId, Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(pki_error)?;
        let usage = match side {
            PeerSide::Client => KeyUsage::client_auth(),
            PeerSide::Server => KeyUsage::server_auth(),
        };
        let is_good = |path: &VerifiedPath<'_>| match Mutant::IgnoresRevocations.is_planted() {
            true => Ok(()),
            false => revoked::check(path, self.revoked.iter().chain(&self.kept), &self.algorithms),
        };
        let all = self.algorithms.all;
        certificate
            .verify_for_usage(all, &self.anchors, intermediates, now, usage, None, Some(&is_good))
            .map_err(|error| match error {
                webpki::Error::RequiredEkuNotFoundContext(_) => {
                    let required = match side {
                        PeerSide::Client => ExtendedKeyPurpose::ClientAuth,
                        PeerSide::Server => ExtendedKeyPurpose::ServerAuth,
                    };
                    CertificateError::InvalidPurposeContext { required, presented: Vec::new() }.into()
                }
                other => pki_error(other),
            })?;
        identity_of(&certificate)
    }
}

/// Whose certificate it is, believed as it stands.
///
/// # Errors
/// If it cannot be read, or does not name exactly one workload.
pub fn identity(certificate: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    identity_of(&EndEntityCert::try_from(certificate).map_err(pki_error)?)
}

/// The serial number of a certificate.
///
/// # Errors
/// If it cannot be read.
pub(super) fn serial(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, Error> {
    Ok(EndEntityCert::try_from(certificate).map_err(pki_error)?.serial().to_vec())
}

fn identity_of(certificate: &EndEntityCert<'_>) -> Result<SpiffeId, Error> {
    let uris: Vec<&str> = certificate.valid_uri_names().collect();
    let [uri] = uris[..] else { return Err(IdentityError::Uris(uris.len()).into()) };
    uri.parse().map_err(|why| IdentityError::NotSpiffe(uri.to_owned(), why).into())
}

/// Whether a certificate says of itself that its key may sign others.
pub(super) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let may_sign = match parsed.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    may_sign && matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca)
}

/// A time as TLS has it.
pub fn unix_time(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// webpki has no words but the names of its errors: `UnsupportedCriticalExtension`.
pub(super) fn pki_words(error: &webpki::Error) -> String {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            "it is malformed".into()
        }
        named => spaced(&format!("{named:?}")),
    }
}

/// The words of a name in camel case: `BadSignature` is "bad signature".
pub(super) fn spaced(name: &str) -> String {
    let mut words = String::new();
    let mut is_within = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && is_within {
            words.push(' ');
        }
        is_within = letter.is_ascii_lowercase();
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// The words of TLS for what webpki says.
fn pki_error(error: webpki::Error) -> Error {
    use webpki::Error as Pki;
    let other = |why: IdentityError| CertificateError::Other(OtherError(std::sync::Arc::new(why)));
    let error = match error {
        Pki::BadDer | Pki::BadDerTime | Pki::TrailingData(_) => CertificateError::BadEncoding,
        Pki::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Pki::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        Pki::UnknownIssuer => CertificateError::UnknownIssuer,
        Pki::CertRevoked => CertificateError::Revoked,
        Pki::InvalidSignatureForPublicKey => other(IdentityError::Signature),
        Pki::UnsupportedSignatureAlgorithmContext(_)
        | Pki::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => other(IdentityError::Algorithm),
        unnamed => other(IdentityError::Other(pki_words(&unnamed))),
    };
    Error::InvalidCertificate(error)
}
