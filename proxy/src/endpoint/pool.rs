//! HTTP/1 connections of one worker to endpoints: kept alive, last in first out, checked before
//! they are used again.
//!
//! A connection has no task of its own. Its user polls it together with the response
//! ([`Exchange`]), and a body that is read to its end puts it back; an idle one is polled when it
//! is taken out, which shows an end of file or stray bytes from the server before a request is
//! risked on it, and by [`Pool::sweep`]. That saves a task, its wake-ups and its channel for each
//! connection. The exception is a response that begins while the request is still being sent: a
//! client that does not read yet must not hold up its own upload, so such a connection has a task
//! until both are done. A connection that becomes a tunnel is handed over by hyper and only counted
//! here until the tunnel ends. Last in first out, so that surplus connections age and are closed.
//!
//! What it leaves out: HTTP/2, and a limit on connections that are in use.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::UPGRADE;
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::deferred_write_error::{DeferredWriteError, ServerEnd};
use crate::config::defaults::{AGE_JITTER, H2_PING_INTERVAL, HEADERS, POOL_MAX_IDLE};
use crate::config::{ClusterLimits, Http1, Http2, Snapshot};
use crate::connect::{Connector, Target};
use crate::error::{BoxError, Error, Kind};
use crate::http::closing::ClientEnd;
use crate::http::informational::BodyUnread;
use crate::http::{RequestBody, Upload, forward, header_limits, strict, tunnel};
use crate::mutant::Mutant;
use crate::telemetry::{EndpointMetrics, LimitReason, Open, OpenConnection, emit};
use crate::tls::{self, Alpn, Peer};
use crate::world::Net;

/// Idle connections by endpoint. Cheap to clone; one for each worker.
pub struct Pool<N: Net> {
    inner: Rc<Inner<N>>,
}

struct Inner<N: Net> {
    connector: Connector<N>,
    ages: RefCell<StdRng>,
    slots: RefCell<BTreeMap<Target, Rc<EndpointPool>>>,
}

/// What there is for one endpoint.
struct EndpointPool {
    idle: RefCell<Vec<Idle>>,
    /// One for each connection that may be in use. Requests that wait for one are served in turn.
    permits: Arc<Semaphore>,
    size: Cell<usize>,
    waiting: Cell<usize>,
}

struct Idle {
    connection: Connection,
    since: Instant,
    _counted: Open,
}

/// hyper's connection with upgrades, which has no name outside hyper.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// An open connection.
struct Connection {
    send: SendRequest<RequestBody>,
    /// `None` once it has ended.
    driver: Option<Driver>,
    /// When it is too old to carry another request.
    expires: Option<Instant>,
    /// Who has proved to be the server.
    peer: Option<Arc<Peer>>,
    /// Tells its stream how it is to end.
    end: ServerEnd,
    open: OpenConnection,
}

impl Connection {
    /// Lets the connection make progress.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            // Its error, if any, reaches the request or the body that is under way.
            self.driver = None;
        }
    }

    /// The same, and passes on that the client has closed its half, once nothing of the request is
    /// left to be sent.
    fn drive_for(&mut self, client: Option<&ClientEnd>, upload: &Upload, cx: &mut Context<'_>) {
        self.drive(cx);
        let closed = client.is_some_and(ClientEnd::has_half_closed) && !upload.is_unfinished();
        if closed && self.end.half_close() {
            self.drive(cx);
        }
    }

    fn is_open_and_busy(&self) -> bool {
        self.driver.is_some() && !self.send.is_ready()
    }

    fn is_usable(&self, now: Instant) -> bool {
        let is_young = self.expires.is_none_or(|expires| now < expires);
        let is_trusted = self.peer.as_ref().is_none_or(|peer| peer.is_trusted());
        self.driver.is_some() && self.send.is_ready() && is_young && is_trusted
    }
}

impl<N: Net> Clone for Pool<N> {
    fn clone(&self) -> Self {
        Pool { inner: self.inner.clone() }
    }
}

/// A connection that was taken out for one request.
pub struct Checkout<N: Net> {
    net: N,
    slot: Rc<EndpointPool>,
    endpoint: SocketAddr,
    connection: Connection,
    _permit: OwnedSemaphorePermit,
    reused: bool,
    /// How large its response's head may be.
    http1: Http1,
    /// Whether it must not be used again.
    spent: bool,
}

impl<N: Net> Pool<N> {
    /// An empty pool. `from` may ask for a source address for connections to an address; `ages`
    /// spreads their ends.
    pub fn new(connector: Connector<N>, ages: StdRng) -> Self {
        Pool { inner: Rc::new(Inner { connector, ages: ages.into(), slots: RefCell::default() }) }
    }

