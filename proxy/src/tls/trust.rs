//! Whom this workload trusts: the roots of its trust domain, and the certificates that were
//! revoked before their time.
//!
//! A chain is judged alike on both sides of a connection: by RFC 5280 (webpki), and by what the
//! X509-SVID specification asks of a workload's certificate, which is exactly one URI that names
//! the workload. Names of hosts do not count.

use std::time::{Duration, SystemTime};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, Error, OtherError};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_parser::asn1_rs::Sequence;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::credentials::validity;
use super::pem::{self, PemError, PemFile};
use super::verified::VerifiedChains;
use crate::mutant::Mutant;
use crate::spiffe_id::SpiffeId;

/// Roots and revocations. Immutable: a rotation makes a new one.
#[derive(Debug)]
pub struct TrustBundle {
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    /// The names of the lists' issuers, and when the next lists are due.
    due: Vec<(Vec<u8>, Option<SystemTime>)>,
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
            for (line, list) in lists {
                bundle.add_revoked(&list).map_err(|why| file.error(line, why))?;
            }
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
        roots.into_iter().try_for_each(|root| bundle.add_root(&root))?;
        bundle.check()?;
        revoked.into_iter().try_for_each(|list| bundle.add_revoked(list))?;
        Ok(bundle)
    }

    fn empty(algorithms: WebPkiSupportedAlgorithms) -> Self {
        TrustBundle {
            anchors: Vec::new(),
            revoked: Vec::new(),
            due: Vec::new(),
            verified: VerifiedChains::default(),
            algorithms,
        }
    }

    /// What an operator should look at although the bundle can be used, one sentence each.
    pub fn doubts(&self, now: SystemTime) -> Vec<String> {
        let mut doubts = Vec::new();
        for (position, (issuer, due)) in (1..).zip(&self.due) {
            if !self.anchors.iter().any(|anchor| anchor.subject.as_ref() == issuer.as_slice()) {
                doubts.push(format!("list {position} of revoked certificates is by none of the roots"));
            }
            if let Some(due) = due.filter(|due| *due <= now) {
                let due = OffsetDateTime::from(due).format(&Rfc3339).unwrap_or_default();
                doubts.push(format!(
                    "list {position} of revoked certificates is old: the next was due at {due}"
                ));
            }
        }
        doubts
    }

    fn add_root(&mut self, root: &CertificateDer<'_>) -> Result<(), String> {
        let anchor = anchor_from_trusted_cert(root)
            .map_err(|e| format!("this certificate is not that of a root: {}", pki_words(&e)))?;
        self.anchors.push(anchor.to_owned());
        Ok(())
    }

    fn add_revoked(&mut self, list: &[u8]) -> Result<(), String> {
        let owned = OwnedCertRevocationList::from_der(list)
            .map_err(|e| format!("this list of revoked certificates is wrong: {}", pki_words(&e)))?;
        self.revoked.push(owned.into());
        // What the verifier keeps to itself.
        if let Ok((_, list)) = CertificateRevocationList::from_der(list) {
            let due = list.next_update().and_then(|due| u64::try_from(due.timestamp()).ok());
            let due = due.map(|due| SystemTime::UNIX_EPOCH + Duration::from_secs(due));
            let issuer = Sequence::from_der(list.issuer().as_raw()).map(|(_, name)| name.content.to_vec());
            self.due.push((issuer.unwrap_or_default(), due));
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
        let count = if Mutant::IgnoresRevocations.is_planted() { 0 } else { self.revoked.len() };
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().take(count).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            // A list of one authority says nothing of another's certificates. A list that has
            // expired is better than none: to refuse everybody would be an outage.
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        certificate
            .verify_for_usage(self.algorithms.all, &self.anchors, intermediates, now, usage, revocation, None)
            .map_err(pki_error)?;
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

fn identity_of(certificate: &EndEntityCert<'_>) -> Result<SpiffeId, Error> {
    let uris: Vec<&str> = certificate.valid_uri_names().collect();
    let [uri] = uris[..] else { return Err(IdentityError::Uris(uris.len()).into()) };
    uri.parse().map_err(|why| IdentityError::NotSpiffe(uri.to_owned(), why).into())
}

/// A time as TLS has it.
pub fn unix_time(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// webpki has no words but the names of its errors: `UnsupportedCriticalExtension`.
fn pki_words(error: &webpki::Error) -> String {
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
        Pki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Pki::UnsupportedSignatureAlgorithmContext(_)
        | Pki::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => other(IdentityError::Algorithm),
        unnamed => other(IdentityError::Other(pki_words(&unnamed))),
    };
    Error::InvalidCertificate(error)
}
