//! HTTP/2 connections of one worker to endpoints: many requests share one, and another is opened
//! before the peer's limit of streams is reached.
//!
//! A connection is filled up before the next is used, so that surplus ones fall idle and are
//! closed. One dial at a time runs for an endpoint, in a task of its own: requests that wait for it
//! share its result, and one that gives up does not take the others' connection along. (After a
//! probe that came to nothing there may be two.)
//!
//! Streams are counted here, once for each connection. A request is bound to a connection only if
//! the peer allows it another stream, and counts there until both of its halves are done
//! (`halves`), as it does for the peer. hyper would queue a surplus request behind a limit of one
//! connection although another has room. So a request that finds no room waits here (`queue`), in
//! turn and for a limited time, for the first connection that has room.
//!
//! A connection counts as open once the peer's first bytes are there, which are its SETTINGS (RFC
//! 9113 section 3.4). So one time limit covers TCP and the handshake, a server that does not speak
//! HTTP/2 is found before a request is risked, and the peer's limit of streams is known at once.
//!
//! PING frames find a peer that has vanished. That takes seconds, so a connection that was silent
//! for the whole time of an attempt carries nothing more. (Go's client sends a PING first; hyper
//! cannot be told to, and the price of a mistake is one new connection.)
//!
//! A connection that has come of age carries what it has begun and nothing more.
//!
//! What one reader leaves unread must not hold up the others of its connection. h2 gives a
//! connection's credit back only when a stream's bytes are read, so a connection window that a few
//! streams can fill stalls all of them. Here it is larger than the windows of all its streams
//! together ([`crate::config::Http2::streams`]), and what is held in memory is bounded by each
//! stream's own window. To read ahead into buffers of our own would cost the same memory and a copy.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::rngs::StdRng;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::halves::{AnswerHalf, UploadHalf};
use super::pool::{PoolLimits, expiry};
use super::queue::Queue;
use super::read_tracker::ReadTracker;
use crate::config::defaults::{H2_FULL, H2_IDLE, H2_PING_TIMEOUT};
use crate::connect::{Connector, no_answer_within};
use crate::error::{BoxError, Error, Kind};
use crate::http::preface::FirstFrame;
use crate::http::resets::{self, Resets};
use crate::http::{RequestBody, tunnel};
use crate::mutant::Mutant;
use crate::telemetry::{EndpointMetrics, Open, OpenConnection, emit};
use crate::world::Net;

/// Connections by endpoint. Cheap to clone; one for each worker.
pub struct Streams<N> {
    inner: Rc<Inner<N>>,
}

struct Inner<N> {
    connector: Connector<N>,
    ages: RefCell<StdRng>,
    groups: RefCell<BTreeMap<SocketAddr, Rc<Group>>>,
}

/// The connections to one endpoint.
#[derive(Default)]
struct Group {
    connections: RefCell<Vec<Rc<Connection>>>,
    /// The dial that is under way, and since when.
    dial: RefCell<Option<(Instant, watch::Receiver<DialOutcome>)>>,
    /// When the endpoint was last in doubt, as far as these connections have heard.
    stale_since: Cell<Option<Instant>>,
    /// Those that wait for a stream.
    queue: Rc<Queue>,
}

/// Runs hyper's tasks for one connection. In one of them the peer's settings arrive. The driver,
/// which knows the limit, is another, and hyper wakes it only for requests; so it is woken here
/// while any wait for room.
#[derive(Clone)]
struct Tasks<N> {
    net: N,
    queue: Rc<Queue>,
    driver: Rc<RefCell<Option<Waker>>>,
}

impl<N: Net, F: Future + 'static> hyper::rt::Executor<F> for Tasks<N> {
    fn execute(&self, task: F) {
        let Tasks { queue, driver, .. } = self.clone();
        self.net.spawn("http", async move {
            let mut task = pin!(task);
            poll_fn(|cx| {
                let polled = task.as_mut().poll(cx);
                if !queue.is_empty()
                    && let Some(driver) = &*driver.borrow()
                {
                    driver.wake_by_ref();
                }
                polled
            })
            .await;
        });
    }
}

/// What became of a dial.
#[derive(Clone, Default)]
enum DialOutcome {
    #[default]
    Pending,
    Open,
    /// The kind, and the cause in words: errors cannot be shared, and every request that waited
    /// needs one.
    Failed(Kind, Rc<str>),
}

