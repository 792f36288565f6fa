//! Mutual TLS between sidecars.
//!
//! TLS 1.3 and nothing older, by rustls. Both sides show a certificate that names a workload
//! ([`SpiffeId`]), and judge the other's by their trust bundle ([`trust`]). A caller knows from its
//! registry whose an endpoint is, and talks to nobody else at that address. What is spoken inside
//! is agreed on in the handshake ([`Alpn`]), so nothing is guessed from its bytes; the names are
//! the mesh's own, so that an app's own TLS is told apart by its ClientHello and passes through.
//!
//! What it leaves out: where certificates come from, and when they are renewed
//! ([`crate::identity`]).

mod context;
mod credentials;
mod peer;
pub mod pem;
mod preface;
mod revoked;
mod session;
mod stream;
pub mod trust;
mod verified;
mod verifier;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::{AlertDescription, CommonState, Error};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

pub use context::TlsContext;
pub use credentials::{Credentials, CredentialsError, Validity};
pub use peer::Peer;
pub use preface::{Preface, PrefaceError};
pub use session::Session;
pub use stream::{Io, Stream, kernel_socket};

use peer::Peers;
use pem::PemFile;

use crate::detect::Prefixed;
use crate::detect::tls::ClientHello;
use crate::error::HandshakeError;
use crate::mutant::Mutant;
use crate::spiffe_id::SpiffeId;
use crate::telemetry::emit;
use crate::world::{World, seconds};

/// What is spoken inside a connection between sidecars, as it is agreed on in the handshake (ALPN,
/// RFC 7301). The names are the mesh's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alpn {
    /// HTTP/2.
    Http2,
    /// HTTP/1.
    Http1,
    /// A [`Preface`], and bytes that no sidecar looks into.
    Opaque,
}

impl Alpn {
    /// In the order in which a server prefers them.
    pub const ALL: [Alpn; 3] = [Alpn::Http2, Alpn::Http1, Alpn::Opaque];

    /// The name in the handshake.
    pub fn name(self) -> &'static [u8] {
        match self {
            Alpn::Http2 => b"sidelab-h2",
            Alpn::Http1 => b"sidelab-http/1.1",
            Alpn::Opaque => b"sidelab-tcp",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        Alpn::ALL.into_iter().find(|alpn| alpn.name() == name)
    }
}

/// Whether a ClientHello is that of a sidecar.
pub fn is_of_the_mesh(hello: &ClientHello) -> bool {
    hello.alpn.iter().any(|name| Alpn::of(name).is_some())
}

/// Whose certificate the handshake has verified. A resumed session has that of its first handshake,
/// so that it is judged again.
fn identity(state: &CommonState, context: &TlsContext, side: trust::PeerSide) -> io::Result<SpiffeId> {
    let chain = state.peer_certificates().unwrap_or_default();
    let [certificate, intermediates @ ..] = chain else {
        return Err(HandshakeError("the peer has shown no certificate".into()).into());
    };
    let credentials = &context.credentials;
    let identity = match is_resumed(state) && !Mutant::ResumesUnjudged.is_planted() {
        true => credentials.trust.verify(
            certificate,
            intermediates,
            side,
            credentials.id.trust_domain(),
            trust::unix_time(context.now()),
        ),
        false => trust::identity(certificate),
    };
    Ok(identity.map_err(|e| HandshakeError(credentials::words(&e)))?)
}

fn is_resumed(state: &CommonState) -> bool {
    state.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
}

/// SHA-256 of a certificate.
fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    digest(&SHA256, certificate).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The certificate that a workload has now. The control thread puts in new ones, and every
/// handshake takes the one that is there.
#[derive(Debug, Default)]
pub struct TlsStore {
    context: ArcSwapOption<TlsContext>,
    /// Why the last one that was offered was not taken.
    problem: ArcSwapOption<String>,
    peers: Peers,
    /// How often somebody has lost the trust that they had.
    judgements: watch::Sender<u64>,
}

impl TlsStore {
    /// What handshakes that begin now need; `None` before the first certificate.
    pub fn current(&self) -> Option<Arc<TlsContext>> {
        self.context.load_full()
    }

