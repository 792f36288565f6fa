//! An authority for tests: it signs certificates of workloads.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy::identity::SpiffeId;
use proxy::tls::pem::{self, PemFile};
use proxy::tls::trust::TrustBundle;
use proxy::tls::{Credentials, TlsContext, TlsStore};
use proxy::world::{SystemWall, Wall, crypto};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};

/// An hour.
const HOUR: Duration = Duration::from_secs(3600);

/// A root with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub root: String,
}

/// A certificate of a workload and its key, PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// The time of day.
pub fn now() -> SystemTime {
    SystemWall.now()
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        Authority::named("test root")
    }

    /// One whose root has this name.
    pub fn named(name: &str) -> Self {
        Authority::with(name, |_| {})
    }

    /// The same, but for what `change` does to its root.
    pub fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // OpenSSL takes a certificate whose issuer has its own name for a root.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        let root = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), root }
    }

    /// One between the root of `issuer` and workloads.
    pub fn signed_by(issuer: &Authority, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.signed_by(&key, &issuer.issuer).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), root }
    }

    /// A certificate for these URIs that is valid from `begin` until `end`.
    pub fn issue(&self, uris: &[&str], begin: SystemTime, end: SystemTime) -> Issued {
        self.issue_with(uris, begin, end, |_| {})
    }

    /// The same, but for what `change` does.
    pub fn issue_with(
        &self,
        uris: &[&str],
        begin: SystemTime,
        end: SystemTime,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_before = begin.into();
        params.not_after = end.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    /// A certificate of the workload `id` for the next hour, and its serial number.
    pub fn issue_numbered(&self, id: &str) -> (SerialNumber, Issued) {
        let serial = SerialNumber::from(vec![1, 2, 3, 4]);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial.clone());
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        (params.not_before, params.not_after) = ((now() - HOUR).into(), (now() + HOUR).into());
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        (serial, Issued { certificate, key: key.serialize_pem() })
    }

    /// The list of revoked certificates with these numbers, PEM.
    pub fn revoke(&self, serials: &[SerialNumber]) -> String {
        self.list(1, serials)
    }

    /// The same list as the one with this number.
    pub fn list(&self, number: u64, serials: &[SerialNumber]) -> String {
        let revoked = |serial: &SerialNumber| RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: now().into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now() - HOUR).into(),
            next_update: (now() + HOUR).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// What handshakes of the workload `id` need for the next hour. It trusts this authority.
    pub fn context(&self, id: &str) -> Arc<TlsContext> {
        self.context_from(id, now() - HOUR, now() + HOUR)
    }

    /// The same with a certificate that is valid from `begin` until `end`, and was taken when it
    /// had just begun to be.
    pub fn context_from(&self, id: &str, begin: SystemTime, end: SystemTime) -> Arc<TlsContext> {
        let issued = self.issue(&[id], begin, end);
        self.context_of(&issued, id, (&self.root, None), begin + Duration::from_secs(1))
    }

    /// The same with the certificate `issued`, for a workload that trusts `roots` and has a list of
    /// `revoked` certificates, PEM. It was taken at `taken`.
    pub fn context_of(
        &self,
        issued: &Issued,
        id: &str,
        (roots, revoked): (&str, Option<&str>),
        taken: SystemTime,
    ) -> Arc<TlsContext> {
        let crypto = crypto::system();
        let file = |text| PemFile { path: Path::new("test.pem"), text };
        let algorithms = crypto.signature_verification_algorithms;
        let trust = TrustBundle::of_pem(&file(roots), revoked.map(file).as_ref(), algorithms).unwrap();
        let chain =
            pem::certificates(&file(&issued.certificate)).unwrap().into_iter().map(|(_, c)| c).collect();
        let (_, key) = pem::private_key(&file(&issued.key)).unwrap();
        let own: SpiffeId = id.parse().unwrap();
        let credentials = Credentials::new(chain, key, Arc::new(trust), &own, &crypto, taken).unwrap();
        TlsContext::new(credentials, crypto, Arc::new(SystemWall))
    }

    /// The certificate that the workload `id` has.
    pub fn store(&self, id: &str) -> Arc<TlsStore> {
        let store = Arc::new(TlsStore::default());
        store.replace(self.context(id));
        store
    }
}