/// An open connection.
struct Connection {
    send: RefCell<SendRequest<UploadHalf<Slot>>>,
    /// Streams of which one half or both are open.
    in_use: Cell<usize>,
    /// How many streams it carries at most: what the peer's SETTINGS_MAX_CONCURRENT_STREAMS allows
    /// now, or less.
    limit: Box<dyn Fn() -> usize>,
    /// Hears when a stream ends.
    queue: Rc<Queue>,
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

    /// Lets it carry what it has begun and nothing more.
    fn retire(&self) {
        self.expires.set(Some(Instant::now()));
    }

    fn rest(&self) {
        *self.idle.borrow_mut() = Some(Idle { since: Instant::now(), _counted: self.open.idle() });
    }

    /// Whether the peer allows it another stream.
    fn has_room(&self) -> bool {
        self.in_use.get() < (self.limit)()
    }

    /// Whether it is time to open another connection.
    fn is_nearly_full(&self) -> bool {
        self.in_use.get() >= (((self.limit)() as f64 * H2_FULL) as usize).max(1)
    }

    fn take(self: &Rc<Self>) -> Slot {
        self.in_use.set(self.in_use.get() + 1);
        *self.idle.borrow_mut() = None;
        Slot(self.clone())
    }
}

/// A slot for one request on a connection. While it lives, its stream counts as open.
pub struct Stream {
    half: AnswerHalf<Slot>,
    connection: Rc<Connection>,
    endpoint: SocketAddr,
    /// How long its upload may be silent after the answer.
    silence: Duration,
    tunnel: bool,
}

/// A stream in the account of its connection.
struct Slot(Rc<Connection>);

impl Drop for Slot {
    fn drop(&mut self) {
        let left = self.0.in_use.get() - 1;
        self.0.in_use.set(left);
        if left == 0 {
            self.0.rest();
        }
        self.0.queue.call();
    }
}

impl<N> Clone for Streams<N> {
    fn clone(&self) -> Self {
        Streams { inner: self.inner.clone() }
    }
}

impl<N: Net> Streams<N> {
    /// No connections yet. `from` may ask for a source address for connections to an address;
    /// `ages` spreads their ends.
    pub fn new(connector: Connector<N>, ages: StdRng) -> Self {
        Streams { inner: Rc::new(Inner { connector, ages: ages.into(), groups: RefCell::default() }) }
    }

    /// A slot for one request on a connection to `endpoint`, which is opened if need be, or if all
    /// were open when the endpoint was last `stale_since`.
    ///
    /// # Errors
    /// [`Kind::Connect`], [`Kind::ConnectTimeout`], [`Kind::Protocol`] if the endpoint does not
    /// speak HTTP/2, [`Kind::PoolFull`] if too many requests wait for a stream already, or
    /// [`Kind::PoolTimeout`] if none was free in time.
    pub async fn checkout(
        &self,
        endpoint: SocketAddr,
        stale_since: Option<Instant>,
        limits: PoolLimits,
        metrics: &EndpointMetrics,
    ) -> Result<Stream, Error> {
        let group = self.inner.groups.borrow_mut().entry(endpoint).or_default().clone();
        group.hear(stale_since);
        let mut turn = None;
        let mut dialled = false;
        loop {
            match group.choose() {
                // Nobody overtakes those who wait.
                Choice::Room(connection) if turn.is_some() || group.queue.is_empty() => {
                    if group.is_nearly_full() && group.may_open(limits, metrics) {
                        self.dial(&group, endpoint, limits, metrics);
                    }
                    let slot = connection.take();
                    drop(turn);
                    if group.has_room() {
                        group.queue.call();
                    }
                    let silence = limits.half_close;
                    return Ok(Stream {
                        half: AnswerHalf::new(slot),
                        connection,
                        endpoint,
                        silence,
                        tunnel: false,
                    });
                }
                Choice::Nothing if dialled => {
                    return Err(Error::at(Kind::Connect, endpoint, "the connection closed at once"));
                }
                Choice::Nothing => {
                    dialled = true;
                    dial_ended(self.dial(&group, endpoint, limits, metrics), endpoint).await?;
                    continue;
                }
                Choice::Room(_) | Choice::Full => {}
            }
            if group.may_open(limits, metrics) {
                self.dial(&group, endpoint, limits, metrics);
            }
            let waiting = match &mut turn {
                Some(waiting) => waiting,
                None => turn.insert(group.queue.join(endpoint, limits, metrics)?),
            };
            waiting.called().await?;
            dialled = false;
        }
    }

