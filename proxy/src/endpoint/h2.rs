//! HTTP/2 connections of one worker to endpoints: many requests share one, and another is opened before the peer's
//! limit of streams is reached.
//!
//! A connection is filled up before the next is used, so that surplus ones fall idle and are closed. One dial at a time
//! runs for an endpoint, in a task of its own: requests that wait for it share its result, and one that gives up does
//! not take the others' connection along. (After a probe that came to nothing there may be two.)
//!
//! A connection counts as open once the peer's first bytes are there, which are its SETTINGS (RFC 9113 section 3.4): so one
//! time limit covers TCP and the protocol's handshake, a server that does not speak HTTP/2 is found out before a request is
//! risked, and the peer's limit of streams is known from the start.
//!
//! PING frames find a peer that has vanished. That takes seconds, so a connection that was silent for the whole time of a
//! try carries nothing more. (Go's client asks such a peer for a sign of life first; hyper cannot be told to, and the
//! price of a mistake is one new connection.)
//!
//! Once all connections are full, a bounded number of requests wait for a stream. A connection that has come of age
//! carries what it has begun and nothing more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::pool::{Limits, expiry};
use crate::config::defaults::{H2_CONNECTIONS, H2_FULL, H2_IDLE, H2_PING_INTERVAL, H2_PING_TIMEOUT};
use crate::error::{BoxError, Error, Kind};
use crate::http::preface::FirstFrame;
use crate::http::{RequestBody, tunnel};
use crate::mutant;
use crate::telemetry::{EndpointMetrics, Open, OpenConnection};
use crate::world::{Exec, Net};

/// Connections by endpoint. Cheap to clone; one for each worker.
pub struct Streams<N> {
    inner: Rc<Inner<N>>,
}

struct Inner<N> {
    net: N,
    /// Source address of every connection, if one is asked for.
    from: fn(SocketAddr) -> Option<IpAddr>,
    ages: RefCell<StdRng>,
    groups: RefCell<BTreeMap<SocketAddr, Rc<Group>>>,
}

/// The connections to one endpoint.
#[derive(Default)]
struct Group {
    connections: RefCell<Vec<Rc<Connection>>>,
    /// The dial that is under way, and since when.
    dial: RefCell<Option<(Instant, watch::Receiver<Dialled>)>>,
    /// When the endpoint was last in doubt, as far as these connections have heard.
    doubted: Cell<Option<Instant>>,
}

/// What became of a dial.
#[derive(Clone, Default)]
enum Dialled {
    #[default]
    Pending,
    Open,
    /// The kind, and the cause in words: errors cannot be shared, and every request that waited needs one.
    Failed(Kind, Rc<str>),
}

/// An open connection.
struct Connection {
    send: RefCell<SendRequest<RequestBody>>,
    in_use: Cell<usize>,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS.
    limit: Cell<usize>,
    /// If no stream is open.
    idle: RefCell<Option<Idle>>,
    carried: Cell<bool>,
    /// When the peer said something last.
    heard: Rc<Cell<Instant>>,
    /// When it is too old to carry another request.
    expires: Cell<Option<Instant>>,
    open: OpenConnection,
}

/// That a connection carries nothing, and since when.
struct Idle {
    since: Instant,
    _counted: Open,
}

impl Connection {
    fn is_open(&self) -> bool {
        !self.send.borrow().is_closed()
    }

    /// Whether it may carry another request.
    fn is_young(&self) -> bool {
        self.expires.get().is_none_or(|expires| Instant::now() < expires)
    }

    /// Whether it carries nothing and never will again.
    fn is_over(&self) -> bool {
        !self.is_open() || self.in_use.get() == 0 && !self.is_young()
    }

    /// Since when no stream is open, if none is.
    fn idle_since(&self) -> Option<Instant> {
        self.idle.borrow().as_ref().map(|idle| idle.since)
    }

    fn rest(&self) {
        *self.idle.borrow_mut() = Some(Idle { since: Instant::now(), _counted: self.open.idle() });
    }

