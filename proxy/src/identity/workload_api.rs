//! Certificates from an agent of this machine over the SPIFFE Workload API (SPIRE's, say), which
//! knows by itself who asks. Keys are made by the agent, and are nowhere but in memory.
//!
//! One stream is kept open, on which the agent pushes the certificate, its key, roots and
//! revocations whenever one of them changes. If the stream ends, or what it brings is of no use,
//! the agent is asked anew after a growing wait: it begins each stream with what it has. Whatever
//! happens, the old certificate stays in force while it is valid.
//!
//! The protocol is two messages of gRPC, read by hand; the crate `spiffe` would bring two dozen
//! crates (tonic, tower, prost and more) and dial past [`crate::world`]. What it leaves out: JWTs,
//! and bundles of other trust domains.

use std::fmt::Write;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{put_in_force, refuse};
use crate::backoff::Backoff;
use crate::config::AgentSocket;
use crate::config::defaults::{AGENT_BACKOFF, AGENT_MESSAGE, AGENT_TIMEOUT};
use crate::grpc::message::{self, FRAME, Value, fields};
use crate::grpc::{CONTENT_TYPE as GRPC, MESSAGE, STATUS};
use crate::http::fetch::beside;
use crate::spiffe_id::SpiffeId;
use crate::telemetry::Metrics;
use crate::tls::trust::TrustBundle;
use crate::tls::{Credentials, TlsStore};
use crate::world::{Exec, Net, World};

/// The environment's name for the socket (SPIFFE Workload Endpoint, section 4).
const SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";
/// The one method that is called.
const METHOD: &str = "http://localhost/SpiffeWorkloadAPI/FetchX509SVID";
/// Every call has it, so that nobody can be made to call by mistake (the same, section 3).
const CALLER: (&str, &str) = ("workload.spiffe.io", "true");

/// Keeps the certificate of `id` in `store` as the agent at `socket` says, for ever.
pub(super) async fn run<N: Net>(
    world: World<N>,
    id: SpiffeId,
    socket: Option<AgentSocket>,
    store: Arc<TlsStore>,
    metrics: Arc<Metrics>,
) {
    let socket = match socket.map_or_else(of_environment, Ok) {
        Ok(socket) => socket,
        Err(why) => {
            refuse(why, &store, &metrics);
            return std::future::pending().await;
        }
    };
    let mut rng = world.rng.child("workload api", 0).rng();
    let mut backoff = Backoff::new(AGENT_BACKOFF);
    let mut workload = Workload { world, id, store, metrics, taken: None };
    loop {
        let why = workload.connect(&socket, &mut backoff).await;
        refuse(format!("{socket}: {why}"), &workload.store, &workload.metrics);
        sleep(backoff.next(&mut rng)).await;
    }
}

/// The socket that the environment names.
fn of_environment() -> Result<AgentSocket, String> {
    let named = std::env::var(SOCKET)
        .map_err(|_| format!("nothing says where the agent is: neither `socket` nor {SOCKET}"))?;
    named.parse().map_err(|why| format!("{SOCKET} is no socket: {why} (`{named}`)"))
}

/// The workload whose certificates the agent has.
struct Workload<N> {
    world: World<N>,
    id: SpiffeId,
    store: Arc<TlsStore>,
    metrics: Arc<Metrics>,
    /// SHA-256 of the message that is in force: an agent that is asked anew says the same again.
    taken: Option<[u8; 32]>,
}

impl<N: Net> Workload<N> {
    /// Follows what the agent says until that ends, and says why.
    async fn connect(&mut self, socket: &AgentSocket, backoff: &mut Backoff) -> String {
        let opened = match socket {
            AgentSocket::Unix(path) => match self.world.net.connect_unix(path).await {
                Ok(io) => Ok(self.follow(io, backoff).await),
                Err(error) => Err(error),
            },
            AgentSocket::Tcp(address) => {
                match timeout(AGENT_TIMEOUT, self.world.net.connect(*address, None)).await {
                    Ok(Ok(io)) => Ok(self.follow(io, backoff).await),
                    Ok(Err(error)) => Err(error),
                    Err(late) => Err(late.into()),
                }
            }
        };
        opened.unwrap_or_else(|error| format!("cannot connect: {error}"))
    }