    /// Begins a dial, or joins the one that is under way.
    fn dial(
        &self,
        group: &Rc<Group>,
        endpoint: SocketAddr,
        limits: PoolLimits,
        metrics: &EndpointMetrics,
    ) -> watch::Receiver<DialOutcome> {
        if let Some((_, dial)) = &*group.dial.borrow() {
            return dial.clone();
        }
        let (tell, dial) = watch::channel(DialOutcome::Pending);
        *group.dial.borrow_mut() = Some((Instant::now(), dial.clone()));
        let (connector, group, limit) = (self.inner.connector.clone(), group.clone(), limits.connect);
        let expires = expiry(limits.max_age, &mut self.inner.ages.borrow_mut());
        let (metrics, own) = (metrics.clone(), dial.clone());
        self.inner.connector.net().spawn("dial", async move {
            let opening = open_connection(&connector, endpoint, limits, expires, &group.queue, &metrics);
            let opened = tokio::time::timeout(limit, opening).await;
            let dialled = match opened {
                Ok(Ok(connection)) => {
                    group.connections.borrow_mut().push(connection);
                    DialOutcome::Open
                }
                Ok(Err((kind, cause))) => DialOutcome::Failed(kind, cause.to_string().into()),
                Err(_) => DialOutcome::Failed(Kind::ConnectTimeout, no_answer_within(limit).into()),
            };
            if matches!(dialled, DialOutcome::Failed(..)) {
                metrics.connect_failed();
            }
            group.dial.borrow_mut().take_if(|(_, dial)| dial.same_channel(&own));
            tell.send_replace(dialled);
            if group.has_room() {
                group.queue.call();
            }
        });
        dial
    }

    /// An attempt that began at `begun` was not answered in its time. Connections that carry
    /// requests and have been silent since then carry no others.
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
    /// This one has room.
    Room(Rc<Connection>),
    /// There are connections, and none has room.
    Full,
    Nothing,
}

/// Waits for a dial.
async fn dial_ended(mut dial: watch::Receiver<DialOutcome>, endpoint: SocketAddr) -> Result<(), Error> {
    let dialled = dial.wait_for(|dialled| !matches!(dialled, DialOutcome::Pending)).await;
    match dialled.as_deref() {
        Ok(DialOutcome::Failed(kind, cause)) => Err(Error::at(*kind, endpoint, cause.to_string())),
        Ok(_) => Ok(()),
        Err(_) => Err(Error::at(Kind::Connect, endpoint, "the dial was given up")),
    }
}

impl Group {
    /// Lets no connection carry another request on which nothing was heard since the endpoint was
    /// last in doubt, and none wait for a dial from before: the machine may be back, and what was
    /// sent while it was away is sent again only after a second.
    fn hear(&self, stale_since: Option<Instant>) {
        if stale_since > self.stale_since.replace(stale_since) {
            let connections = self.connections.borrow();
            let old = connections.iter().filter(|connection| Some(connection.heard.get()) < stale_since);
            old.for_each(|connection| connection.expires.set(stale_since));
            if !Mutant::WaitsForAnOldDial.is_planted() {
                self.dial.borrow_mut().take_if(|(since, _)| Some(*since) <= stale_since);
            }
        }
    }

    /// The oldest connection that has room.
    fn choose(&self) -> Choice {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.is_over());
        let mut young = connections.iter().filter(|c| c.is_young()).peekable();
        if young.peek().is_none() {
            return Choice::Nothing;
        }
        match young.find(|c| c.has_room() || Mutant::BindsWhereThereIsNoRoom.is_planted()) {
            Some(connection) => Choice::Room(connection.clone()),
            None => Choice::Full,
        }
    }

    fn has_room(&self) -> bool {
        matches!(self.choose(), Choice::Room(_))
    }

    /// Whether those that have room will soon have none.
    fn is_nearly_full(&self) -> bool {
        self.connections.borrow().iter().filter(|c| c.is_young()).all(|c| c.is_nearly_full())
    }

    /// Whether another connection may be opened beside those that there are.
    fn may_open(&self, limits: PoolLimits, metrics: &EndpointMetrics) -> bool {
        let young = self.connections.borrow().iter().filter(|c| c.is_young()).count();
        young < limits.connections && metrics.open_in_cluster() < limits.cluster.connections.into()
    }
}

