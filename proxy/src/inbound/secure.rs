//! How an inbound connection begins: with the handshake of a sidecar, which proves who it is, or
//! with whatever a client outside the mesh says.
//!
//! The mode of the port decides. `strict` takes nothing but the mesh's own handshake. `permissive`
//! takes both; an app's own TLS, which does not offer the mesh's protocols, passes through.
//! `disabled` does not look.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout};

use super::{Inbound, authorize, tcp};
use crate::balance::Table;
use crate::config::{Protocol, TlsMode};
use crate::connection::{Connection, WireProtocol};
use crate::detect::{Detected, Detection, Prefixed, Reader, Sniffed};
use crate::drain;
use crate::error::HandshakeError;
use crate::http::version;
use crate::mutant::Mutant;
use crate::side::{Begun, Heard, OpaqueBegun, begun};
use crate::tls::{self, Alpn, Io, Peer, Preface, TlsStore};
use crate::world::{Net, Transport};

/// What an inbound connection turned out to be, and who is on its other end if that was proved.
pub(super) type Secured<N> = (Begun<Io<N>, tcp::Held>, Option<Arc<Peer>>);

/// Finds out what a client of `dst`, whose connection `began` then, is and speaks. `None`: it is
/// gone, or was refused.
pub(super) async fn begin<N: Net>(
    inbound: &Inbound<N>,
    table: &Table,
    (peer, dst, began): (SocketAddr, SocketAddr, (Instant, SystemTime)),
    io: Io<N>,
    drain: drain::Watch,
) -> Option<Secured<N>> {
    let (side, snapshot) = (&inbound.side, &table.snapshot);
    let (mode, protocol) = (snapshot.inbound_tls(dst.port()), snapshot.inbound_protocol(dst.port()));
    let timeouts = &snapshot.timeouts;
    // Only who has proved nothing waits for the server to speak first.
    let unknown = Connection::unauthenticated(peer, dst, WireProtocol::Opaque);
    let dial = async || match authorize::may_be_opaque(table, &unknown) {
        true => tcp::dial(inbound, snapshot, dst).await,
        false => None,
    };
    let Some(store) = side.tls.clone().filter(|_| mode != TlsMode::Disabled) else {
        return side.begin(protocol, dst, io, timeouts, drain, dial).await.map(|begun| (begun, None));
    };
    let heard: Heard<Io<N>, tcp::Held> = match (mode, protocol) {
        (TlsMode::Strict, _) => (Reader::of_tls(io).detect(snapshot.tls.handshake).await.ok()?, None),
        (_, Protocol::Http) => {
            (version::first_bytes(io, timeouts.request_headers, drain.clone()).await?, None)
        }
        (_, Protocol::Tcp) => Box::pin(side.detect(dst, Reader::of_tls(io), timeouts.detect, dial)).await?,
        (_, Protocol::Detect) => Box::pin(side.detect(dst, Reader::new(io), timeouts.detect, dial)).await?,
    };
    let (found, fresh) = heard;
    if found.hello.as_ref().is_some_and(tls::is_of_the_mesh) {
        drop(fresh);
        let handshake = side.metrics.handshakes.begin();
        let gives_way = inbound.handshakes.borrow_mut().take_for(peer.ip(), snapshot.tls.handshakes);
        let secured = tokio::select! {
            biased;
            _ = gives_way => Err("it gave way: too many handshakes are under way (tls.handshakes)"),
            secured = timeout(snapshot.tls.handshake, secure::<N>(&store, found.client)) =>
                secured.map_err(|_| "the handshake took too long"),
        };
        let ended = |why: &'static str| Err(HandshakeError(why.into()).into());
        return match secured.unwrap_or_else(ended) {
            Ok((io, proved, alpn)) => {
                handshake.succeeded();
                let begun = agreed(io, alpn, protocol, timeouts.request_headers, drain).await?;
                Some((begun, Some(proved)))
            }
            Err(cause) => {
                drop(handshake);
                inbound.refuse_unproved(&unknown, began, &cause).await;
                None
            }
        };
    }
    if found.outcome == Detection::Closed {
        return None;
    }
    if mode == TlsMode::Strict && !Mutant::TakesPlaintext.is_planted() {
        let Detected { mut client, hello, .. } = found;
        client.abort();
        let cause = match found.outcome {
            Detection::Timeout => "no whole ClientHello within the time for a handshake (tls.handshake)",
            Detection::Sniffed(Sniffed::Tls) if hello.is_none() => {
                "its ClientHello came to no end within the time for a handshake (tls.handshake), or is malformed"
            }
            _ => "the port takes nothing but the mesh's TLS (tls = \"strict\")",
        };
        inbound.refuse_unproved(&unknown, began, &cause).await;
        return None;
    }
    let begun = match protocol {
        Protocol::Http => {
            let is_http2 = found.outcome == Detection::Sniffed(Sniffed::Http2);
            Begun::Http { is_http2, client: found.client }
        }
        Protocol::Tcp => {
            let server_first = found.outcome == Detection::ServerFirst;
            Begun::Opaque(Box::new(OpaqueBegun { client: found.client, fresh, server_first }))
        }
        Protocol::Detect => begun(found, fresh)?,
    };
    Some((begun, None))
}

/// Answers the handshake, up to what is agreed on there.
async fn secure<N: Net>(
    store: &TlsStore,
    client: Prefixed<Io<N>>,
) -> std::io::Result<(Io<N>, Arc<Peer>, Alpn)> {
    let Ok(client) = client.map(Io::<N>::into_plain) else {
        return Err(HandshakeError("TLS inside TLS".into()).into());
    };
    let (mut io, peer, alpn) = tls::accept(store, client).await?;
    if alpn == Alpn::Opaque {
        Preface::read(&mut io).await?;
    }
    Ok((io, peer, alpn))
}

/// Begins with what was agreed on, unless the port is declared: what a sidecar calls opaque on one
/// that speaks HTTP is taken for HTTP, or its bytes would pass by all that is asked of requests
/// here; and what it calls HTTP on one that does not is carried as it is, or a caller could choose
/// what is asked of it. `None`: it said nothing within `limit`, or is gone.
async fn agreed<I: AsyncRead + Unpin, G>(
    io: I,
    alpn: Alpn,
    protocol: Protocol,
    limit: Duration,
    drain: drain::Watch,
) -> Option<Begun<I, G>> {
    let (is_http2, client) = match (alpn, protocol) {
        (Alpn::Http1 | Alpn::Http2, Protocol::Tcp) | (Alpn::Opaque, Protocol::Tcp | Protocol::Detect) => {
            return Some(Begun::Opaque(Box::new(OpaqueBegun::unread(io))));
        }
        // Whoever has agreed on it and never begins would hold the connection for very long.
        (Alpn::Http2, _) => (true, version::first_bytes(io, limit, drain).await?.client),
        (Alpn::Http1, _) => (false, Prefixed::unread(io)),
        (Alpn::Opaque, Protocol::Http) => version::is_http2(io, limit, drain).await?,
    };
    Some(Begun::Http { is_http2, client })
}