    /// A connection to `target`: the one used last, if it is still good and has not idled for
    /// `max_idle` nor since before the endpoint was `stale_since`, or else a new one. If as many
    /// are in use as may be, waits for one to come back, but no longer than connecting may take.
    ///
    /// # Errors
    /// [`Kind::Connect`], [`Kind::ConnectTimeout`], [`Kind::PoolFull`] or [`Kind::PoolTimeout`].
    pub async fn checkout(
        &self,
        target: &Target,
        stale_since: Option<Instant>,
        limits: PoolLimits,
        metrics: &EndpointMetrics,
    ) -> Result<Checkout<N>, Error> {
        let slot = self.slot(target, limits);
        let endpoint = target.address;
        let permit = match slot.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => slot.wait(endpoint, limits, metrics).await?,
        };
        let checkout = |connection, reused| Checkout {
            net: self.inner.connector.net().clone(),
            slot: slot.clone(),
            endpoint,
            connection,
            _permit: permit,
            reused,
            http1: limits.http1,
            spent: false,
        };
        let now = Instant::now();
        let oldest = now.checked_sub(limits.max_idle).max(stale_since);
        loop {
            let Some(mut idle) = slot.idle.borrow_mut().pop() else { break };
            if oldest.is_some_and(|oldest| idle.since < oldest) {
                continue;
            }
            poll_fn(|cx| {
                idle.connection.drive(cx);
                Poll::Ready(())
            })
            .await;
            if idle.connection.is_usable(now) {
                return Ok(checkout(idle.connection, true));
            }
        }
        // An endpoint without any connection gets one whatever the others have, or it would never
        // be served (Envoy).
        if slot.in_use() > 1 && metrics.open_in_cluster() >= limits.cluster.connections.into() {
            metrics.limited(LimitReason::Connections);
            let cause = "the cluster has as many connections as it may (limits.connections)";
            return Err(Error::at(Kind::PoolFull, endpoint, cause));
        }
        let connection = self.open(target, limits, metrics).await.inspect_err(|_| {
            metrics.connect_failed();
        })?;
        Ok(checkout(connection, false))
    }

    fn slot(&self, target: &Target, limits: PoolLimits) -> Rc<EndpointPool> {
        let mut slots = self.inner.slots.borrow_mut();
        if let Some(slot) = slots.get(target) {
            slot.resize(limits.connections);
            return slot.clone();
        }
        let slot = Rc::new(EndpointPool::new(limits.connections));
        slots.insert(target.clone(), slot.clone());
        slot
    }

    async fn open(
        &self,
        target: &Target,
        limits: PoolLimits,
        metrics: &EndpointMetrics,
    ) -> Result<Connection, Error> {
        let endpoint = target.address;
        let io = self.inner.connector.connect_within(target, Alpn::Http1, limits.connect).await?;
        let peer = io.peer().cloned();
        let mut builder = http1::Builder::new();
        let Http1 { header_bytes, headers, preserve_header_case } = limits.read;
        builder.max_buf_size(header_bytes).max_header_size(header_bytes);
        builder.preserve_header_case(preserve_header_case);
        if headers != HEADERS as usize {
            builder.max_headers(headers);
        }
        let end = ServerEnd::default();
        let (send, driver) = builder
            .handshake(TokioIo::new(DeferredWriteError::new(io, end.clone())))
            .await
            .map_err(|e| Error::at(Kind::Connect, endpoint, e))?;
        let open = metrics.connected();
        emit!(Connected { endpoint, open: metrics.open_in_cluster() });
        Ok(Connection {
            send,
            driver: Some(Box::pin(driver.with_upgrades())),
            expires: expiry(limits.max_age, &mut self.inner.ages.borrow_mut()),
            peer,
            end,
            open,
        })
    }

    /// Closes connections that have idled for `max_idle` and those that the server has closed.
    pub fn sweep(&self, max_idle: Duration) {
        let now = Instant::now();
        let Some(oldest) = now.checked_sub(max_idle) else { return };
        let mut cx = Context::from_waker(Waker::noop());
        self.inner.slots.borrow_mut().retain(|_, slot| {
            let mut idle = slot.idle.borrow_mut();
            idle.retain_mut(|idle| {
                idle.connection.drive(&mut cx);
                idle.since > oldest && idle.connection.is_usable(now)
            });
            // A connection that is in use still counts against this slot.
            !idle.is_empty() || Rc::strong_count(slot) > 1
        });
    }

    /// Forgets an endpoint. What is under way there ends, and its connections are not kept
    /// afterwards.
    pub fn forget(&self, target: &Target) {
        self.inner.slots.borrow_mut().remove(target);
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        for slot in self.inner.slots.borrow().values() {
            slot.idle.borrow_mut().clear();
        }
    }
}

