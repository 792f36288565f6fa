//! What an authority signs: its own roots, certificates of workloads, and lists of those that were
//! revoked. Pure but for the keys that it is given.

use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};

use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519, Oid,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::roots::Root;
use super::token::unix;
use crate::spiffe_id::SpiffeId;

/// How far a certificate reaches into the past: clocks differ.
pub(super) const BACKDATED: Duration = Duration::from_secs(60);

/// Whether a certificate that ends at `expires` (Unix seconds) has ended for everybody, those among
/// them whose clock is behind. A revocation must not be forgotten before: they would take it again.
pub(super) fn has_ended(expires: u64, now: u64) -> bool {
    expires.saturating_add(BACKDATED.as_secs()) < now
}

/// How long a list of revoked certificates says that it is fresh. Nobody here believes it less
/// afterwards; other implementations may.
const LIST_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// How requests may be signed.
const SIGNATURES: [Oid<'static>; 7] = [
    OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ED25519,
    OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA,
    OID_PKCS1_RSASSAPSS,
];

/// How much of a name is told to whom asked for it.
const SHOWN: usize = 100;

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// What was sent is not a request for a certificate, or is not signed by its own key.
    #[error("this is not a signed request for a certificate: {0}")]
    Request(rcgen::Error),
    /// Its key or its signature is of a kind that is not signed.
    #[error(
        "{0} is not supported: a key may be ECDSA over P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits"
    )]
    Kind(String),
    /// It has an extension that is not signed.
    #[error("the extension {0} is not supported: a request needs none but its name (subjectAltName)")]
    Extension(String),
    /// It asks for another name than that of who asks.
    #[error("the request is for {asked}, and {own} asks")]
    Name {
        /// A name in the request.
        asked: String,
        /// Who asks.
        own: SpiffeId,
    },
    /// The root cannot be used, or not be made.
    #[error("the root cannot be used: {0}")]
    Root(#[from] rcgen::Error),
}

/// A new root of a trust domain, with this key.
///
/// # Errors
/// If it cannot be signed.
pub fn root(
    trust_domain: &str,
    key: &KeyPair,
    now: SystemTime,
    lifetime: Duration,
) -> Result<Root, SignError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    // Two roots of one name would make a chain lead to both.
    let key_id = HEXLOWER.encode(&params.key_identifier(key)[..8]);
    params.distinguished_name.push(DnType::CommonName, format!("root {key_id}"));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
    let certificate = params.self_signed(key)?.pem();
    Ok(Root { created: unix(now), expires: unix(now + lifetime), certificate, key: key.serialize_pem() })
}

/// What a certificate of a workload says.
#[derive(Debug, Clone)]
pub struct Leaf<'a> {
    /// Whose it is.
    pub id: &'a SpiffeId,
    /// Its serial number.
    pub serial: &'a [u8],
    /// From when on it is valid, but for a minute before.
    pub now: SystemTime,
    /// How long.
    pub lifetime: Duration,
}

/// A certificate for the key of the request `csr`, both PEM. Of the request nothing else counts
/// than its key: neither purposes nor times that it asks for.
///
/// # Errors
/// If the request is malformed or asks for another name.
pub fn workload(root: &Root, csr: &str, leaf: &Leaf<'_>) -> Result<String, SignError> {
    let der = der_of(csr)?;
    let asked = CertificateSigningRequestParams::from_der(&der).map_err(|error| refusal(&der, error))?;
    let own = uri(leaf.id.as_str())?;
    if let Some(other) = asked.params.subject_alt_names.iter().find(|name| **name != own) {
        let asked = match other {
            SanType::URI(uri) => uri.as_str().chars().take(SHOWN).collect(),
            SanType::DnsName(name) => name.as_str().chars().take(SHOWN).collect(),
            _ => "a name that is no URI".into(),
        };
        return Err(SignError::Name { asked, own: leaf.id.clone() });
    }
    Ok(leaf_params(leaf)?.signed_by(&key_of(&der)?, &issuer(root)?)?.pem())
}

fn der_of(csr: &str) -> Result<CertificateSigningRequestDer<'static>, SignError> {
    let unread = |_| SignError::Request(rcgen::Error::CouldNotParseCertificationRequest);
    let (_, pem) = parse_x509_pem(csr.as_bytes()).map_err(unread)?;
    Ok(pem.contents.into())
}

/// The key of a request. rcgen's own tells its curve by the hash of the signature, and a key of any
/// curve may sign with any hash.
fn key_of(csr: &CertificateSigningRequestDer<'_>) -> Result<SubjectPublicKeyInfo, SignError> {
    let unread = |_| SignError::Request(rcgen::Error::CouldNotParseCertificationRequest);
    let (_, request) = X509CertificationRequest::from_der(csr).map_err(unread)?;
    let key = request.certification_request_info.subject_pki.raw;
    SubjectPublicKeyInfo::from_der(key).map_err(SignError::Request)
}

