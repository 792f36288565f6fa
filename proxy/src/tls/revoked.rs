//! Lists of revoked certificates (CRLs, RFC 5280 section 5).
//!
//! All lists of a bundle count, and a serial number that one of them has is revoked, if the key
//! that has signed the certificate has signed the list. The name of the issuer does not decide
//! that: an authority that was renewed has its old name and another key. Nor does the scope of a
//! list: an issuer uses a serial number once. So this does not leave the choice to webpki, which
//! looks at one list, the first whose issuer has the name.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{SubjectPublicKeyInfoDer, TrustAnchor};
use webpki::{Cert, CertRevocationList, OwnedCertRevocationList, VerifiedPath, spki_for_anchor};
use x509_parser::asn1_rs::{Any, BitString, Tag};
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer};

use super::trust::pki_words;

/// A list of revoked certificates.
#[derive(Debug)]
pub(super) struct RevocationList {
    serials: CertRevocationList<'static>,
    /// The issuer's name, for messages.
    pub(super) issuer: String,
    /// When the next list is due.
    pub(super) due: Option<SystemTime>,
    version: Version,
    signer: Signer,
}

/// Who has signed a list.
#[derive(Debug)]
enum Signer {
    /// The root with this key.
    Root(SubjectPublicKeyInfoDer<'static>),
    /// None of the roots; perhaps an authority whose certificate comes with a chain. All of the
    /// list, to find out.
    Unknown(Vec<u8>),
}

/// Of two lists of an issuer the greater one is newer: its number, without leading zeros and after
/// its length, and when it was made.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    number: (usize, Vec<u8>),
    made: Option<SystemTime>,
}

impl RevocationList {
    /// Reads a list. `roots` are those of its bundle.
    ///
    /// # Errors
    /// In words, if it is none that can be used.
    pub(super) fn read(
        der: &[u8],
        roots: &[TrustAnchor<'static>],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Self, String> {
        let serials = OwnedCertRevocationList::from_der(der)
            .map_err(|e| format!("this list of revoked certificates is wrong: {}", words(der, &e)))?;
        let serials = CertRevocationList::from(serials);
        let named = roots.iter().filter(|root| root.subject.as_ref() == serials.issuer());
        let signer = named.map(spki_for_anchor).find(|key| is_signed_by(der, key, algorithms));
        let signer = signer.map_or_else(|| Signer::Unknown(der.to_vec()), Signer::Root);
        let mut list =
            RevocationList { serials, issuer: String::new(), due: None, version: Version::default(), signer };
        // What the verifier keeps to itself.
        if let Ok((_, parsed)) = CertificateRevocationList::from_der(der) {
            let number = parsed.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default();
            list.issuer = parsed.issuer().to_string();
            list.due = parsed.next_update().and_then(time_of_day);
            list.version =
                Version { number: (number.len(), number), made: time_of_day(parsed.last_update()) };
        }
        Ok(list)
    }

    /// Whether it is by this root.
    pub(super) fn is_by(&self, root: &TrustAnchor<'_>) -> bool {
        self.has_name_of(root) && matches!(&self.signer, Signer::Root(key) if *key == spki_for_anchor(root))
    }

    /// Whether its issuer has the name of this root.
    pub(super) fn has_name_of(&self, root: &TrustAnchor<'_>) -> bool {
        root.subject.as_ref() == self.serials.issuer()
    }

    /// Whether it is by none of the roots with which it was read.
    pub(super) fn is_unproved(&self) -> bool {
        matches!(self.signer, Signer::Unknown(_))
    }

    /// Whether it is by the same issuer as the earlier list `other`, as far as that is known.
    pub(super) fn is_by_issuer_of(&self, other: &Self) -> bool {
        let is_same_signer = match (&self.signer, &other.signer) {
            (Signer::Root(key), Signer::Root(other)) => key == other,
            (_, Signer::Unknown(_)) => true,
            (Signer::Unknown(_), Signer::Root(_)) => false,
        };
        is_same_signer && self.serials.issuer() == other.serials.issuer()
    }

    /// Whether it was made before `other` of the same issuer.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.version < other.version
    }