    async fn follow<I>(&mut self, io: I, backoff: &mut Backoff) -> String
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let builder = http2::Builder::new(Exec(self.world.net.clone())).timer(TokioTimer::new()).to_owned();
        let (mut send, connection) = match builder.handshake(TokioIo::new(io)).await {
            Ok(opened) => opened,
            Err(error) => return words(&error),
        };
        let exchange = async {
            let asking = send.send_request(request());
            let response = timeout(AGENT_TIMEOUT, asking).await.map_err(|_| silent())?;
            let mut stream = Messages::of(response.map_err(|error| words(&error))?)?;
            let mut first = true;
            loop {
                let message = self.patiently(first, stream.next()).await??;
                first = false;
                self.take(&message)?;
                backoff.reset();
            }
        };
        let ended: Result<std::convert::Infallible, String> = beside(connection, exchange).await;
        match ended {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    /// Waits for a message: for the first one not long, and for the next one not longer than the
    /// certificate lives. An agent that hangs is asked anew then.
    async fn patiently<T>(&self, first: bool, message: impl Future<Output = T>) -> Result<T, String> {
        if first {
            return timeout(AGENT_TIMEOUT, message).await.map_err(|_| silent());
        }
        let end = self.store.current().map(|context| context.credentials.not_after);
        let left =
            end.and_then(|end| end.duration_since(self.world.wall.now()).ok()).unwrap_or(AGENT_TIMEOUT);
        timeout(left, message).await.map_err(|_| "the agent has not renewed the certificate in time".into())
    }

    /// Puts what a message brings in force.
    fn take(&mut self, message: &[u8]) -> Result<(), String> {
        let hash = digest(&SHA256, message).as_ref().try_into().expect("SHA-256 has 32 bytes");
        if self.taken == Some(hash) && self.store.unready().is_none() {
            return Ok(());
        }
        let credentials = credentials(message, &self.id, &self.world)
            .map_err(|why| format!("what the agent has sent is of no use: {why}"))?;
        put_in_force(&self.world, credentials, &self.store, &self.metrics);
        self.taken = Some(hash);
        Ok(())
    }
}

fn silent() -> String {
    crate::connect::no_answer_within(AGENT_TIMEOUT)
}

/// The call: an empty message.
fn request() -> Request<Full<Bytes>> {
    Request::post(METHOD)
        .header(CONTENT_TYPE, GRPC)
        .header(TE, "trailers")
        .header(USER_AGENT, "sidelab")
        .header(CALLER.0, CALLER.1)
        .body(Full::new(message::framed(&[])))
        .expect("the parts are fit for a request")
}

/// The messages of the agent as they come.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    /// Those of a response, unless it is a failure at once.
    fn of(response: Response<Incoming>) -> Result<Self, String> {
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(format!("the agent answers with status {}", head.status.as_u16()));
        }
        match head.headers.contains_key(STATUS) {
            true => Err(ended(&head.headers)),
            false => Ok(Messages { body, buffer: BytesMut::new() }),
        }
    }

    /// The next message.
    async fn next(&mut self) -> Result<Bytes, String> {
        loop {
            if let Some(frame) = self.buffer.first_chunk::<FRAME>() {
                let length = message::length(*frame, AGENT_MESSAGE)?;
                if self.buffer.len() >= FRAME + length {
                    self.buffer.advance(FRAME);
                    return Ok(self.buffer.split_to(length).freeze());
                }
            }
            match self.body.frame().await.transpose().map_err(|error| words(&error))? {
                None => return Err(ended(&HeaderMap::new())),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => return Err(ended(&frame.into_trailers().unwrap_or_default())),
                },
            }
        }
    }
}

