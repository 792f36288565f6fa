//! Everything that handshakes with one set of credentials share. A rotation makes a new context,
//! and with it new memories of sessions: a session that began under an old certificate or an old
//! bundle is never resumed under a new one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::CryptoProvider;
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Alpn;
use super::credentials::Credentials;
use super::pem::{self, PemFile};
use super::trust::{TrustBundle, is_authority, unix_time};
use super::verifier::Verifier;
use crate::config::defaults::{CLIENT_SESSIONS, SERVER_SESSIONS};
use crate::spiffe_id::SpiffeId;
use crate::world::Wall;

/// HTTP/1's own name (RFC 7301).
const HTTP1: &[u8] = b"http/1.1";

/// What handshakes need.
pub struct TlsContext {
    /// Whose they are.
    pub credentials: Credentials,
    pub(super) server: Arc<ServerConfig>,
    /// Made when they are first needed: whom it expects, and what is to be spoken.
    clients: Mutex<BTreeMap<(SpiffeId, Alpn), Arc<ClientConfig>>>,
    provider: Arc<CryptoProvider>,
    time: Arc<Time>,
}

impl TlsContext {
    /// The context of `credentials`.
    pub fn new(credentials: Credentials, provider: Arc<CryptoProvider>, wall: Arc<dyn Wall>) -> Arc<Self> {
        let alpn = Alpn::ALL.map(|alpn| alpn.name().to_vec());
        TlsContext::serving(credentials, provider, wall, true, alpn.into())
    }

    /// The context of the certificate authority: its clients may have no certificate yet, and speak
    /// HTTP/1.
    pub fn of_authority(
        credentials: Credentials,
        provider: Arc<CryptoProvider>,
        wall: Arc<dyn Wall>,
    ) -> Arc<Self> {
        TlsContext::serving(credentials, provider, wall, false, vec![HTTP1.to_vec()])
    }

    fn serving(
        credentials: Credentials,
        provider: Arc<CryptoProvider>,
        wall: Arc<dyn Wall>,
        clients_prove_themselves: bool,
        alpn_protocols: Vec<Vec<u8>>,
    ) -> Arc<Self> {
        let time = Arc::new(Time(wall));
        let verifier = Verifier { clients_prove_themselves, ..verifier(&credentials, None) };
        let mut server = ServerConfig::builder_with_details(provider.clone(), time.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(resolver(&credentials));
        server.alpn_protocols = alpn_protocols;
        server.session_storage = ServerSessionMemoryCache::new(SERVER_SESSIONS);
        server.send_tls13_tickets = 1;
        Arc::new(TlsContext { credentials, server: server.into(), clients: Mutex::default(), provider, time })
    }

    /// The time of day, as handshakes take it.
    pub(super) fn now(&self) -> SystemTime {
        self.time.0.now()
    }

    /// What a handshake with the server `expected`, to speak `alpn`, needs.
    pub(super) fn client(&self, expected: &SpiffeId, alpn: Alpn) -> Arc<ClientConfig> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client =
            clients.entry((expected.clone(), alpn)).or_insert_with(|| self.new_client(expected, alpn));
        if self.now() <= self.credentials.not_after {
            return client.clone();
        }
        // A server can refuse a resumed session only by closing. A full handshake says why.
        let mut client = ClientConfig::clone(client);
        client.resumption = Resumption::disabled();
        client.into()
    }

    fn new_client(&self, expected: &SpiffeId, alpn: Alpn) -> Arc<ClientConfig> {
        let verifier = verifier(&self.credentials, Some(expected));
        let client = client(self.provider.clone(), self.time.clone(), verifier);
        let mut client = client.with_client_cert_resolver(resolver(&self.credentials));
        client.alpn_protocols = vec![alpn.name().to_vec()];
        // A workload has no name of a host.
        client.enable_sni = false;
        client.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
        Arc::new(client)
    }
}

