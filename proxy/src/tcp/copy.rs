//! Carries bytes between two streams in both directions, with half-close kept: when one side stops
//! sending, the other side is told (FIN) and may go on answering.
//!
//! One future polls both directions over `&mut` of the two streams, so there is no lock between
//! them. A worker reads into one buffer that all its connections share and writes on from there at
//! once; only what the other side does not take is kept in a buffer of the connection, whose size
//! grows with what the connection has moved. So a connection that is idle, or whose receiver keeps
//! up, holds no buffer at all.
//!
//! A direction that moves bulk between two sockets of the kernel is handed to
//! [`splice`](super::splice) and comes back when its messages become small. Small messages are
//! copied: that takes two system calls, splicing takes four.
//!
//! A connection that moves nothing is cut after a limit, and sooner if one side has closed: peers
//! that never close their half would otherwise hold it for ever (linkerd2#8033).
//!
//! [`relay`] ends a connection with a FIN only when both sides have ended theirs. Whatever else
//! ends it (a reset by a peer, a limit, a drain that is over) is a reset for both: opaque bytes
//! have no other sign that they are not all.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::splice::Pipe;
use crate::config::Timeouts;
use crate::config::defaults::COPY_BULK;
use crate::config::defaults::COPY_STEPS;
use crate::config::defaults::SPLICE_AFTER;
use crate::config::defaults::SPLICE_SMALL_MOVES;
use crate::detect::Prefixed;
use crate::error::Kind;
use crate::mutant::Mutant;
use crate::tls::{Io, kernel_socket};
use crate::world::{Net, Transport};

/// The largest step.
const LARGEST: usize = COPY_STEPS[0].1;

/// Time limits of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyTimeouts {
    /// How long it may move nothing once one side has closed.
    pub half_close: Duration,
    /// How long it may move nothing.
    pub idle: Duration,
}

impl CopyTimeouts {
    /// Those of an opaque connection.
    pub fn of(timeouts: &Timeouts) -> Self {
        CopyTimeouts { half_close: timeouts.half_close, idle: timeouts.tcp_idle }
    }

    /// Those of a tunnel inside HTTP.
    pub fn of_tunnel(timeouts: &Timeouts) -> Self {
        CopyTimeouts { half_close: timeouts.half_close, idle: timeouts.tunnel_idle }
    }
}

/// Bytes that were moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BytesCopied {
    /// From the first stream to the second.
    pub forth: u64,
    /// From the second to the first.
    pub back: u64,
    /// Of both, what was spliced.
    pub spliced: u64,
}

/// One of two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client's.
    First,
    /// The server's.
    Second,
}

/// Why a connection did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A stream failed, the first or the second.
    #[error("{1}")]
    Io(End, #[source] io::Error),
    /// It moved nothing for [`CopyTimeouts::idle`].
    #[error("nothing moved for too long")]
    Idle,
    /// One side had closed, and nothing moved for [`CopyTimeouts::half_close`].
    #[error("half closed, and nothing moved for too long")]
    HalfClosed,
}

impl CopyError {
    /// The kind to count, or `None` if a peer broke the connection, which is its good right.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            CopyError::Io(..) => None,
            CopyError::Idle => Some(Kind::Idle),
            CopyError::HalfClosed => Some(Kind::HalfClosed),
        }
    }

    /// What to say of it in a log: `server` if it was the second stream that failed.
    pub fn reason(&self, server: Kind) -> Kind {
        match self {
            CopyError::Io(End::First, _) => Kind::Client,
            CopyError::Io(End::Second, _) => server,
            CopyError::Idle => Kind::Idle,
            CopyError::HalfClosed => Kind::HalfClosed,
        }
    }
}

/// The kernel's socket of a stream, if it has one of its own.
type Socket<I> = fn(&I) -> Option<&TcpStream>;

/// Carries bytes between two streams until both sides have closed. `count` is told what moved, now
/// and then.
///
/// # Errors
/// The first failure of either stream, or that nothing moved for too long.
pub async fn both_ways<A, B>(
    a: &mut A,
    b: &mut B,
    limits: CopyTimeouts,
    count: impl FnMut(BytesCopied),
) -> Result<BytesCopied, CopyError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    carry(a, |_| None, b, |_| None, limits, count).await
}

/// As [`both_ways`], between two streams of a network, and inside the kernel if it is the kernel's.
/// Unless both sides have closed, both are reset when they are dropped.
///
/// # Errors
/// As [`both_ways`].
pub(super) async fn relay<N: Net>(
    a: &mut Aborting<Prefixed<Io<N>>>,
    b: &mut Aborting<Prefixed<Io<N>>>,
    limits: CopyTimeouts,
    count: impl FnMut(BytesCopied),
) -> Result<BytesCopied, CopyError> {
    // What was already read from a stream is not in its socket any more: while there is some, there
    // is no socket.
    let socket: Socket<Prefixed<Io<N>>> = |io| io.bare().and_then(kernel_socket::<N>);
    let moved = carry(&mut a.io, socket, &mut b.io, socket, limits, count).await?;
    (a.ended, b.ended) = (true, true);
    Ok(moved)
}