    fn has_room(&self) -> bool {
        // A peer that allows a single stream has room for it.
        self.in_use.get() < ((self.limit.get() as f64 * H2_FULL) as usize).max(1)
    }
}

/// A place for one request on a connection. While it lives, its stream counts as open.
pub struct Stream {
    connection: Rc<Connection>,
    endpoint: SocketAddr,
    tunnel: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let left = self.connection.in_use.get() - 1;
        self.connection.in_use.set(left);
        if left == 0 {
            self.connection.rest();
        }
    }
}

impl<N> Clone for Streams<N> {
    fn clone(&self) -> Self {
        Streams { inner: self.inner.clone() }
    }
}

impl<N: Net> Streams<N> {
    /// No connections yet. `from` may ask for a source address for connections to an address; `ages` spreads their ends.
    pub fn new(net: N, from: fn(SocketAddr) -> Option<IpAddr>, ages: StdRng) -> Self {
        Streams { inner: Rc::new(Inner { net, from, ages: ages.into(), groups: RefCell::default() }) }
    }

    /// A place for one request on a connection to `endpoint`, which is opened if need be, or if all were open when the
    /// endpoint was last `doubted`.
    ///
    /// # Errors
    /// [`Kind::Connect`], [`Kind::ConnectTimeout`], [`Kind::Protocol`] if the endpoint does not speak HTTP/2, or
    /// [`Kind::PoolFull`] if too many requests wait for a stream already.
    pub async fn checkout(
        &self,
        endpoint: SocketAddr,
        doubted: Option<Instant>,
        limits: Limits,
        metrics: &EndpointMetrics,
    ) -> Result<Stream, Error> {
        let group = self.inner.groups.borrow_mut().entry(endpoint).or_default().clone();
        group.hear(doubted);
        let mut waited = false;
        loop {
            let chosen = group.choose();
            let connection = match chosen {
                Choice::Room(connection) => connection,
                // Full, but better than waiting for a dial: the peer has some streams left for it.
                Choice::Full(connection) => {
                    let young = group.connections.borrow().iter().filter(|c| c.is_young()).count();
                    let room = metrics.open_in_cluster() < limits.cluster.connections.into();
                    if young < H2_CONNECTIONS && room {
                        self.dial(&group, endpoint, limits, metrics);
                    } else if connection.in_use.get() >= connection.limit.get().saturating_add(limits.pending)
                    {
                        let cause = "as many requests wait for a stream as may";
                        return Err(Error::at(Kind::PoolFull, endpoint, cause));
                    }
                    connection
                }
                Choice::Nothing if waited => {
                    return Err(Error::at(Kind::Connect, endpoint, "the connection closed at once"));
                }
                Choice::Nothing => {
                    waited = true;
                    let mut dial = self.dial(&group, endpoint, limits, metrics);
                    let dialled = dial.wait_for(|dialled| !matches!(dialled, Dialled::Pending)).await;
                    match dialled.as_deref() {
                        Ok(Dialled::Failed(kind, cause)) => {
                            return Err(Error::at(*kind, endpoint, cause.to_string()));
                        }
                        Ok(_) => continue,
                        Err(_) => return Err(Error::at(Kind::Connect, endpoint, "the dial was given up")),
                    }
                }
            };
            connection.in_use.set(connection.in_use.get() + 1);
            *connection.idle.borrow_mut() = None;
            return Ok(Stream { connection, endpoint, tunnel: false });
        }
    }