impl fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContext").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// What a handshake with the authority `expected` needs: of a client that trusts `trust`, and shows
/// `own` if it has a certificate.
pub(super) fn client_of_authority(
    trust: Arc<TrustBundle>,
    own: Option<&Credentials>,
    expected: &SpiffeId,
    provider: Arc<CryptoProvider>,
    wall: Arc<dyn Wall>,
) -> ClientConfig {
    let verifier = Verifier {
        trust,
        trust_domain: expected.trust_domain().to_owned(),
        expected: Some(expected.clone()),
        clients_prove_themselves: false,
    };
    let client = client(provider, Arc::new(Time(wall)), verifier);
    let mut client = match own {
        Some(credentials) => client.with_client_cert_resolver(resolver(credentials)),
        None => client.with_no_client_auth(),
    };
    client.alpn_protocols = vec![HTTP1.to_vec()];
    client.enable_sni = false;
    // It is asked rarely, and every time it is judged anew.
    client.resumption = Resumption::disabled();
    client
}

/// What a handshake with a server outside of the mesh needs that one of `roots` has certified. A
/// root that cannot be used is passed over, as long as there are others: bundles of systems have
/// some.
///
/// # Errors
/// In words: `roots` cannot be read, or has no root.
pub(super) fn client_of_web(
    roots: &PemFile<'_>,
    provider: Arc<CryptoProvider>,
    wall: Arc<dyn Wall>,
) -> Result<ClientConfig, String> {
    let certificates = pem::certificates(roots).map_err(|error| error.to_string())?;
    let mut store = RootCertStore::empty();
    let certificates = certificates.into_iter().map(|(_, certificate)| certificate);
    store.add_parsable_certificates(certificates.filter(may_be_root));
    if store.is_empty() {
        return Err(format!("{}: there is no root in it", roots.path.display()));
    }
    let mut client = ClientConfig::builder_with_details(provider, Arc::new(Time(wall)))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_root_certificates(store)
        .with_no_client_auth();
    client.alpn_protocols = vec![HTTP1.to_vec()];
    // Fetches are rare.
    client.resumption = Resumption::disabled();
    Ok(client)
}

/// Whether a certificate may be a root of the web: an authority's, or a server's that it has signed
/// itself. Another's never leads to a server, but whoever has its key could be every server.
fn may_be_root(certificate: &CertificateDer<'_>) -> bool {
    let is_own = |(_, parsed): (_, X509Certificate<'_>)| parsed.subject() == parsed.issuer();
    is_authority(certificate) || X509Certificate::from_der(certificate).is_ok_and(is_own)
}

fn client(
    provider: Arc<CryptoProvider>,
    time: Arc<Time>,
    verifier: Verifier,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
}

fn resolver(credentials: &Credentials) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(credentials.key.clone()))
}

fn verifier(credentials: &Credentials, expected: Option<&SpiffeId>) -> Verifier {
    Verifier {
        trust: credentials.trust.clone(),
        trust_domain: credentials.id.trust_domain().to_owned(),
        expected: expected.cloned(),
        clients_prove_themselves: true,
    }
}

/// The wall clock of the world, for rustls.
#[derive(Clone)]
struct Time(Arc<dyn Wall>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::world::{SystemWall, crypto};

    #[test]
    fn the_certificate_of_another_server_is_no_root_of_the_web() {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let named = |name: &str| {
            let mut params = CertificateParams::new([name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut ca = named("ca");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap().pem();
        let of_itself = named("server").self_signed(&key).unwrap().pem();
        let of_the_ca = named("server").signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().pem();
        for (text, is_taken) in [(root, true), (of_itself, true), (of_the_ca, false)] {
            let roots = PemFile { path: Path::new("roots.pem"), text: &text };
            let client = client_of_web(&roots, crypto::system(), Arc::new(SystemWall));
            assert_eq!(client.is_ok(), is_taken, "{:?}", client.err());
        }
    }
}
