//! Tunnels: what a connection carries once HTTP is over on it, after `101 Switching Protocols` (RFC
//! 9110 section 7.8, WebSocket is RFC 6455) or a 2xx to CONNECT (section 9.3.6).
//!
//! [`UpgradeRequest`] takes hyper's promise of the client's stream out of a request before it is
//! sent on. If the endpoint agrees, [`UpgradeRequest::answer`] leaves the tunnel in the
//! connection's [`TunnelSlot`]. On HTTP/1 the connection's own task runs it when hyper is done: so
//! a tunnel needs no task of its own, counts as an open connection and holds a drain. hyper keeps
//! the bytes that either side sent too early. Tunnels of HTTP/1 stay on HTTP/1 and are never
//! bridged (linkerd2#195, linkerd2#1126).
//!
//! On HTTP/2 a CONNECT makes a tunnel of its stream (RFC 9113 section 8.5), which gets a task, and
//! goes on over HTTP/2. The connection cannot end before its streams, so it holds a drain too.
//!
//! A request that asks for a tunnel is the last of its connection even if it gets none: what
//! follows it was not read by [`super::strict`], because it may have been meant for the tunnel. An
//! offer that any server may ignore (`h2c`) is ignored, and nothing changes.
//!
//! What it leaves out: an `Upgrade` in a request with a body, or without `Connection: upgrade`,
//! which is not passed on; and WebSocket over HTTP/2 (extended CONNECT, RFC 8441), which no server
//! here offers, so that no client may ask for it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::closing::ClientEnd;
use super::{headers, strict};
use crate::error::{Error, Kind};
use crate::tcp::{BytesCopied, CopyError, CopyTimeouts, both_ways};
use crate::telemetry::{ClusterMetrics, Open};
use crate::world::Net;

/// Where a tunnel goes on. One for each connection of a client; cheap to clone.
#[derive(Clone)]
pub enum TunnelSlot {
    /// HTTP/1: here it waits for HTTP to end.
    Connection(Rc<RefCell<Option<Tunnel>>>, ClientEnd),
    /// HTTP/2: this gives it a task.
    Stream(Rc<dyn Fn(Tunnel)>),
}

/// Carries a tunnel to its end.
pub type Tunnel = Pin<Box<dyn Future<Output = ()>>>;

impl TunnelSlot {
    /// For a connection of HTTP/1, whose stream is told of the tunnel's end.
    pub fn connection(end: ClientEnd) -> Self {
        TunnelSlot::Connection(Rc::default(), end)
    }

    /// For the streams of a connection of HTTP/2.
    pub fn stream<N: Net>(net: N) -> Self {
        TunnelSlot::Stream(Rc::new(move |tunnel| net.spawn("tunnel", tunnel)))
    }

    fn put(&self, tunnel: Tunnel) {
        match self {
            TunnelSlot::Connection(place, _) => *place.borrow_mut() = Some(tunnel),
            TunnelSlot::Stream(spawn) => spawn(tunnel),
        }
    }

    fn end(&self) -> Option<ClientEnd> {
        match self {
            TunnelSlot::Connection(_, end) => Some(end.clone()),
            TunnelSlot::Stream(_) => None,
        }
    }

    /// Carries the tunnel that waited for the connection to its end, if there is one.
    pub async fn run(self) {
        let TunnelSlot::Connection(place, _) = self else { return };
        let tunnel = place.borrow_mut().take();
        if let Some(tunnel) = tunnel {
            tunnel.await;
        }
    }
}

/// Whether a request asks for a tunnel that can be carried. Of a list of protocols the app would
/// choose, perhaps one that carries requests past the sidecar, so none is asked for.
pub fn is_asked<B: Body>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT
        || request.headers().contains_key(UPGRADE)
            && request.version() == Version::HTTP_11
            && request.body().is_end_stream()
            && headers::lists(request.headers(), CONNECTION, "upgrade")
            && is_for_one(request.headers())
}

fn is_for_one(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(UPGRADE).iter();
    lines.next().is_some_and(|line| strict::is_for_a_tunnel(line.as_bytes())) && lines.next().is_none()
}

/// Whether a request makes offers to upgrade that are ignored.
pub fn is_only_offered<B>(request: &Request<B>) -> bool {
    // hyper's promise is there if there is anything to look at, and nearly never is.
    request.extensions().get::<OnUpgrade>().is_some()
        && request.method() != Method::CONNECT
        && only_offers(request)
}

fn only_offers<B>(request: &Request<B>) -> bool {
    request.headers().get_all(UPGRADE).iter().all(|value| strict::is_offer(value.as_bytes()))
}

