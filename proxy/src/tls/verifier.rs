//! How rustls asks whether a peer is who it says: both of its questions have one answer.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::trust::{IdentityError, PeerSide, TrustBundle};
use crate::mutant::Mutant;
use crate::spiffe_id::SpiffeId;

/// Judges the certificates of peers.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Arc<TrustBundle>,
    pub(super) trust_domain: String,
    /// Who a server must be.
    pub(super) expected: Option<SpiffeId>,
    /// Whether a client without a certificate is refused.
    pub(super) clients_prove_themselves: bool,
}

/// How signatures are judged: alike on both sides, of which each has a trait of its own.
macro_rules! judges_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.trust.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.trust.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.trust.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found =
            self.trust.verify(end_entity, intermediates, PeerSide::Server, &self.trust_domain, now)?;
        match &self.expected {
            Some(expected) if *expected != found && !Mutant::TalksToAnybody.is_planted() => {
                Err(IdentityError::Unexpected { found, expected: expected.clone() }.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    judges_signatures!();
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.clients_prove_themselves
    }

    /// None: a workload has one certificate, and need not choose.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust
            .verify(end_entity, intermediates, PeerSide::Client, &self.trust_domain, now)
            .map(|_| ClientCertVerified::assertion())
    }

    judges_signatures!();
}
