//! What a workload proves itself with: its certificate, the key of that, and whom it trusts.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ExtendedKeyPurpose, InvalidMessage, PeerIncompatible};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::trust::{PeerSide, TrustBundle, identity, is_authority, spaced, unix_time};
use crate::spiffe_id::SpiffeId;

/// A certificate with its key, and the bundle to judge others by. Immutable: a rotation makes new
/// ones. The key is not shown by `Debug`, and cannot be taken out.
pub struct Credentials {
    /// Whose they are.
    pub id: SpiffeId,
    /// The certificate is valid from then on.
    pub not_before: SystemTime,
    /// It is valid until then.
    pub not_after: SystemTime,
    /// Whom they trust.
    pub trust: Arc<TrustBundle>,
    pub(super) key: Arc<CertifiedKey>,
}

/// Why a certificate, a key and a bundle make no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// There is no certificate.
    #[error("there is no certificate")]
    Empty,
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// It is an authority's.
    #[error(
        "the first certificate is an authority's: the workload's own comes first, and then those that \
         lead to a root"
    )]
    AuthorityFirst,
    /// It does not name exactly one workload.
    #[error("the first certificate is no workload's: {0}")]
    NoWorkload(String),
    /// The key is of a kind that the provider does not know.
    #[error(
        "the private key cannot be used: it must be one of ECDSA (P-256, P-384 or P-521), Ed25519, or RSA \
         with 2048 to 8192 bits"
    )]
    Key,
    /// The key is not that of the certificate.
    #[error("the private key is not the certificate's")]
    Mismatch,
    /// It is another workload's.
    #[error("the certificate is {found}'s, and this workload is {own}")]
    NotOwn {
        /// Whose certificate it is.
        found: SpiffeId,
        /// Who this workload is.
        own: SpiffeId,
    },
    /// The workload's own bundle does not accept it, so no peer with the same one would.
    #[error("its own bundle does not accept the certificate: {0}")]
    NotTrusted(String),
}

impl Credentials {
    /// Puts the parts together. `chain` begins with the workload's own certificate. `own` is the
    /// name that it must have; `now` is the time of day.
    ///
    /// # Errors
    /// If they do not belong together, or the bundle does not accept the chain now.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust: Arc<TrustBundle>,
        own: &SpiffeId,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        let Some(certificate) = chain.first() else { return Err(CredentialsError::Empty) };
        let Validity { not_before, not_after } = validity(certificate)?;
        if is_authority(certificate) {
            return Err(CredentialsError::AuthorityFirst);
        }
        let found = identity(certificate).map_err(|e| CredentialsError::NoWorkload(words(&e)))?;
        if found != *own {
            return Err(CredentialsError::NotOwn { found, own: own.clone() });
        }
        judge(&chain, &trust, own, now).map_err(|e| CredentialsError::NotTrusted(words(&e)))?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| CredentialsError::Key)?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(CredentialsError::Mismatch),
        }
        Ok(Credentials { id: found, not_before, not_after, trust, key: Arc::new(key) })
    }
}

impl Credentials {
    /// The same certificate with another bundle.
    pub fn with_trust(&self, trust: Arc<TrustBundle>) -> Self {
        let (id, key) = (self.id.clone(), self.key.clone());
        Credentials { id, key, trust, ..*self }
    }

    /// Whether its own bundle accepts the certificate at `now`.
    pub fn is_trusted(&self, now: SystemTime) -> bool {
        judge(&self.key.cert, &self.trust, &self.id, now).is_ok()
    }
}

/// Judges a workload's own chain as its peers will.
fn judge(
    chain: &[CertificateDer<'static>],
    trust: &TrustBundle,
    own: &SpiffeId,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let [certificate, intermediates @ ..] = chain else {
        return Err(rustls::Error::NoCertificatesPresented);
    };
    for side in [PeerSide::Client, PeerSide::Server] {
        trust.verify(certificate, intermediates, side, own.trust_domain(), unix_time(now))?;
    }
    Ok(())
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub not_before: SystemTime,
    /// Until then.
    pub not_after: SystemTime,
}

/// From when until when a certificate is valid.
///
/// # Errors
/// If it cannot be read.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, CredentialsError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|e| CredentialsError::Unreadable(e.to_string()))?;
    let validity = parsed.validity();
    let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
    Ok(Validity { not_before: not_before.into(), not_after: not_after.into() })
}

/// What TLS says of an error, in words for an operator.
pub(crate) fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => "it leads to no root of the bundle".into(),
            CertificateError::Revoked => "it was revoked".into(),
            CertificateError::InvalidPurposeContext { required, .. } => {
                let missing = match required {
                    ExtendedKeyPurpose::ServerAuth => "serverAuth",
                    _ => "clientAuth",
                };
                format!(
                    "its extended key usage, or an intermediate's, lacks {missing}: a workload needs both \
                     serverAuth and clientAuth, or none"
                )
            }
            CertificateError::BadEncoding => "it is malformed".into(),
            CertificateError::BadSignature => "it is not signed by the key that it says".into(),
            CertificateError::Other(other) => other.0.to_string(),
            other => {
                // Most have no words but their names.
                let (said, name) = (other.to_string(), format!("{other:?}"));
                if said == name { spaced(&name) } else { said }
            }
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what came is no TLS: the other end speaks something else, or in plaintext".into()
        }
        rustls::Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the other end does not speak TLS 1.3".into()
        }
        rustls::Error::AlertReceived(alert) => {
            use AlertDescription as A;
            let said = spaced(&format!("{alert:?}"));
            match alert {
                A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA
                | A::AccessDenied => format!("the other end refused the certificate of this one: {said}"),
                A::CertificateRequired => "the other end wants a certificate, and was shown none".into(),
                _ => format!("the other end ended the handshake: {said}"),
            }
        }
        other => other.to_string(),
    }
}