    /// Whether it revokes a certificate that the key `issuer` has signed.
    fn revokes(
        &self,
        certificate: &Cert<'_>,
        issuer: &SubjectPublicKeyInfoDer<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<bool, webpki::Error> {
        if self.serials.issuer() != certificate.issuer()
            || self.serials.find_serial(certificate.serial())?.is_none()
        {
            return Ok(false);
        }
        Ok(match &self.signer {
            Signer::Root(key) => key == issuer,
            Signer::Unknown(list) => is_signed_by(list, issuer, algorithms),
        })
    }
}

/// Whether one of the lists revokes one of the certificates of a path.
///
/// # Errors
/// If so.
pub(super) fn check<'l>(
    path: &VerifiedPath<'_>,
    lists: impl Iterator<Item = &'l Arc<RevocationList>> + Clone,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), webpki::Error> {
    let between = || path.intermediate_certificates();
    let keys = between().map(|issuer| issuer.subject_public_key_info());
    let keys = keys.chain(std::iter::once(spki_for_anchor(path.anchor())));
    let certificates = std::iter::once::<&Cert<'_>>(path.end_entity()).chain(between());
    for (certificate, issuer) in certificates.zip(keys) {
        for list in lists.clone() {
            if list.revokes(certificate, &issuer, algorithms)? {
                return Err(webpki::Error::CertRevoked);
            }
        }
    }
    Ok(())
}

/// Whether a list is signed by a key.
fn is_signed_by(
    list: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let Some((signed, list_algorithm, signature)) = signed_parts(list) else { return false };
    let Some((key_algorithm, key)) = key_parts(key) else { return false };
    algorithms.all.iter().any(|algorithm| {
        algorithm.signature_alg_id().as_ref() == list_algorithm
            && algorithm.public_key_alg_id().as_ref() == key_algorithm
            && algorithm.verify_signature(&key, signed, &signature).is_ok()
    })
}

/// What is signed of a list, by which algorithm, and the signature.
fn signed_parts(list: &[u8]) -> Option<(&[u8], &[u8], Vec<u8>)> {
    let whole = contents(list)?.0;
    let (rest, _) = Any::from_der(whole).ok()?;
    let signed = &whole[..whole.len() - rest.len()];
    let (algorithm, rest) = contents(rest)?;
    let (_, signature) = BitString::from_der(rest).ok()?;
    Some((signed, algorithm, signature.data.into_owned()))
}

/// The algorithm of a key, and its bits.
fn key_parts(key: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let (algorithm, rest) = contents(contents(key)?.0)?;
    let (_, bits) = BitString::from_der(rest).ok()?;
    Some((algorithm, bits.data.into_owned()))
}

/// What is in the sequence at the beginning of some DER, and what follows it.
fn contents(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, sequence) = Any::from_der(der).ok()?;
    sequence.header.assert_tag(Tag::Sequence).ok()?;
    Some((sequence.data, rest))
}

fn time_of_day(time: ASN1Time) -> Option<SystemTime> {
    u64::try_from(time.timestamp()).ok().map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at))
}

/// Why a list of revoked certificates is refused. webpki asks for what RFC 5280 (5.1.2, 5.2) asks
/// of authorities, and calls what lacks it malformed.
fn words(list: &[u8], error: &webpki::Error) -> String {
    let Ok((_, parsed)) = CertificateRevocationList::from_der(list) else { return pki_words(error) };
    if parsed.version().is_none_or(|version| version.0 == 0) || parsed.extensions().is_empty() {
        "it must be of version 2 and have extensions, at least its number (RFC 5280, 5.2.3). `openssl ca` \
         makes such a list if its configuration has `crlnumber = FILE`"
            .into()
    } else if parsed.next_update().is_none() {
        "it must say when the next one is due (nextUpdate)".into()
    } else {
        pki_words(error)
    }
}