/// When a connection that is opened now is too old: at `max_age`, give or take a tenth, so that
/// those that were opened together do not end together.
pub(super) fn expiry(max_age: Option<Duration>, rng: &mut StdRng) -> Option<Instant> {
    let age = max_age?.mul_f64(rng.random_range(1.0 - AGE_JITTER..=1.0 + AGE_JITTER));
    Instant::now().checked_add(age)
}

impl EndpointPool {
    fn new(connections: usize) -> Self {
        EndpointPool {
            idle: RefCell::default(),
            permits: Arc::new(Semaphore::new(connections)),
            size: Cell::new(connections),
            waiting: Cell::new(0),
        }
    }

    /// Follows a change of the configuration.
    fn resize(&self, connections: usize) {
        let size = self.size.get();
        if size < connections {
            self.permits.add_permits(connections - size);
            self.size.set(connections);
        } else if size > connections {
            // Those that are in use now may be too many for a while.
            self.size.set(size - self.permits.forget_permits(size - connections));
        }
    }

    async fn wait(
        &self,
        endpoint: SocketAddr,
        limits: PoolLimits,
        metrics: &EndpointMetrics,
    ) -> Result<OwnedSemaphorePermit, Error> {
        if metrics.waiting_in_cluster() >= limits.cluster.pending.into() {
            metrics.limited(LimitReason::Pending);
            let cause = "as many requests of the cluster wait as may (limits.pending)";
            return Err(Error::at(Kind::PoolFull, endpoint, cause));
        }
        if self.waiting.get() >= limits.pending {
            return Err(Error::at(Kind::PoolFull, endpoint, "as many requests wait as may"));
        }
        let _waiting = (Waiting::new(&self.waiting), metrics.waiting());
        emit!(WaitingForConnection { endpoint, waiting: metrics.waiting_in_cluster() });
        match tokio::time::timeout(limits.connect, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                let cause = format!("no connection came back within {:?}", limits.connect);
                Err(Error::at(Kind::PoolTimeout, endpoint, cause))
            }
        }
    }

    /// Connections in use.
    fn in_use(&self) -> usize {
        self.size.get().saturating_sub(self.permits.available_permits())
    }

    fn put(&self, connection: Connection, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < POOL_MAX_IDLE {
            let _counted = connection.open.idle();
            idle.push(Idle { connection, since, _counted });
        }
    }
}

/// Counts a request that waits, until it is dropped.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Limits of a checkout.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// From SYN to a usable connection.
    pub connect: Duration,
    /// How long a connection may have idled.
    pub max_idle: Duration,
    /// How old a connection may become, give or take a tenth.
    pub max_age: Option<Duration>,
    /// Connections of one worker to one endpoint, of each version of HTTP.
    pub connections: usize,
    /// Requests of one worker that may wait for a connection to, or a stream at, one endpoint.
    pub pending: usize,
    /// How long an upload may be silent after its answer.
    pub half_close: Duration,
    /// Of the whole cluster, all workers together.
    pub cluster: ClusterLimits,
    /// How large a response's head may be.
    pub http1: Http1,
    /// What an endpoint may send at once over HTTP/2.
    pub http2: Http2,
    /// How responses are read. A kept connection keeps what it was opened with.
    pub read: Http1,
    /// How a silent endpoint is asked for a sign of life over HTTP/2, if it is.
    pub ping: Option<Ping>,
}

/// How a silent peer is asked for a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// How often.
    pub interval: Duration,
    /// Whether also on connections that carry nothing.
    pub while_idle: bool,
}

impl PoolLimits {
    /// Those of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        PoolLimits {
            connect: snapshot.timeouts.connect,
            max_idle: snapshot.timeouts.pool_idle,
            max_age: snapshot.timeouts.pool_age,
            connections: snapshot.limits.endpoint_connections,
            pending: snapshot.limits.pending,
            half_close: snapshot.timeouts.half_close,
            cluster: ClusterLimits::default(),
            http1: snapshot.http1,
            http2: snapshot.http2,
            read: snapshot.http1,
            // The kernel tells when the local app goes.
            ping: None,
        }
    }
}

impl PoolLimits {
    /// With those of a cluster, whose endpoints may have sidecars. With `bridge` it is known that
    /// they do, and a sidecar does not mind a ping; a gRPC server ends the connections of those who
    /// ask too often.
    pub fn within(self, cluster: ClusterLimits, bridge: bool) -> Self {
        let ping = match bridge {
            true => Ping { interval: H2_PING_INTERVAL, while_idle: true },
            false => Ping { interval: self.http2.connection_keepalive_interval, while_idle: false },
        };
        PoolLimits { cluster, read: self.http1.with_added(), ping: Some(ping), ..self }
    }
}