    /// The same for a handshake, which cannot do without.
    ///
    /// # Errors
    /// Before the first certificate.
    pub fn for_handshake(&self) -> Result<Arc<TlsContext>, HandshakeError> {
        self.current().ok_or_else(|| HandshakeError("this workload has no certificate".into()))
    }

    /// Puts a new one in force. Connections that are open stay as they are, except those to peers
    /// that its bundle does not accept: [`TlsStore::judgements`] hears of these.
    pub fn replace(&self, context: Arc<TlsContext>) {
        self.context.store(Some(context.clone()));
        self.problem.store(None);
        if self.peers.judge(&context) {
            self.judgements.send_modify(|judgements| *judgements += 1);
        }
    }

    /// Notices when somebody who is connected is not trusted any more, from now on.
    pub fn judgements(&self) -> watch::Receiver<u64> {
        self.judgements.subscribe()
    }

    /// Notes who has proved to be on the other end of a connection under `context`.
    fn meet(
        &self,
        identity: SpiffeId,
        state: &CommonState,
        side: trust::PeerSide,
        context: &TlsContext,
    ) -> Arc<Peer> {
        let chain = state.peer_certificates().unwrap_or_default();
        let key = (side, chain.first().map(fingerprint).unwrap_or_default());
        self.peers.meet(key, || Peer::new(identity, chain, key, context), context, || self.current())
    }

    /// For a mutant: gives up the one in force.
    pub(crate) fn clear(&self) {
        self.context.store(None);
    }

    /// Notes why a new one was not taken. What was in force stays.
    pub fn refused(&self, why: String) {
        self.problem.store(Some(Arc::new(why)));
    }

    /// Why this workload cannot prove who it is, if it cannot.
    pub fn unready(&self) -> Option<String> {
        let problem = || self.problem.load_full().map_or_else(String::new, |why| format!(": {why}"));
        match self.current() {
            None => Some(format!("there is no certificate yet{}", problem())),
            Some(context) if context.now() > context.credentials.not_after => {
                Some(format!("the certificate has expired{}", problem()))
            }
            Some(context) if !context.credentials.is_trusted(context.now()) => {
                Some(format!("the certificate is not accepted by its own bundle{}", problem()))
            }
            Some(_) => None,
        }
    }
}

/// Puts a connection to `address` that was just opened under TLS: with nobody but `expected`, to
/// speak `alpn`.
///
/// # Errors
/// If the handshake fails; the server is somebody else, say.
pub async fn connect<I: AsyncRead + AsyncWrite + Unpin>(
    store: &TlsStore,
    io: I,
    address: SocketAddr,
    expected: &SpiffeId,
    alpn: Alpn,
) -> io::Result<Stream<I>> {
    let context = store.for_handshake()?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = Session::connect(Prefixed::unread(io), context.client(expected, alpn), name);
    let stream = stream.await.map_err(|error| match tls_error(&error) {
        // Of servers that see that there is none in common; others go on without.
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => disagrees(alpn).into(),
        _ => in_words(error),
    })?;
    let state = stream.state();
    let found = identity(state, &context, trust::PeerSide::Server)?;
    if found != *expected && !Mutant::TalksToAnybody.is_planted() {
        let wrong = trust::IdentityError::Unexpected { found, expected: expected.clone() };
        return Err(HandshakeError(wrong.to_string()).into());
    }
    if state.alpn_protocol().and_then(Alpn::of) != Some(alpn) {
        return Err(disagrees(alpn).into());
    }
    let peer = store.meet(found, state, trust::PeerSide::Server, &context);
    emit!(ServerProved {
        address,
        identity: peer.identity,
        not_before: seconds(peer.valid.not_before),
        not_after: seconds(peer.valid.not_after),
        resumed: is_resumed(state)
    });
    Ok(Stream::secured(stream, Some(peer)))
}

/// What is said of a server that does not speak what it should.
fn disagrees(alpn: Alpn) -> HandshakeError {
    let what = String::from_utf8_lossy(alpn.name());
    let or = match alpn {
        Alpn::Http2 => "for which the cluster needs `bridge = false`",
        Alpn::Http1 | Alpn::Opaque => "that does not offer it",
    };
    HandshakeError(format!("the server does not agree to speak {what}: it is no sidecar, or one {or}"))
}

