//! The simulator's side of the seam: sockets whose other end is in the same thread, for one process
//! of one instance.
//!
//! [`SimNet`] translates between the `async` world of the proxy, the apps and the load generators
//! and the [`Stack`], which holds all state. Original destinations need no preface on the wire: the
//! connection carries them.
//!
//! A handshake takes one packet each way, decided by the links like any other; a lost one is
//! repeated after 1, 2, 4 ... seconds up to Linux's 127 s, so a cut link swallows connections and
//! does not refuse them. A process that is stopped still has connections completed by its accept
//! queue. Left out: a *client* stopped in mid-handshake completes it only when it goes on.
//!
//! [`Stack`]: super::stack::Stack

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use proxy::world::{AfterFin, Listener, Net, Transport, Wall};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::conn::{CLIENT, Conn, Ctx, Read, SERVER};
use super::process::Group;
use super::route::{Route, Who};
use super::stack::{Shared, SynOutcome};

/// Linux's TCP_TIMEOUT_INIT: how long a first SYN may stay unanswered.
const SYN_TIMEOUT: u64 = 1_000_000_000;
/// Repetitions of a SYN, Linux's tcp_syn_retries. With the doubling they make 127 s.
const SYN_RETRIES: u32 = 6;

/// The network as one process sees it.
#[derive(Clone)]
pub struct SimNet {
    pub(super) stack: Shared,
    pub(super) group: Rc<Group>,
    pub(super) host: usize,
    pub(super) who: Who,
}