/// How a stream has ended.
fn ended(trailers: &HeaderMap) -> String {
    let text = |name| trailers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    match (text(STATUS), text(MESSAGE)) {
        (None, _) => "the agent has ended the stream without a status".into(),
        (Some("0"), _) => "the agent has ended the stream".into(),
        // PERMISSION_DENIED: nobody has registered this workload.
        (Some("7"), why) => {
            format!("the agent has no identity for this workload: {}", why.unwrap_or("it does not say why"))
        }
        (Some(code), why) => {
            format!("the agent refuses (gRPC status {code}): {}", why.unwrap_or("it does not say why"))
        }
    }
}

/// An error with its causes.
fn words(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// `X509SVID` of the protocol, as far as it is of use here.
#[derive(Debug, Default, Clone, Copy)]
struct Svid<'a> {
    id: &'a [u8],
    /// The chain, one certificate after the other.
    chain: &'a [u8],
    key: &'a [u8],
    /// The roots, likewise.
    bundle: &'a [u8],
}

impl<'a> Svid<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        fields(message).try_fold(Svid::default(), |svid, field| {
            Some(match field? {
                (1, Value::Bytes(id)) => Svid { id, ..svid },
                (2, Value::Bytes(chain)) => Svid { chain, ..svid },
                (3, Value::Bytes(key)) => Svid { key, ..svid },
                (4, Value::Bytes(bundle)) => Svid { bundle, ..svid },
                _ => svid,
            })
        })
    }
}

/// The credentials of `id` in an `X509SVIDResponse`.
///
/// # Errors
/// If there are none, or they are of no use.
pub fn credentials<N>(message: &[u8], id: &SpiffeId, world: &World<N>) -> Result<Credentials, String> {
    let (mut svids, mut revoked) = (Vec::new(), Vec::new());
    for field in fields(message) {
        match field.ok_or("it is not a message of the protocol")? {
            (1, Value::Bytes(svid)) => {
                svids.push(Svid::read(svid).ok_or("a certificate's message is malformed")?)
            }
            (2, Value::Bytes(list)) => revoked.push(list),
            _ => {}
        }
    }
    let Some(own) = svids.iter().find(|svid| svid.id == id.as_str().as_bytes()) else {
        let mut others =
            svids.iter().map(|svid| String::from_utf8_lossy(svid.id)).take(4).collect::<Vec<_>>();
        others.sort();
        return Err(match others.is_empty() {
            true => "there is no certificate in it".into(),
            false => format!("there is none of {id} in it, but of {}", others.join(", ")),
        });
    };
    let algorithms = world.crypto.signature_verification_algorithms;
    let roots = certificates(own.bundle).map_err(|why| format!("the bundle: {why}"))?;
    let trust =
        TrustBundle::of_der(roots, revoked, algorithms).map_err(|why| format!("the bundle: {why}"))?;
    let trust = trust.without_expired(world.wall.now()).map_err(|why| format!("the bundle: {why}"))?;
    let chain = certificates(own.chain)?.into_iter().map(CertificateDer::into_owned).collect();
    let key = PrivatePkcs8KeyDer::from(own.key.to_vec()).into();
    Credentials::new(chain, key, Arc::new(trust), id, &world.crypto, world.wall.now())
        .map_err(|error| error.to_string())
}

/// Certificates in DER, one after the other.
fn certificates(mut bytes: &[u8]) -> Result<Vec<CertificateDer<'_>>, String> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = X509Certificate::from_der(bytes)
            .map_err(|error| format!("certificate {} cannot be read: {error}", found.len() + 1))?;
        found.push(CertificateDer::from(&bytes[..bytes.len() - rest.len()]));
        bytes = rest;
    }
    Ok(found)
}