    /// Begins a dial, or joins the one that is under way.
    fn dial(
        &self,
        group: &Rc<Group>,
        endpoint: SocketAddr,
        limits: Limits,
        metrics: &EndpointMetrics,
    ) -> watch::Receiver<Dialled> {
        if let Some((_, dial)) = &*group.dial.borrow() {
            return dial.clone();
        }
        let (tell, dial) = watch::channel(Dialled::Pending);
        *group.dial.borrow_mut() = Some((Instant::now(), dial.clone()));
        let (net, group) = (self.inner.net.clone(), group.clone());
        let (from, limit) = ((self.inner.from)(endpoint), limits.connect);
        let expires = expiry(limits.max_age, &mut self.inner.ages.borrow_mut());
        let (metrics, own) = (metrics.clone(), dial.clone());
        self.inner.net.spawn("dial", async move {
            let opening = open_connection(&net, endpoint, from, limits, expires, &metrics);
            let opened = tokio::time::timeout(limit, opening).await;
            let dialled = match opened {
                Ok(Ok(connection)) => {
                    group.connections.borrow_mut().push(connection);
                    Dialled::Open
                }
                Ok(Err((kind, cause))) => Dialled::Failed(kind, cause.to_string().into()),
                Err(_) => Dialled::Failed(Kind::ConnectTimeout, format!("no answer within {limit:?}").into()),
            };
            if matches!(dialled, Dialled::Failed(..)) {
                metrics.connect_failed();
            }
            group.dial.borrow_mut().take_if(|(_, dial)| dial.same_channel(&own));
            tell.send_replace(dialled);
        });
        dial
    }

    /// A try that began at `begun` was not answered in its time. Connections that carry requests and have been silent since
    /// then carry no others.
    pub fn gave_up(&self, endpoint: SocketAddr, begun: Instant) {
        let groups = self.inner.groups.borrow();
        let Some(group) = groups.get(&endpoint) else { return };
        let connections = group.connections.borrow();
        let silent = connections.iter().filter(|c| c.in_use.get() > 0 && c.heard.get() < begun);
        silent.for_each(|connection| connection.expires.set(Some(begun)));
    }

    /// Forgets connections that have ended and closes those without a stream for [`H2_IDLE`].
    pub fn sweep(&self) {
        let now = Instant::now();
        self.retain(|connection| {
            let idle = connection.idle_since().is_some_and(|since| now.duration_since(since) >= H2_IDLE);
            !idle && !connection.is_over()
        });
    }

    /// Forgets an endpoint. What is under way there ends, and its connections with it.
    pub fn forget(&self, endpoint: SocketAddr) {
        self.inner.groups.borrow_mut().remove(&endpoint);
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        self.retain(|connection| connection.idle_since().is_none());
    }

    fn retain(&self, keep: impl Fn(&Connection) -> bool) {
        self.inner.groups.borrow_mut().retain(|_, group| {
            let mut connections = group.connections.borrow_mut();
            connections.retain(|connection| keep(connection));
            !connections.is_empty() || group.dial.borrow().is_some()
        });
    }
}

enum Choice {
    Room(Rc<Connection>),
    Full(Rc<Connection>),
    Nothing,
}

impl Group {
    /// Lets no connection carry another request on which nothing was heard since the endpoint was last in doubt, and none wait
    /// for a dial from before: the machine may be back, and what was sent while it was away is sent again only after a second.
    fn hear(&self, doubted: Option<Instant>) {
        if doubted > self.doubted.replace(doubted) {
            let connections = self.connections.borrow();
            let old = connections.iter().filter(|connection| Some(connection.heard.get()) < doubted);
            old.for_each(|connection| connection.expires.set(doubted));
            if !mutant::is_planted("waits-for-an-old-dial") {
                self.dial.borrow_mut().take_if(|(since, _)| Some(*since) <= doubted);
            }
        }
    }

    /// The oldest connection that has room, or else the least used one.
    fn choose(&self) -> Choice {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.is_over());
        if let Some(connection) = connections.iter().find(|c| c.has_room() && c.is_young()) {
            return Choice::Room(connection.clone());
        }
        match connections.iter().filter(|c| c.is_young()).min_by_key(|c| c.in_use.get()) {
            Some(connection) => Choice::Full(connection.clone()),
            None => Choice::Nothing,
        }
    }
}