impl<N: Net> Checkout<N> {
    /// Sends a request and waits for the head of its response. If `client` closes its half, so does
    /// this connection.
    ///
    /// # Errors
    /// With the request itself, if it is certain that not a byte of it was sent.
    pub async fn send(
        mut self,
        request: Request<RequestBody>,
        client: Option<ClientEnd>,
    ) -> Result<(Response<Incoming>, Exchange<N>), (Error, Option<Box<Request<RequestBody>>>)> {
        let upload = request.body().upload();
        let has_body = upload.is_unfinished();
        let connect = request.method() == Method::CONNECT;
        let upgrade_asked = request.headers().contains_key(UPGRADE);
        self.connection.end.begin();
        let mut response = pin!(self.connection.send.try_send_request(request));
        let response = poll_fn(|cx| {
            // The connection first: what it reads is what the response waits for.
            self.connection.drive_for(client.as_ref(), &upload, cx);
            response.as_mut().poll(cx)
        })
        .await;
        let mut failed = match response {
            Ok(mut response) => {
                let checked = forward::check(&response, upgrade_asked);
                if let Err(wrong) = checked.and_then(|()| header_limits::response(&response, self.http1)) {
                    return Err((self.error(Kind::Protocol, wrong), None));
                }
                // hyper would speak HTTP/1.0 to it from now on, and drop request bodies of unknown
                // length.
                self.spent = response.version() == Version::HTTP_10 || Mutant::UsesNothingAgain.is_planted();
                if (connect || upgrade_asked) && tunnel::is_agreed(connect, response.status()) {
                    self.connection.end.tunnel();
                    // HTTP is over: the stream goes into the response, and nothing is left to
                    // drive.
                    poll_fn(|cx| {
                        self.connection.drive(cx);
                        if self.connection.driver.is_none() { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                    return Ok((response, Exchange { checkout: Some(self), client, tunnel: true }));
                }
                let refused = upload.is_refused();
                if refused {
                    response.extensions_mut().insert(BodyUnread);
                }
                let checkout = if upload.is_unfinished() && !refused {
                    self.detach();
                    None
                } else {
                    Some(self)
                };
                return Ok((response, Exchange { checkout, client, tunnel: false }));
            }
            Err(failed) => failed,
        };
        let unsent = failed.take_message().map(Box::new);
        if let Some(client) = client.filter(|_| unsent.is_none() && self.connection.end.is_half_closed()) {
            // The endpoint has taken the end of the client's half for that of its patience.
            match client.give_up().await {}
        }
        let cause = failed.into_error();
        let kind = if cause.is_parse() || cause.is_parse_too_large() {
            Kind::Protocol
        } else if cause.is_user() && has_body {
            strict::broke_off(&cause)
        } else if tls::was_refused(&cause) {
            Kind::Handshake
        } else {
            Kind::Terminated
        };
        Err((self.error(kind, cause), unsent))
    }

    fn error(&self, kind: Kind, cause: impl Into<BoxError>) -> Error {
        Error::at(kind, self.endpoint, cause).reused(self.reused)
    }

    /// Gives the connection a task of its own until it is idle, and then back to the pool, or until
    /// it has ended. If the client goes away its request body fails, and that ends the connection.
    fn detach(mut self) {
        let net = self.net.clone();
        net.spawn("upload", async move {
            poll_fn(|cx| {
                self.connection.drive(cx);
                if self.connection.is_open_and_busy() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            self.connection.end.ended();
            self.give_back();
        });
    }

    fn give_back(self) {
        let now = Instant::now();
        let is_usable = self.connection.is_usable(now) || Mutant::KeepsWhatIsHalfRead.is_planted();
        if !self.spent && is_usable {
            self.slot.put(self.connection, now);
        }
    }
}

/// A response under way: keeps its connection going, and gives it back to the pool once the body
/// has been read.
pub struct Exchange<N: Net> {
    /// `None` if the connection has a task.
    checkout: Option<Checkout<N>>,
    client: Option<ClientEnd>,
    tunnel: bool,
}

impl<N: Net> Exchange<N> {
    /// Whether the connection carries a tunnel now.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel
    }

    /// Lets the connection make progress; call it before polling the body.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(checkout) = &mut self.checkout {
            checkout.connection.drive_for(self.client.as_ref(), &Upload::default(), cx);
        }
    }

    /// The body has been read to its end: gives the connection back if it can carry another
    /// request.
    pub fn finish(&mut self) {
        if let Some(mut checkout) = self.checkout.take() {
            // The end of the message may still have to pass through the connection's state machine.
            checkout.connection.drive(&mut Context::from_waker(Waker::noop()));
            checkout.spent |= checkout.connection.end.is_half_closed();
            checkout.connection.end.ended();
            checkout.give_back();
        }
    }
}

#[cfg(test)]
mod tests;