/// Why a request is refused, as exactly as that is known.
fn refusal(csr: &CertificateSigningRequestDer<'_>, error: rcgen::Error) -> SignError {
    let extension = || match error {
        rcgen::Error::UnsupportedExtension => unknown_extension(csr),
        _ => None,
    };
    let kind = unsupported(csr).map(SignError::Kind);
    let named = kind.or_else(|| extension().map(SignError::Extension));
    named.unwrap_or(SignError::Request(error))
}

/// The first extension of a request, or purpose in one, that rcgen does not know.
fn unknown_extension(csr: &CertificateSigningRequestDer<'_>) -> Option<String> {
    let (_, request) = X509CertificationRequest::from_der(csr).ok()?;
    let extensions = request.certification_request_info.iter_attributes().filter_map(|attribute| {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(asked) => Some(&asked.extensions),
            _ => None,
        }
    });
    extensions.flatten().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::KeyUsage(_)
        | ParsedExtension::SubjectAlternativeName(_)
        | ParsedExtension::BasicConstraints(_) => None,
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let other = usage.other.first()?;
            Some(format!("{} with the purpose {other}", extension.oid))
        }
        _ => Some(extension.oid.to_string()),
    })
}

/// What is not supported of a request that was refused, if that is why: whoever checks its
/// signature only says that it is bad.
fn unsupported(csr: &CertificateSigningRequestDer<'_>) -> Option<String> {
    let (_, request) = X509CertificationRequest::from_der(csr).ok()?;
    let key = &request.certification_request_info.subject_pki;
    let kind = &key.algorithm.algorithm;
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
        if curve == OID_NIST_EC_P521 {
            return Some("ECDSA over P-521".into());
        } else if ![OID_EC_P256, OID_NIST_EC_P384].contains(&curve) {
            return Some(format!("ECDSA over the curve {curve}"));
        }
    } else if *kind == OID_PKCS1_RSAENCRYPTION {
        let PublicKey::RSA(rsa) = key.parsed().ok()? else { return None };
        if !(2048..=8192).contains(&rsa.key_size()) {
            return Some(format!("RSA of {} bits", rsa.key_size()));
        }
    } else if *kind != OID_SIG_ED25519 {
        return Some(format!("a key of the kind {kind}"));
    }
    let signature = &request.signature_algorithm.algorithm;
    (!SIGNATURES.contains(signature)).then(|| format!("a signature by the algorithm {signature}"))
}

/// Whether a root that was kept is one: a certificate of an authority, signed by its own key, which
/// is the one beside it.
///
/// # Errors
/// If not: why.
pub(super) fn check(root: &Root) -> Result<(), String> {
    let key = KeyPair::from_pem(&root.key).map_err(|error| format!("its key cannot be read: {error}"))?;
    let unread = |error: &dyn std::fmt::Display| format!("its certificate cannot be read: {error}");
    let (_, pem) = parse_x509_pem(root.certificate.as_bytes()).map_err(|error| unread(&error))?;
    let certificate = pem.parse_x509().map_err(|error| unread(&error))?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("its key is not that of its certificate".into());
    }
    if !certificate.is_ca() {
        return Err("its certificate is not that of an authority".into());
    }
    certificate.verify_signature(None).map_err(|_| "its certificate is not signed by its key".into())
}

/// A certificate for `key`, PEM: the authority's own.
///
/// # Errors
/// If it cannot be signed.
pub fn own(root: &Root, key: &KeyPair, leaf: &Leaf<'_>) -> Result<String, SignError> {
    Ok(leaf_params(leaf)?.signed_by(key, &issuer(root)?)?.pem())
}

/// The list of revoked certificates of `root`, PEM.
///
/// # Errors
/// If it cannot be signed.
pub fn revocation_list<'a>(
    root: &Root,
    number: u64,
    serials: impl Iterator<Item = (&'a [u8], SystemTime)>,
    now: SystemTime,
) -> Result<String, SignError> {
    let revoked = serials.map(|(serial, at)| RevokedCertParams {
        serial_number: SerialNumber::from(serial.to_vec()),
        revocation_time: at.into(),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: (now - BACKDATED).into(),
        next_update: (now + LIST_LIFETIME).into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(&issuer(root)?)?.pem()?)
}

fn issuer(root: &Root) -> Result<Issuer<'static, KeyPair>, SignError> {
    let key = KeyPair::from_pem(&root.key)?;
    Ok(Issuer::from_ca_cert_pem(&root.certificate, key)?)
}