async fn open_connection<N: Net>(
    net: &N,
    endpoint: SocketAddr,
    from: Option<IpAddr>,
    limits: Limits,
    expires: Option<Instant>,
    metrics: &EndpointMetrics,
) -> Result<Rc<Connection>, (Kind, BoxError)> {
    let io = net.connect(endpoint, from).await.map_err(|e| (Kind::of_connect(&e), e.into()))?;
    let (tell, first_bytes) = oneshot::channel();
    let heard = Rc::new(Cell::new(Instant::now()));
    let io = FirstFrame::of_a_server(Heard { io, tell: Some(tell), at: heard.clone() });
    let (send, driver) = http2::Builder::new(Exec(net.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.http2.initial_stream_window_size)
        .initial_connection_window_size(limits.http2.initial_connection_window_size)
        .max_header_list_size(limits.http1.header_list())
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| (Kind::Connect, e.into()))?;
    let mut driver = Box::pin(driver);
    let mut first_bytes = pin!(first_bytes);
    // The driver's own end comes first: it says what is wrong.
    poll_fn(|cx| match driver.as_mut().poll(cx) {
        Poll::Ready(ended) => {
            let cause = ended.err().map_or_else(|| "closed at once".into(), BoxError::from);
            Poll::Ready(Err((Kind::Protocol, cause)))
        }
        Poll::Pending => match ready!(first_bytes.as_mut().poll(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err((Kind::Protocol, "closed before it said anything".into()))),
        },
    })
    .await?;
    let open = metrics.connected();
    tracing::debug!(%endpoint, open = metrics.open_in_cluster(), "connected");
    let connection = Rc::new(Connection {
        send: RefCell::new(send),
        in_use: Cell::new(0),
        limit: Cell::new(driver.current_max_send_streams()),
        idle: RefCell::default(),
        carried: Cell::new(false),
        heard,
        expires: expires.into(),
        open,
    });
    connection.rest();
    let watched = Rc::downgrade(&connection);
    net.spawn("http2", async move {
        let ended = poll_fn(|cx| {
            let polled = driver.as_mut().poll(cx);
            if let Some(connection) = watched.upgrade() {
                connection.limit.set(driver.current_max_send_streams());
            }
            polled
        })
        .await;
        if let Err(error) = ended {
            tracing::debug!(%endpoint, %error, "connection ended");
        }
    });
    Ok(connection)
}

impl Stream {
    /// Whether it carries a tunnel now.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// # Errors
    /// With the request itself, if it is certain that not a byte of it was sent.
    pub async fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Stream), (Error, Option<Box<Request<RequestBody>>>)> {
        let reused = self.connection.carried.replace(true);
        let connect = request.method() == Method::CONNECT;
        let sending = self.connection.send.borrow_mut().try_send_request(request);
        let mut failed = match sending.await {
            Ok(response) => {
                self.tunnel = connect && tunnel::is_agreed(true, response.status());
                if self.tunnel && response.status() != StatusCode::OK {
                    // Only with 200 does hyper let go of the stream.
                    let cause = "an answer to CONNECT that is neither 200 nor an error";
                    return Err((Error::at(Kind::Protocol, self.endpoint, cause).reused(reused), None));
                }
                return Ok((response, self));
            }
            Err(failed) => failed,
        };
        let unsent = failed.take_message().map(Box::new);
        let cause = failed.into_error();
        let error = Error::at(kind(&cause), self.endpoint, cause).reused(reused);
        Err((error, unsent))
    }
}

/// What a failed stream means.
fn kind(cause: &hyper::Error) -> Kind {
    let mut source = std::error::Error::source(cause);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let reason = error.reason();
            // RFC 9113 section 8.7: neither a refused stream nor one after the last that GOAWAY names was processed.
            let refused = error.is_remote()
                && (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
                    || error.is_go_away() && reason == Some(h2::Reason::NO_ERROR));
            return match error {
                _ if refused => Kind::Refused,
                e if e.is_library() => Kind::Protocol,
                _ => Kind::Terminated,
            };
        }
        source = error.source();
    }
    if cause.is_user() { Kind::Client } else { Kind::Terminated }
}

/// Tells when the first bytes arrive, and notes when the last have.
struct Heard<I> {
    io: I,
    tell: Option<oneshot::Sender<()>>,
    at: Rc<Cell<Instant>>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.at.set(Instant::now());
            if let Some(tell) = self.tell.take() {
                // Nobody listens any more if the dial took too long.
                let _ = tell.send(());
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