async fn open_connection<N: Net>(
    connector: &Connector<N>,
    endpoint: SocketAddr,
    limits: PoolLimits,
    expires: Option<Instant>,
    queue: &Rc<Queue>,
    metrics: &EndpointMetrics,
) -> Result<Rc<Connection>, (Kind, BoxError)> {
    let io = connector.connect(endpoint).await.map_err(|e| (Kind::of_connect(&e), e.into()))?;
    let window = limits.http2.initial_stream_window_size;
    let (tell, first_bytes) = oneshot::channel();
    let heard = Rc::new(Cell::new(Instant::now()));
    let io = ReadTracker { io, tell: Some(tell), at: heard.clone() };
    let io = Resets::of_a_server(FirstFrame::of_a_server(io));
    let tasks = Tasks { net: connector.net().clone(), queue: queue.clone(), driver: Rc::default() };
    let driven = tasks.driver.clone();
    let (send, driver) = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(if Mutant::SharesOneWindow.is_planted() {
            window
        } else {
            limits.http2.initial_connection_window_size
        })
        .max_header_list_size(limits.http1.header_list())
        .keep_alive_interval(limits.ping.map(|ping| ping.interval))
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .keep_alive_while_idle(limits.ping.is_some_and(|ping| ping.while_idle))
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
    let driver = Rc::new(RefCell::new(driver));
    let asked = Rc::downgrade(&driver);
    let most = limits.http2.streams() as usize;
    let open = metrics.connected();
    emit!(Connected { endpoint, open: metrics.open_in_cluster() });
    let connection = Rc::new(Connection {
        send: RefCell::new(send),
        in_use: Cell::new(0),
        limit: Box::new(move || {
            asked.upgrade().map_or(0, |driver| driver.borrow().current_max_send_streams().min(most))
        }),
        queue: queue.clone(),
        idle: RefCell::default(),
        carried: Cell::new(false),
        heard,
        expires: expires.into(),
        open,
    });
    connection.rest();
    connector.net().spawn("http2", drive(endpoint, driver, driven, queue.clone()));
    Ok(connection)
}

type Driver<N> =
    http2::Connection<TokioIo<Resets<FirstFrame<ReadTracker<<N as Net>::Io>>>>, UploadHalf<Slot>, Tasks<N>>;

/// Drives a connection to its end. `waker` gets what wakes it; `queue` is called when the peer
/// allows more streams.
async fn drive<N: Net>(
    endpoint: SocketAddr,
    driver: Rc<RefCell<Pin<Box<Driver<N>>>>>,
    waker: Rc<RefCell<Option<Waker>>>,
    queue: Rc<Queue>,
) {
    let mut before = 0;
    let ended = poll_fn(|cx| {
        match &mut *waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let mut driver = driver.borrow_mut();
        let polled = driver.as_mut().poll(cx);
        let limit = driver.current_max_send_streams();
        if std::mem::replace(&mut before, limit) < limit {
            queue.call();
        }
        polled
    })
    .await;
    if let Err(error) = ended {
        emit!(ConnectionEnded { endpoint, error });
    }
}

impl Stream {
    /// Whether it carries a tunnel now.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel
    }

    /// The answer has been read to its end.
    pub fn finish(self) {
        self.half.finish();
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
        let request = request.map(|body| self.half.upload(body, self.silence));
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
        let unsent = failed.take_message().map(|request| Box::new(request.map(UploadHalf::into_body)));
        let cause = failed.into_error();
        if resets::h2_error(&cause).is_some_and(is_go_away) {
            self.connection.retire();
        }
        let kind = self.half.broken().unwrap_or_else(|| kind(&cause));
        let reset = resets::of_peer(&cause);
        let error = Error::at(kind, self.endpoint, resets::unmarked(cause)).reused(reused);
        Err((Error { reset, ..error }, unsent))
    }
}

/// What a stream means that failed before the head of its response. RFC 9113 section 8.7: neither a
/// refused stream nor one after the last that GOAWAY names was processed, whatever the code of the
/// GOAWAY. (h2 tells of a GOAWAY only those streams, and those that it did not send because of it.)
/// hyper blames its user if the connection ends before the stream could be opened; that is the end
/// of the connection and nothing else.
fn kind(cause: &hyper::Error) -> Kind {
    match resets::h2_error(cause) {
        _ if resets::of_peer(cause) == Some(h2::Reason::REFUSED_STREAM) => Kind::Refused,
        Some(error) if is_go_away(error) => Kind::Refused,
        Some(error) if error.is_library() => Kind::Protocol,
        _ => Kind::Terminated,
    }
}

fn is_go_away(error: &h2::Error) -> bool {
    error.is_remote() && error.is_go_away()
}

#[cfg(test)]
mod tests;