impl SimNet {
    async fn handshake(&self, route: Route) -> io::Result<SimIo> {
        let pair = (self.host, route.host);
        // A packet of the handshake: when it arrives, if it does.
        let send = |pair: (usize, usize)| {
            self.stack.with(|s, _| {
                let now = s.now();
                if pair.0 == pair.1 { Some(now) } else { s.links.send(pair, now, 1, 0) }
            })
        };
        for attempt in 0..=SYN_RETRIES {
            let sent = self.stack.with(|s, _| s.now());
            if let Some(due) = send(pair) {
                sleep_until(&self.stack, due).await;
                match self.stack.with(|s, _| s.syn_outcome(route.host, route.dst)) {
                    SynOutcome::Open(listener) => {
                        if let Some(due) = send((pair.1, pair.0)) {
                            sleep_until(&self.stack, due).await;
                            let conn = self.stack.with(|s, wakes| {
                                let now = s.now();
                                s.open((self.host, self.who), route, listener, now, wakes)
                            });
                            return Ok(SimIo::new(self.stack.clone(), conn, CLIENT));
                        }
                    }
                    SynOutcome::Closed => {
                        if let Some(due) = send((pair.1, pair.0)) {
                            sleep_until(&self.stack, due).await;
                            return Err(io::ErrorKind::ConnectionRefused.into());
                        }
                    }
                    SynOutcome::Full => {}
                }
            }
            sleep_until(&self.stack, sent + (SYN_TIMEOUT << attempt)).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

async fn sleep_until(stack: &Shared, at: u64) {
    let now = stack.with(|s, _| s.now());
    if at > now {
        tokio::time::sleep(Duration::from_nanos(at - now)).await;
    }
}

impl Net for SimNet {
    type Io = SimIo;
    type Listener = SimListener;

    async fn connect(&self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<SimIo> {
        let result = match self.stack.with(|s, _| s.route(self.host, self.who, to, from)) {
            Ok(route) => self.handshake(route).await,
            Err(e) => Err(e),
        };
        if let Err(e) = &result {
            self.stack.note(|| format!("connect {} {to}: {}", self.group.name(), e.kind()));
        }
        result
    }

    async fn bind(&self, at: SocketAddr) -> io::Result<SimListener> {
        let (id, at) = self.stack.with(|s, _| {
            let now = s.now();
            s.bind(self.host, at, self.group.id(), now)
        })?;
        Ok(SimListener { stack: self.stack.clone(), id, at, alarm: Alarm::default() })
    }

    async fn orig_dst(&self, io: &mut SimIo) -> Option<SocketAddr> {
        io.stack.with(|s, _| s.conns.get(&io.conn)?.orig)
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        Group::spawn(&self.group, name, task);
    }
}

/// A timer of the host on which it is polled, set again as the awaited time changes.
#[derive(Default)]
struct Alarm(Option<(u64, Pin<Box<Sleep>>)>);

impl Alarm {
    /// Ready when `at` has come.
    fn poll(&mut self, at: u64, now: u64, cx: &mut Context<'_>) -> Poll<()> {
        if at <= now {
            return Poll::Ready(());
        }
        let sleep = match &mut self.0 {
            Some((set, sleep)) if *set == at => sleep,
            slot => {
                let sleep = tokio::time::sleep_until(Instant::now() + Duration::from_nanos(at - now));
                &mut slot.insert((at, Box::pin(sleep))).1
            }
        };
        ready!(sleep.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(())
    }
}

/// A socket that listens.
pub struct SimListener {
    stack: Shared,
    id: u64,
    at: SocketAddr,
    alarm: Alarm,
}

impl Listener for SimListener {
    type Io = SimIo;

    async fn accept(&mut self) -> io::Result<(SimIo, SocketAddr)> {
        poll_fn(|cx| {
            loop {
                let (found, old) = self.stack.with(|s, _| {
                    let now = s.now();
                    let found = s.accept(self.id, now);
                    let old = found.is_err().then(|| s.wait_accept(self.id, cx.waker().clone())).flatten();
                    let peer = found.map(|conn| (conn, s.conns[&conn].ends[CLIENT].addr));
                    (peer.map_err(|at| at.map(|at| (at, now))), old)
                });
                drop(old);
                match found {
                    Ok((conn, peer)) => {
                        let io = SimIo::new(self.stack.clone(), conn, SERVER);
                        return Poll::Ready(Ok((io, peer)));
                    }
                    Err(None) => return Poll::Pending,
                    Err(Some((at, now))) => ready!(self.alarm.poll(at, now, cx)),
                }
            }
        })
        .await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.stack.with(|s, wakes| {
            let now = s.now();
            s.unbind(self.id, now, wakes);
        });
    }
}

/// A connected socket.
pub struct SimIo {
    stack: Shared,
    conn: u64,
    side: usize,
    alarm: Alarm,
    /// Dropping it sends a RST.
    aborted: bool,
}

impl SimIo {
    fn new(stack: Shared, conn: u64, side: usize) -> Self {
        SimIo { stack, conn, side, alarm: Alarm::default(), aborted: false }
    }

    /// Looks for what has arrived, until there is something.
    fn poll_arrival(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut Conn, usize, &mut Ctx<'_>) -> io::Result<Read>,
    ) -> Poll<io::Result<()>> {
        loop {
            let (wait, old) = self.stack.with(|s, wakes| {
                let now = s.now();
                let read = s.act(self.conn, now, wakes, |conn, ctx| {
                    let read = look(conn, self.side, ctx);
                    let old = match &read {
                        Ok(Read::Wait(_)) => conn.ends[self.side].reader.replace(cx.waker().clone()),
                        _ => None,
                    };
                    (read, old)
                });
                match read {
                    Some((Ok(Read::Wait(at)), old)) => (Ok(Some((at, now))), old),
                    Some((Ok(Read::Done), _)) => (Ok(None), None),
                    Some((Err(e), _)) => (Err(e), None),
                    None => (Err(io::ErrorKind::NotConnected.into()), None),
                }
            });
            drop(old);
            match wait? {
                None => return Poll::Ready(Ok(())),
                Some((None, _)) => return Poll::Pending,
                Some((Some(at), now)) => ready!(self.alarm.poll(at, now, cx)),
            }
        }
    }
}

impl Transport for SimIo {
    fn abort(&mut self) {
        self.aborted = true;
    }

    fn behind_fin(&self) -> AfterFin {
        let found = self.stack.with(|s, wakes| {
            let now = s.now();
            s.act(self.conn, now, wakes, |conn, ctx| {
                let [me, peer] = [&conn.ends[self.side], &conn.ends[1 - self.side]];
                match (me.host == peer.host, peer.open) {
                    _ if me.is_reset(ctx.now) => AfterFin::Close,
                    (false, _) => AfterFin::Unknown,
                    (true, true) => AfterFin::HalfClose,
                    (true, false) => AfterFin::Close,
                }
            })
        });
        found.unwrap_or(AfterFin::Close)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_arrival(cx, |conn, side, ctx| Ok(conn.readable(side, ctx))).map(drop)
    }
}

impl AsyncRead for SimIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_arrival(cx, |conn, side, ctx| conn.read(side, buf, ctx))
    }
}

impl AsyncWrite for SimIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let (written, old) = self.stack.with(|s, wakes| {
            let now = s.now();
            let written = s.act(self.conn, now, wakes, |conn, ctx| {
                let written = conn.write(self.side, data, ctx);
                let full = matches!(written, Ok(0));
                let old = full.then(|| conn.ends[self.side].writer.replace(cx.waker().clone())).flatten();
                (written, old)
            });
            written.unwrap_or((Err(io::ErrorKind::NotConnected.into()), None))
        });
        drop(old);
        match written {
            Ok(0) => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = self.stack.with(|s, wakes| {
            let now = s.now();
            s.act(self.conn, now, wakes, |conn, ctx| conn.shutdown(self.side, ctx))
        });
        Poll::Ready(result.unwrap_or(Err(io::ErrorKind::NotConnected.into())))
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        self.stack.with(|s, wakes| {
            let now = s.now();
            s.act(self.conn, now, wakes, |conn, ctx| conn.close(self.side, self.aborted, ctx));
        });
    }
}

/// The simulated time of day: [`EPOCH`](super::EPOCH) plus virtual time.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimWall;

impl Wall for SimWall {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + turmoil::since_epoch().unwrap_or(super::EPOCH)
    }
}
