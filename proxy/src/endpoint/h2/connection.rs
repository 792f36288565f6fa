//! One HTTP/2 connection to an endpoint: how it is opened and driven, and the account of its
//! streams.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker, ready};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::defaults::{H2_FULL, H2_PING_TIMEOUT};
use crate::connect::{Connector, Target};
use crate::endpoint::halves::UploadHalf;
use crate::endpoint::pool::PoolLimits;
use crate::endpoint::queue::Queue;
use crate::endpoint::read_tracker::{FirstRead, ReadTracker};
use crate::error::{BoxError, Kind};
use crate::http::cork::{Cork, Corked, corked};
use crate::http::preface::FirstFrame;
use crate::http::resets::Resets;
use crate::mutant::Mutant;
use crate::telemetry::{EndpointMetrics, Open, OpenConnection, emit};
use crate::tls::{Alpn, Io, Peer};
use crate::world::Net;

/// An open connection.
pub(super) struct Connection {
    pub(super) send: RefCell<SendRequest<UploadHalf<Slot>>>,
    /// Streams of which one half or both are open.
    pub(super) in_use: Cell<usize>,
    /// How many streams it carries at most: what the peer's SETTINGS_MAX_CONCURRENT_STREAMS allows
    /// now, or less.
    limit: Box<dyn Fn() -> usize>,
    /// Hears when a stream ends.
    queue: Rc<Queue>,
    /// If no stream is open.
    idle: RefCell<Option<Idle>>,
    pub(super) carried: Cell<bool>,
    /// When the peer said something last.
    pub(super) heard: Rc<Cell<Instant>>,
    /// When it is too old to carry another request.
    pub(super) expires: Cell<Option<Instant>>,
    /// Who has proved to be the server.
    peer: Option<Arc<Peer>>,
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
    pub(super) fn is_young(&self) -> bool {
        self.expires.get().is_none_or(|expires| Instant::now() < expires)
            && self.peer.as_ref().is_none_or(|peer| peer.is_trusted())
    }

    /// Whether it carries nothing and never will again.
    pub(super) fn is_over(&self) -> bool {
        !self.is_open() || self.in_use.get() == 0 && !self.is_young()
    }

    /// Since when no stream is open, if none is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle.borrow().as_ref().map(|idle| idle.since)
    }

    /// Lets it carry what it has begun and nothing more.
    pub(super) fn retire(&self) {
        self.expires.set(Some(Instant::now()));
    }

    fn rest(&self) {
        *self.idle.borrow_mut() = Some(Idle { since: Instant::now(), _counted: self.open.idle() });
    }

    /// Whether the peer allows it another stream.
    pub(super) fn has_room(&self) -> bool {
        self.in_use.get() < (self.limit)()
    }

    /// Whether it is time to open another connection.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.in_use.get() >= (((self.limit)() as f64 * H2_FULL) as usize).max(1)
    }

    pub(super) fn take(self: &Rc<Self>) -> Slot {
        self.in_use.set(self.in_use.get() + 1);
        *self.idle.borrow_mut() = None;
        Slot(self.clone())
    }
}

/// A stream in the account of its connection.
pub(super) struct Slot(Rc<Connection>);

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

/// Runs hyper's tasks for one connection. In one of them the peer's settings arrive. The driver,
/// which knows the limit, is another, and hyper wakes it only for requests; so it is woken here
/// while any wait for room.
#[derive(Clone)]
struct Tasks<N: Net> {
    net: N,
    queue: Rc<Queue>,
    driver: Rc<RefCell<Option<Waker>>>,
    cork: Cork<Frames<N>>,
}

/// The stream under a connection.
type Frames<N> = Resets<FirstFrame<ReadTracker<Io<N>>>>;

impl<N: Net, F: Future + 'static> hyper::rt::Executor<F> for Tasks<N> {
    fn execute(&self, task: F) {
        let Tasks { queue, driver, cork, .. } = self.clone();
        self.net.spawn("http", async move {
            let mut task = pin!(cork.polled(task));
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

/// Opens a connection to `target`, and waits until the peer has said something that is HTTP/2.
///
/// # Errors
/// The kind of failure, and its cause.
pub(super) async fn open<N: Net>(
    connector: &Connector<N>,
    target: &Target,
    limits: PoolLimits,
    expires: Option<Instant>,
    queue: &Rc<Queue>,
    metrics: &EndpointMetrics,
) -> Result<Rc<Connection>, (Kind, BoxError)> {
    let io = connector.connect(target, Alpn::Http2).await.map_err(|e| (Kind::of_connect(&e), e.into()))?;
    let (endpoint, peer) = (target.address, io.peer().cloned());
    let window = limits.http2.initial_stream_window_size;
    let (tell, mut first_bytes) = oneshot::channel();
    let heard = Rc::new(Cell::new(Instant::now()));
    let io = ReadTracker { io, tell: Some(tell), at: heard.clone() };
    let (io, cork) = corked(Resets::of_a_server(FirstFrame::of_a_server(io)));
    let tasks = Tasks { net: connector.net().clone(), queue: queue.clone(), driver: Rc::default(), cork };
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
    // The driver's own end comes first: it says what is wrong.
    poll_fn(|cx| match driver.as_mut().poll(cx) {
        Poll::Ready(ended) => {
            if let Ok(FirstRead::Refused(words)) = first_bytes.try_recv() {
                return Poll::Ready(Err((Kind::Handshake, words.into())));
            }
            let cause = ended.err().map_or_else(|| "closed at once".into(), BoxError::from);
            Poll::Ready(Err((Kind::Protocol, cause)))
        }
        Poll::Pending => match ready!(Pin::new(&mut first_bytes).poll(cx)) {
            Ok(FirstRead::Bytes) => Poll::Ready(Ok(())),
            Ok(FirstRead::Refused(words)) => Poll::Ready(Err((Kind::Handshake, words.into()))),
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
        peer,
        open,
    });
    connection.rest();
    connector.net().spawn("http2", drive(endpoint, driver, driven, queue.clone()));
    Ok(connection)
}

type Driver<N> = http2::Connection<TokioIo<Corked<Frames<N>>>, UploadHalf<Slot>, Tasks<N>>;

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