/// What a request says about tunnels.
pub struct UpgradeRequest {
    connect: bool,
    is_http2: bool,
    client: Option<OnUpgrade>,
    /// Whether no request may follow it.
    last: bool,
}

impl UpgradeRequest {
    /// Reads it from the request of a client.
    pub fn of(request: &mut Request<Incoming>) -> UpgradeRequest {
        let connect = request.method() == Method::CONNECT;
        let is_http2 = request.version() == Version::HTTP_2;
        if !connect && !request.headers().contains_key(UPGRADE) {
            return UpgradeRequest { connect, is_http2, client: None, last: false };
        }
        let asked = is_asked(request);
        let client = hyper::upgrade::on(&mut *request);
        UpgradeRequest {
            connect,
            is_http2,
            client: asked.then_some(client),
            last: connect || !only_offers(request),
        }
    }

    /// Whether the request asks for a tunnel that can be carried.
    pub fn is_for_a_tunnel(&self) -> bool {
        self.client.is_some()
    }

    /// Makes `response` fit for the client: opens the tunnel if the endpoint agreed, which ends
    /// when it has been silent for as long as `limits` allow, or else says that the connection ends
    /// here. `take` takes the body out of a response of the endpoint's, and nothing out of one that
    /// the sidecar made itself; `carried` tells such a body what has passed through the tunnel, and
    /// `ended` that both sides have closed it, or why it ends in any other way, which resets both
    /// sides.
    pub fn answer<B: 'static>(
        self,
        response: &mut Response<B>,
        (take, carried, ended): (
            impl FnOnce(&mut B) -> Option<B>,
            impl Fn(&mut B, BytesCopied) + 'static,
            impl Fn(&mut B, Result<(), Kind>) + 'static,
        ),
        slot: &TunnelSlot,
        limits: CopyTimeouts,
        metrics: &ClusterMetrics,
    ) {
        if !self.last {
            return;
        }
        let agreed = is_agreed(self.connect, response.status());
        let server = hyper::upgrade::on(&mut *response);
        // Keeps the endpoint's connection and request counted.
        let held = if agreed && self.client.is_some() { take(response.body_mut()) } else { None };
        let (Some(client), Some(held)) = (self.client, held) else {
            if !self.is_http2 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return;
        };
        // It belongs to neither answer (linkerd2#8539), and hyper refuses to send it.
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().remove(TRANSFER_ENCODING);
        let open = Open::new(&metrics.tunnels);
        let failures = metrics.failures();
        let end = slot.end();
        let tunnel = async move {
            let (held, _open) = (RefCell::new(held), open);
            if let Some(end) = &end {
                end.tunnel();
            }
            let whole = || {
                if let Some(end) = &end {
                    end.ended();
                }
                ended(&mut held.borrow_mut(), Ok(()));
            };
            let count = |moved| carried(&mut held.borrow_mut(), moved);
            let Err(error) = carry(client, server, limits, (count, whole)).await else { return };
            ended(&mut held.borrow_mut(), Err(error.kind));
            if matches!(error.kind, Kind::TunnelIdle | Kind::HalfClosed) {
                failures.count(error.kind);
            }
            tracing::debug!(%error, "tunnel cut");
        };
        slot.put(Box::pin(tunnel));
    }
}

/// Whether `status` opens the tunnel that a request asked for.
pub fn is_agreed(connect: bool, status: StatusCode) -> bool {
    if connect { status.is_success() } else { status == StatusCode::SWITCHING_PROTOCOLS }
}

/// Carries bytes both ways until both sides have closed, one fails, or neither has said anything
/// for the time that `limits` give. `count` is told what moves. `whole` is called in the first
/// case, before the streams are dropped.
async fn carry(
    client: OnUpgrade,
    server: OnUpgrade,
    limits: CopyTimeouts,
    (count, whole): (impl FnMut(BytesCopied), impl FnOnce()),
) -> Result<(), Error> {
    let failed = |cause: hyper::Error| Error { cause: Some(cause.into()), ..Error::new(Kind::Incomplete) };
    let (client, server) = (client.await.map_err(failed)?, server.await.map_err(failed)?);
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    match both_ways(&mut client, &mut server, limits, count).await {
        Ok(_) => {
            whole();
            Ok(())
        }
        Err(CopyError::Idle) => Err(Error::new(Kind::TunnelIdle)),
        Err(broken) => {
            let kind = broken.reason(Kind::Incomplete);
            Err(Error { cause: Some(broken.into()), ..Error::new(kind) })
        }
    }
}
