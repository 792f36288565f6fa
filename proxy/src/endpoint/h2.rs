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
//! stream's own window. To read ahead into buffers of our own would cost the same memory and a
//! copy.

mod connection;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::Instant;

use self::connection::{Connection, Slot};
use super::halves::{AnswerHalf, UploadHalf};
use super::pool::{PoolLimits, expiry};
use super::queue::Queue;
use crate::config::defaults::H2_IDLE;
use crate::connect::{Connector, Target, no_answer_within};
use crate::error::{Error, Kind};
use crate::http::{RequestBody, resets, tunnel};
use crate::mutant::Mutant;
use crate::telemetry::EndpointMetrics;
use crate::world::Net;

/// Connections by endpoint. Cheap to clone; one for each worker.
pub struct Streams<N> {
    inner: Rc<Inner<N>>,
}

struct Inner<N> {
    connector: Connector<N>,
    ages: RefCell<StdRng>,
    groups: RefCell<BTreeMap<Target, Rc<Group>>>,
}

/// The connections to one endpoint.
struct Group {
    target: Target,
    connections: RefCell<Vec<Rc<Connection>>>,
    /// The dial that is under way, and since when.
    dial: RefCell<Option<(Instant, watch::Receiver<DialOutcome>)>>,
    /// When the endpoint was last in doubt, as far as these connections have heard.
    stale_since: Cell<Option<Instant>>,
    /// Those that wait for a stream.
    queue: Rc<Queue>,
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

/// A slot for one request on a connection. While it lives, its stream counts as open.
pub struct Stream {
    half: AnswerHalf<Slot>,
    connection: Rc<Connection>,
    endpoint: SocketAddr,
    /// How long its upload may be silent after the answer.
    silence: Duration,
    tunnel: bool,
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

    /// A slot for one request on a connection to `target`, which is opened if need be, or if all
    /// were open when the endpoint was last `stale_since`.
    ///
    /// # Errors
    /// [`Kind::Connect`], [`Kind::ConnectTimeout`], [`Kind::Protocol`] if the endpoint does not
    /// speak HTTP/2, [`Kind::PoolFull`] if too many requests wait for a stream already, or
    /// [`Kind::PoolTimeout`] if none was free in time.
    pub async fn checkout(
        &self,
        target: &Target,
        stale_since: Option<Instant>,
        limits: PoolLimits,
        metrics: &EndpointMetrics,
    ) -> Result<Stream, Error> {
        let (group, endpoint) = (self.group(target), target.address);
        group.hear(stale_since);
        let mut turn = None;
        let mut dialled = false;
        loop {
            match group.choose() {
                // Nobody overtakes those who wait.
                Choice::Room(connection) if turn.is_some() || group.queue.is_empty() => {
                    if group.is_nearly_full() && group.may_open(limits, metrics) {
                        self.dial(&group, limits, metrics);
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
                    dial_ended(self.dial(&group, limits, metrics), endpoint).await?;
                    continue;
                }
                Choice::Room(_) | Choice::Full => {}
            }
            if group.may_open(limits, metrics) {
                self.dial(&group, limits, metrics);
            }
            let waiting = match &mut turn {
                Some(waiting) => waiting,
                None => turn.insert(group.queue.join(endpoint, limits, metrics)?),
            };
            waiting.called().await?;
            dialled = false;
        }
    }

    fn group(&self, target: &Target) -> Rc<Group> {
        let mut groups = self.inner.groups.borrow_mut();
        if let Some(group) = groups.get(target) {
            return group.clone();
        }
        let group = Rc::new(Group::new(target.clone()));
        groups.insert(target.clone(), group.clone());
        group
    }

    /// Begins a dial, or joins the one that is under way.
    fn dial(
        &self,
        group: &Rc<Group>,
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
            let opening =
                connection::open(&connector, &group.target, limits, expires, &group.queue, &metrics);
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
    pub fn gave_up(&self, target: &Target, begun: Instant) {
        let groups = self.inner.groups.borrow();
        let Some(group) = groups.get(target) else { return };
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
    pub fn forget(&self, target: &Target) {
        self.inner.groups.borrow_mut().remove(target);
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
    fn new(target: Target) -> Self {
        Group {
            target,
            connections: RefCell::default(),
            dial: RefCell::default(),
            stale_since: Cell::default(),
            queue: Rc::default(),
        }
    }

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