/// A stream that is reset when it is dropped before its end.
pub(super) struct Aborting<I: Transport> {
    io: I,
    ended: bool,
}

impl<I: Transport> Aborting<I> {
    /// One that has not come to its end.
    pub fn new(io: I) -> Self {
        Aborting { io, ended: false }
    }
}

impl<I: Transport> Drop for Aborting<I> {
    fn drop(&mut self) {
        if !self.ended && !Mutant::EndsWhatWasReset.is_planted() {
            self.io.abort();
        }
    }
}

async fn carry<A, B>(
    a: &mut A,
    socket_a: Socket<A>,
    b: &mut B,
    socket_b: Socket<B>,
    limits: CopyTimeouts,
    mut count: impl FnMut(BytesCopied),
) -> Result<BytesCopied, CopyError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut forth, mut back) = (Direction::default(), Direction::default());
    let mut told = BytesCopied::default();
    let mut last_moved = Instant::now();
    let mut half_closed = false;
    let mut alarm = pin!(sleep_until(after(last_moved, limits.idle)));
    poll_fn(|cx| {
        let one = forth.poll(cx, (a, socket_a), (b, socket_b));
        let other = back.poll(cx, (b, socket_b), (a, socket_a));
        let moved =
            BytesCopied { forth: forth.moved, back: back.moved, spliced: forth.spliced + back.spliced };
        let closed_now = one.is_ready() != other.is_ready() && !half_closed;
        if moved != told || closed_now {
            count(BytesCopied {
                forth: moved.forth - told.forth,
                back: moved.back - told.back,
                spliced: moved.spliced - told.spliced,
            });
            told = moved;
            last_moved = Instant::now();
        }
        match (one, other) {
            (Poll::Ready(Err(broken)), _) => return Poll::Ready(Err(broken.of(End::First, End::Second))),
            (_, Poll::Ready(Err(broken))) => return Poll::Ready(Err(broken.of(End::Second, End::First))),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(moved)),
            _ => {}
        }
        let limit = |half_closed| if half_closed { limits.half_close.min(limits.idle) } else { limits.idle };
        if closed_now {
            half_closed = true;
            alarm.as_mut().reset(after(last_moved, limit(true)));
        }
        // Setting the alarm anew for each move would cost more than moving: when it rings, it looks
        // how late it is.
        while alarm.as_mut().poll(cx).is_ready() {
            let due = after(last_moved, limit(half_closed));
            if due <= alarm.deadline() {
                return Poll::Ready(Err(if half_closed { CopyError::HalfClosed } else { CopyError::Idle }));
            }
            alarm.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await
}

/// A limit that no clock can hold is none: thirty years later.
fn after(instant: Instant, limit: Duration) -> Instant {
    instant.checked_add(limit).unwrap_or_else(|| instant + Duration::from_secs(30 * 365 * 24 * 3600))
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The sender has closed; the receiver is to be told.
    Closing,
    Closed,
}

/// The failure of a direction, and of which of its streams.
#[derive(Debug)]
enum Broken {
    From(io::Error),
    To(io::Error),
}

impl Broken {
    fn of(self, from: End, to: End) -> CopyError {
        match self {
            Broken::From(error) => CopyError::Io(from, error),
            Broken::To(error) => CopyError::Io(to, error),
        }
    }
}

#[derive(Debug, Default)]
struct Direction {
    state: State,
    /// Bytes that the receiver's stream has taken.
    moved: u64,
    /// Of these, those through a pipe.
    spliced: u64,
    /// What was read and not taken yet, from `at` on.
    kept: Vec<u8>,
    at: usize,
    /// The receiver's stream may hold bytes back.
    flush: bool,
    /// Bytes of bulk reads in a row.
    run: u64,
    /// It is spliced, until its moves become small.
    splices: bool,
    /// Small moves in a row while spliced.
    small: u32,
    /// Only while it holds bytes, or is about to: an idle direction needs none.
    pipe: Option<Pipe>,
    /// Splicing did not work here.
    never_splice: bool,
}

impl Direction {
    /// Ready when the sender has closed, the receiver has been told, and everything between has
    /// been carried.
    fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        (from, from_socket): (&mut A, Socket<A>),
        (to, to_socket): (&mut B, Socket<B>),
    ) -> Poll<Result<(), Broken>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Closing => {
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        // The other side may have closed fully already; then it knows.
                        Err(e)
                            if !matches!(
                                e.kind(),
                                io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe
                            ) =>
                        {
                            return Poll::Ready(Err(Broken::To(e)));
                        }
                        _ => self.state = State::Closed,
                    }
                }
                State::Open if self.at < self.kept.len() => {
                    ready!(self.poll_kept(cx, to)).map_err(Broken::To)?
                }
                State::Open => match (from_socket(from), to_socket(to)) {
                    (Some(from), Some(to)) if self.may_splice() => ready!(self.poll_splice(cx, from, to))?,
                    _ => ready!(self.poll_copy(cx, from, to))?,
                },
            }
        }
    }

    /// Gives the receiver what was kept for it.
    fn poll_kept(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.at < self.kept.len() {
            let n = ready!(poll_some(cx, to, &self.kept[self.at..]))?;
            self.at += n;
            self.moved += n as u64;
        }
        (self.kept, self.at, self.flush) = (Vec::new(), 0, true);
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes it on.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Broken>> {
        let step =
            COPY_STEPS.iter().find(|(moved, _)| self.moved >= *moved).map_or(COPY_BULK, |(_, step)| *step);
        let polled = with_shared(|shared| {
            let mut read = ReadBuf::uninit(&mut shared.spare_capacity_mut()[..step]);
            ready!(Pin::new(from).poll_read(cx, &mut read)).map_err(Broken::From)?;
            let read = read.filled();
            let mut taken = 0;
            while taken < read.len() {
                match poll_some(cx, to, &read[taken..]).map_err(Broken::To)? {
                    Poll::Ready(n) => taken += n,
                    Poll::Pending => {
                        self.kept = read[taken..].to_vec();
                        break;
                    }
                }
            }
            self.moved += taken as u64;
            Poll::Ready(Ok::<_, Broken>(read.len()))
        });
        match polled? {
            Poll::Ready(0) => self.state = State::Closing,
            Poll::Ready(n) => {
                self.flush = true;
                self.run = if n >= COPY_BULK { self.run + n as u64 } else { 0 };
            }
            Poll::Pending => {
                // A stream that gathers what is written must not sit on it while nothing more
                // comes.
                if self.flush && Pin::new(to).poll_flush(cx).map_err(Broken::To)?.is_ready() {
                    self.flush = false;
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the next bytes go through a pipe.
    fn may_splice(&mut self) -> bool {
        if self.splices {
            return true;
        }
        if self.never_splice || self.run < SPLICE_AFTER {
            return false;
        }
        (self.run, self.small) = (0, 0);
        self.splices = true;
        true
    }

    /// Moves bytes through the pipe until there are none, or copying is better.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) {
                ready!(to.poll_write_ready(cx)).map_err(Broken::To)?;
                match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                    Ok(n) => {
                        self.moved += n as u64;
                        self.spliced += n as u64;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) if cannot_splice(&e) => {
                        (self.never_splice, self.splices) = (true, false);
                        let held = self.pipe.take().map_or(Ok(Vec::new()), Pipe::into_bytes);
                        self.kept = held.map_err(Broken::From)?;
                        break;
                    }
                    Err(e) => return Poll::Ready(Err(Broken::To(e))),
                }
                continue;
            }
            if self.small >= SPLICE_SMALL_MOVES {
                self.leave_pipe();
                self.splices = false;
                break;
            }
            if from.poll_read_ready(cx).map_err(Broken::From)?.is_pending() {
                // It may be long until something comes, and another connection can use the
                // descriptors.
                self.leave_pipe();
                return Poll::Pending;
            }
            if self.pipe.is_none() {
                self.pipe = Pipe::take().ok();
            }
            let Some(pipe) = &mut self.pipe else {
                // Without descriptors it is copied, and asks again after as much bulk.
                self.splices = false;
                break;
            };
            match from.try_io(Interest::READABLE, || pipe.fill(from)) {
                Ok(0) => {
                    self.leave_pipe();
                    (self.state, self.splices) = (State::Closing, false);
                    break;
                }
                Ok(n) => self.small = if n < COPY_BULK { self.small + 1 } else { 0 },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if cannot_splice(&e) => {
                    (self.never_splice, self.splices) = (true, false);
                    self.leave_pipe();
                    break;
                }
                Err(e) => return Poll::Ready(Err(Broken::From(e))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn leave_pipe(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}

/// What splice(2) says of a descriptor that it cannot serve, and a kernel that has it switched off.
fn cannot_splice(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Writes some of `bytes`.
fn poll_some(
    cx: &mut Context<'_>,
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        n => Poll::Ready(Ok(n)),
    }
}

thread_local! {
    static SHARED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the buffer of this thread. A call inside a call has one of its own.
fn with_shared<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut shared = SHARED.take();
    shared.reserve_exact(LARGEST);
    let result = work(&mut shared);
    SHARED.set(shared);
    result
}

#[cfg(test)]
mod tests;