fn leaf_params(leaf: &Leaf<'_>) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    // The name is the URI, and nothing else (X509-SVID 4.1 leaves the subject open).
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(leaf.serial.to_vec()));
    params.subject_alt_names = vec![uri(leaf.id.as_str())?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (leaf.now - BACKDATED).into();
    params.not_after = (leaf.now + leaf.lifetime).into();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, SignError> {
    Ok(SanType::URI(text.try_into()?))
}

#[cfg(test)]
mod tests {
    use rcgen::CustomExtension;

    use super::*;

    /// Requests that OpenSSL has made.
    #[test]
    fn a_request_of_a_kind_that_is_not_signed_is_told_which_kind_that_is() {
        for (csr, kind) in [
            (include_str!("requests/p521.pem"), Some("ECDSA over P-521")),
            (include_str!("requests/secp256k1.pem"), Some("ECDSA over the curve 1.3.132.0.10")),
            (include_str!("requests/rsa_1024.pem"), Some("RSA of 1024 bits")),
            (include_str!("requests/ed448.pem"), Some("a key of the kind 1.3.101.113")),
            (
                include_str!("requests/p256_sha512.pem"),
                Some("a signature by the algorithm 1.2.840.10045.4.3.4"),
            ),
            (include_str!("requests/p256.pem"), None),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            let key = KeyPair::generate().unwrap();
            let root = root("td", &key, now, Duration::from_secs(1000)).unwrap();
            let id = "spiffe://td/ns/shop/sa/web".parse().unwrap();
            let leaf = Leaf { id: &id, serial: &[1], now, lifetime: Duration::from_secs(100) };
            let said = workload(&root, csr, &leaf).map(drop).map_err(|error| error.to_string());
            match (said, kind) {
                (Ok(()), None) => {}
                (Err(said), Some(kind)) => assert!(said.starts_with(kind), "{said}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_request_with_an_extension_that_is_not_supported_is_told_which_that_is() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let root = root("td", &KeyPair::generate().unwrap(), now, Duration::from_secs(1000)).unwrap();
        let id = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        let leaf = Leaf { id: &id, serial: &[1], now, lifetime: Duration::from_secs(100) };
        let says = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![uri(id.as_str()).unwrap()];
            change(&mut params);
            let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
            workload(&root, &csr, &leaf).unwrap_err().to_string()
        };
        let unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 7], vec![5, 0]);
        let said = says(&|params| params.custom_extensions = vec![unknown.clone()]);
        assert!(said.starts_with("the extension 1.3.6.1.4.1.7 is not supported"), "{said}");
        let said = says(&|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 2])];
        });
        assert!(said.starts_with("the extension 2.5.29.37 with the purpose 1.3.6.1.5.2 is not"), "{said}");
    }

    /// Requests that OpenSSL has made, by its default hash among them.
    #[test]
    fn a_certificate_has_the_key_of_its_request_whatever_hash_that_was_signed_by() {
        for csr in [
            include_str!("requests/p256.pem"),
            include_str!("requests/p256_sha384.pem"),
            include_str!("requests/p384_sha256.pem"),
            include_str!("requests/p384_sha384.pem"),
            include_str!("requests/ed25519.pem"),
            include_str!("requests/rsa_2048.pem"),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            let root = root("td", &KeyPair::generate().unwrap(), now, Duration::from_secs(1000)).unwrap();
            let id = "spiffe://td/ns/shop/sa/web".parse().unwrap();
            let leaf = Leaf { id: &id, serial: &[1], now, lifetime: Duration::from_secs(100) };
            let certificate = workload(&root, csr, &leaf).unwrap();
            let der = der_of(csr).unwrap();
            let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
            let (_, pem) = parse_x509_pem(certificate.as_bytes()).unwrap();
            let certificate = pem.parse_x509().unwrap();
            let key = request.certification_request_info.subject_pki.raw;
            assert_eq!(certificate.public_key().raw, key, "{csr}");
        }
    }

    #[test]
    fn a_root_that_is_damaged_is_told_as_that() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let make = || root("td", &KeyPair::generate().unwrap(), now, Duration::from_secs(1000)).unwrap();
        let (good, other) = (make(), make());
        assert_eq!(check(&good), Ok(()));
        let says = |root: Root| check(&root).unwrap_err();
        assert_eq!(
            says(Root { key: other.key.clone(), ..good.clone() }),
            "its key is not that of its certificate"
        );
        assert!(says(Root { key: "none".into(), ..good.clone() }).starts_with("its key cannot be read"));
        // A letter of its base64, wherever that is.
        let at = good.certificate.find('\n').unwrap() + 1;
        for at in (at..good.certificate.rfind("\n-----END").unwrap()).step_by(7) {
            let mut certificate = good.certificate.clone();
            let letter = match &certificate[at..=at] {
                "\n" | "=" => continue,
                "A" => "Q",
                _ => "A",
            };
            certificate.replace_range(at..=at, letter);
            says(Root { certificate, ..good.clone() });
        }
        let key = KeyPair::from_pem(&good.key).unwrap();
        let id = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        let leaf = Leaf { id: &id, serial: &[1], now, lifetime: Duration::from_secs(100) };
        let certificate = own(&good, &key, &leaf).unwrap();
        assert_eq!(says(Root { certificate, ..good }), "its certificate is not that of an authority");
    }

    #[test]
    fn a_request_whose_signature_is_wrong_is_told_as_that() {
        let good = include_str!("requests/p256.pem");
        let at = good.rfind("\n-----END").unwrap() - 12;
        let other = if good.as_bytes()[at] == b'A' { "B" } else { "A" };
        let forged = [&good[..at], other, &good[at + 1..]].concat();
        let forged = der_of(&forged).unwrap();
        assert!(CertificateSigningRequestParams::from_der(&forged).is_err());
        assert_eq!(unsupported(&forged), None);
    }
}