/// Answers the handshake of a sidecar, and says who it is and what is to be spoken.
///
/// # Errors
/// If the handshake fails; the client shows no certificate, say.
pub async fn accept<I: AsyncRead + AsyncWrite + Unpin>(
    store: &TlsStore,
    io: Prefixed<I>,
) -> io::Result<(Stream<I>, Arc<Peer>, Alpn)> {
    let context = store.for_handshake()?;
    let stream = Session::accept(io, context.server.clone()).await.map_err(in_words)?;
    let state = stream.state();
    let found = identity(state, &context, trust::PeerSide::Client)?;
    let alpn = state.alpn_protocol().and_then(Alpn::of);
    let alpn = alpn.ok_or_else(|| HandshakeError("the client is no sidecar".into()))?;
    let peer = store.meet(found, state, trust::PeerSide::Client, &context);
    emit!(ClientProved {
        identity: peer.identity,
        not_before: seconds(peer.valid.not_before),
        not_after: seconds(peer.valid.not_after),
        resumed: is_resumed(state)
    });
    Ok((Stream::secured(stream, Some(peer.clone())), peer, alpn))
}

/// Puts a connection to the certificate authority `expected` under TLS. Its roots are in `trust`;
/// `own` is shown, if there is one yet.
///
/// # Errors
/// If the handshake fails; the server is somebody else, say.
pub async fn connect_to_authority<N>(
    world: &World<N>,
    io: impl AsyncRead + AsyncWrite + Unpin,
    (address, expected): (SocketAddr, &SpiffeId),
    trust: Arc<trust::TrustBundle>,
    own: Option<&Credentials>,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin> {
    let client = context::client_of_authority(trust, own, expected, world.crypto.clone(), world.wall.clone());
    let name = ServerName::IpAddress(address.ip().into());
    Session::connect(io, Arc::new(client), name).await.map_err(in_words)
}

/// Puts a connection to a server outside of the mesh under TLS, as anybody on the web does: one of
/// `roots` must have certified that it has the name or address `host`.
///
/// # Errors
/// In words: `roots` cannot be read, or the handshake fails.
pub async fn connect_to_named<N>(
    world: &World<N>,
    io: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    roots: &PemFile<'_>,
) -> Result<impl AsyncRead + AsyncWrite + Unpin, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
    let client = context::client_of_web(roots, world.crypto.clone(), world.wall.clone())?;
    Session::connect(io, Arc::new(client), name).await.map_err(|error| in_words(error).to_string())
}

/// A certificate that a client has shown and that was believed.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Whose it is.
    pub id: SpiffeId,
    /// How long it is valid.
    pub validity: Validity,
    /// Its serial number.
    pub serial: Vec<u8>,
}

/// Answers the handshake of a client that may have no certificate yet, and says which it has if it
/// has one.
///
/// # Errors
/// If the handshake fails; the client's certificate is wrong, say.
pub async fn accept_anybody<I: AsyncRead + AsyncWrite + Unpin>(
    context: &TlsContext,
    io: I,
) -> io::Result<(Stream<I>, Option<Shown>)> {
    let stream = Session::accept(Prefixed::unread(io), context.server.clone()).await.map_err(in_words)?;
    let state = stream.state();
    let peer = match state.peer_certificates() {
        Some([certificate, ..]) => {
            let id = identity(state, context, trust::PeerSide::Client)?;
            let validity = credentials::validity(certificate);
            let validity = validity.map_err(|error| HandshakeError(error.to_string()))?;
            let serial = trust::serial(certificate).map_err(|e| HandshakeError(credentials::words(&e)))?;
            Some(Shown { id, validity, serial })
        }
        _ => None,
    };
    Ok((Stream::secured(stream, None), peer))
}

/// Whether a connection ended because the server has refused the handshake of this workload. Over
/// TLS 1.3 the client has sent by then what it had to say; the server has read none of it.
pub fn was_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inside.and_then(|inside| inside.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::AlertReceived(_))) {
            return true;
        }
        next = error.source();
    }
    false
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// The error of a handshake with the words of what was refused.
fn in_words(error: io::Error) -> io::Error {
    match tls_error(&error) {
        Some(tls) => HandshakeError(credentials::words(tls)).into(),
        None => HandshakeError(error.to_string()).into(),
    }
}
