//! Who is on the other end of a connection, for as long as the connection lives.
//!
//! A handshake proves who the peer is under the bundle of that moment. A later bundle may lack its
//! root, or name its certificate as revoked. Then connections that are open have to end too, or
//! what was stolen would be worth as much as a connection is old. So [`Peers`] remembers everybody
//! who is connected, once for each certificate, and judges them anew whenever the bundle changes
//! (invariant: who is trusted here is trusted by the bundle in force).
//!
//! An expired certificate is no reason to end a connection: it was valid when it was shown, and
//! the maximum age of connections bounds how long that counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use rustls::{CertificateError, Error};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::Instant;

use super::context::TlsContext;
use super::credentials::{Validity, validity};
use super::trust::{PeerSide, unix_time};
use crate::drain;
use crate::spiffe_id::SpiffeId;

/// What a peer is found by: its side, and SHA-256 of its certificate.
pub(super) type PeerKey = (PeerSide, [u8; 32]);

/// The owner of a certificate, on the other end of one connection or more.
#[derive(Debug)]
pub struct Peer {
    /// The workload.
    pub identity: SpiffeId,
    /// SHA-256 of its certificate in DER.
    pub fingerprint: [u8; 32],
    /// Its certificate, and those that lead to its root.
    chain: Vec<CertificateDer<'static>>,
    /// When its certificate is valid; never, if that cannot be read.
    pub(super) valid: Validity,
    side: PeerSide,
    /// When it proved that. It was valid then.
    proved_at: UnixTime,
    /// Begins when it is not trusted any more.
    end: drain::Signal,
    distrusted_at: OnceLock<Instant>,
    revoked: AtomicBool,
}

impl Peer {
    /// One that has just shown `chain` to this workload, under `context`.
    pub(super) fn new(
        identity: SpiffeId,
        chain: &[CertificateDer<'_>],
        (side, fingerprint): PeerKey,
        context: &TlsContext,
    ) -> Self {
        let never = Validity { not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::UNIX_EPOCH };
        let valid = chain.first().and_then(|certificate| validity(certificate).ok()).unwrap_or(never);
        Peer {
            identity,
            fingerprint,
            valid,
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            side,
            proved_at: unix_time(context.now()),
            end: drain::channel().0,
            distrusted_at: OnceLock::new(),
            revoked: AtomicBool::new(false),
        }
    }

    /// Whether it may be talked to.
    pub fn is_trusted(&self) -> bool {
        !self.end.has_begun()
    }

    /// When it stopped being trusted.
    pub fn distrusted_at(&self) -> Option<Instant> {
        self.distrusted_at.get().copied()
    }

    /// Whether its certificate was revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Learns when its connections have to end, as in a drain: when it is not trusted any more.
    pub fn ending(&self) -> drain::Watch {
        self.end.source().watch()
    }

    /// Asks the bundle of `context`, which is in force. Says whether it has changed its mind.
    fn judge(&self, context: &TlsContext) -> bool {
        let credentials = &context.credentials;
        let [certificate, intermediates @ ..] = &self.chain[..] else { return false };
        let domain = credentials.id.trust_domain();
        let judged = credentials.trust.verify(certificate, intermediates, self.side, domain, self.proved_at);
        let Err(error) = judged else { return false };
        let revoked = matches!(error, Error::InvalidCertificate(CertificateError::Revoked));
        let newly_revoked = revoked && !self.revoked.swap(true, Ordering::Relaxed);
        let newly_distrusted = self.distrusted_at.set(Instant::now()).is_ok();
        self.end.begin();
        if newly_revoked || newly_distrusted {
            tracing::info!(peer = %self.identity, %error, "a connected peer is not trusted any more");
        }
        newly_revoked || newly_distrusted
    }
}

/// Everybody who is connected, once for each certificate and side.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_certificate: BTreeMap<PeerKey, Weak<Peer>>,
    /// How many there may be until those that are gone are forgotten.
    room: usize,
}

/// Peers that are remembered, gone or not.
const ROOM: usize = 64;

impl Peers {
    /// Notes a peer who has proved itself under `proved_under`; it is made `anew` unless it is
    /// known. If another context is in force by now, it is judged by that: a change never misses
    /// anybody.
    pub(super) fn meet(
        &self,
        key: PeerKey,
        anew: impl FnOnce() -> Peer,
        proved_under: &TlsContext,
        in_force: impl FnOnce() -> Option<Arc<TlsContext>>,
    ) -> Arc<Peer> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let met = known.by_certificate.get(&key).and_then(Weak::upgrade);
        // One that has lost its trust and is believed again begins anew.
        if let Some(met) = met.filter(|met| met.is_trusted()) {
            return met;
        }
        let peer = Arc::new(anew());
        if let Some(context) = in_force().filter(|context| !std::ptr::eq(&**context, proved_under)) {
            peer.judge(&context);
        }
        if known.by_certificate.len() >= known.room.max(ROOM) {
            known.by_certificate.retain(|_, peer| peer.strong_count() > 0);
            known.room = known.by_certificate.len() * 2;
        }
        known.by_certificate.insert(key, Arc::downgrade(&peer));
        peer
    }

    /// Judges everybody by `context`, which is in force now. Says whether somebody has lost trust.
    pub(super) fn judge(&self, context: &TlsContext) -> bool {
        let all: Vec<Arc<Peer>> = {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.by_certificate.values().filter_map(Weak::upgrade).collect()
        };
        // Without the lock, which handshakes take: a judgement takes a tenth of a millisecond.
        all.iter().fold(false, |lost, peer| peer.judge(context) | lost)
    }
}
