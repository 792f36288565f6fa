//! One simulated TCP connection, from the handshake on: what the two kernels do between `write` and
//! `read`.
//!
//! Modelled after Linux, as far as an application can tell: bytes written survive the writer, whom
//! a FIN or (if it left bytes unread, or aborts) a RST follows; a lost segment is sent again after
//! a round trip if three later ones arrived, otherwise after RTT + 200 ms (Linux's floor of the
//! variance term), doubling up to 120 s; everything behind it waits. After a first timeout new
//! bytes wait too, as with a congestion window of one; once the head gets through, all that is
//! missing goes out one round trip later. A closed socket answers data with a RST, which takes the
//! link's time like any packet.
//!
//! Left out: congestion control (a link without loss takes a full buffer at once), acknowledgements
//! as packets (a cut way back does not stop the way there until the buffer is full), tail-loss
//! probes, keep-alive, the 15 minutes after which Linux gives a connection up. Invariant: bytes are
//! read in the order they were written, each exactly once, or the reader is told of a reset.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;
use tokio::sync::Notify;

use super::chaos::ConnectionFaults;
use super::crossing::Crossing;
use super::link::Links;
use super::trace::{FNV_START, Trace, fnv};

/// Bytes of one direction that were written and not yet read: the send and the receive buffer
/// together. Linux starts with less and grows to 6 MiB; 256 KiB is what a busy proxy's sockets
/// typically reach.
const BUFFER: usize = 256 * 1024;
/// Payload of a full segment: an MTU of 1500 less 40 bytes of headers and 12 of timestamps.
const MSS: usize = 1448;
/// Linux's TCP_RTO_MIN, which it adds to the round-trip time. Nanoseconds.
pub(crate) const RTO_MIN: u64 = 200_000_000;
/// Linux's TCP_RTO_MAX.
const RTO_MAX: u64 = 120_000_000_000;
/// Later arrivals that prove a loss (RFC 5681).
const DUPLICATES: u32 = 3;

/// The opener's end.
pub(super) const CLIENT: usize = 0;
/// The acceptor's end.
pub(super) const SERVER: usize = 1;

/// What a connection needs from the world around it while it acts.
pub(super) struct Ctx<'a> {
    pub links: &'a mut Links,
    pub timers: &'a mut Timers,
    pub trace: &'a mut Trace,
    /// Woken when the stack is no longer locked: dropping or waking a task must not find it so.
    pub wakes: &'a mut Vec<Waker>,
    /// Virtual time, nanoseconds.
    pub now: u64,
}

/// Something that a connection wants to do later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Later {
    /// Send again what this end's link swallowed.
    Retransmit(usize),
    /// Answer from this end, which is closed, with a RST.
    Refuse(usize),
    /// Tell this end's writer about a reset that has arrived.
    WakeWriter(usize),
}

/// What happens when, in order of time and then of being asked for.
#[derive(Default)]
pub(super) struct Timers {
    queue: BTreeMap<(u64, u64), (u64, Later)>,
    tickets: u64,
    /// Told when the earliest time changes.
    pub wake: Arc<Notify>,
}

impl Timers {
    /// Asks for `what` of connection `conn` at a time. Returns a ticket that no other request has.
    pub fn set(&mut self, at: u64, conn: u64, what: Later) -> u64 {
        self.tickets += 1;
        if self.first().is_none_or(|first| at < first) {
            self.wake.notify_one();
        }
        self.queue.insert((at, self.tickets), (conn, what));
        self.tickets
    }

    /// The earliest time asked for.
    pub fn first(&self) -> Option<u64> {
        self.queue.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The earliest request that is due: its time, ticket, connection and wish.
    pub fn pop(&mut self, now: u64) -> Option<(u64, u64, u64, Later)> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, ticket), (conn, what)) = entry.remove_entry();
        Some((at, ticket, conn, what))
    }
}

enum Body {
    Data(Bytes),
    /// Nothing but flags.
    Fin,
}

impl Body {
    /// Segments and bytes of payload.
    fn size(&self) -> (u32, usize) {
        match self {
            Body::Data(data) => (data.len().div_ceil(MSS) as u32, data.len()),
            Body::Fin => (1, 0),
        }
    }
}

struct Segment {
    body: Body,
    /// When it arrives; `None` if it was lost or has not been sent.
    due: Option<u64>,
}

/// What one end sends.
#[derive(Default)]
struct Flow {
    queue: VecDeque<Segment>,
    bytes: usize,
    /// Segments in the queue without an arrival.
    missing: u32,
    /// Segments that got through since the first loss.
    later: u32,
    backoff: u32,
    /// The timer has expired and the head has not got through yet.
    collapsed: bool,
    /// The next retransmission sends all that is missing, not only the head.
    recovering: bool,
    /// Ticket of the retransmission timer in force, and its time.
    timer: Option<(u64, u64)>,
}

/// One end's socket.
pub(super) struct End {
    /// Position of its instance.
    pub host: usize,
    /// Its own address.
    pub addr: SocketAddr,
    /// A process (or an accept queue) still holds it.
    pub open: bool,
    shut: bool,
    eof: bool,
    reset_at: Option<u64>,
    reset_told: bool,
    out: Flow,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

impl End {
    pub fn new(host: usize, addr: SocketAddr) -> Self {
        End {
            host,
            addr,
            open: true,
            shut: false,
            eof: false,
            reset_at: None,
            reset_told: false,
            out: Flow::default(),
            reader: None,
            writer: None,
        }
    }

    /// Whether a reset has arrived by `now`.
    pub fn is_reset(&self, now: u64) -> bool {
        self.reset_at.is_some_and(|at| at <= now)
    }
}

/// What a read came to.
pub(super) enum Read {
    /// Bytes, or the end if there are none.
    Done,
    /// Nothing yet; something arrives at this time, if it is known.
    Wait(Option<u64>),
}

/// A connection.
pub(super) struct Conn {
    pub id: u64,
    /// Both ends are on one instance: no link between them.
    pub local: bool,
    pub ends: [End; 2],
    /// What the opener dialled, if it was redirected.
    pub orig: Option<SocketAddr>,
    /// When the handshake is complete for the acceptor.
    pub ready_at: u64,
    /// The listener in whose queue it still is.
    pub queued: Option<u64>,
    /// How it misbehaves, if it does.
    pub faults: Option<Box<ConnectionFaults>>,
    /// What is told of it afterwards, if it leads from one instance to another.
    pub crossing: Option<Box<Crossing>>,
}

impl Conn {
    fn send(&self, from: usize, body: &Body, ctx: &mut Ctx<'_>) -> Option<u64> {
        if self.local {
            return Some(ctx.now);
        }
        let (segments, bytes) = body.size();
        ctx.links.send((self.ends[from].host, self.ends[1 - from].host), ctx.now, segments, bytes)
    }

    /// Takes bytes to send. Returns how many; 0 if the buffer is full.
    pub fn write(&mut self, side: usize, data: &[u8], ctx: &mut Ctx<'_>) -> io::Result<usize> {
        let end = &mut self.ends[side];
        if end.is_reset(ctx.now) && !end.reset_told && !end.eof {
            end.reset_told = true;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if end.shut || end.is_reset(ctx.now) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = data.len().min(BUFFER - end.out.bytes);
        let n = self.faults.as_mut().map_or(room, |faults| faults.portion(room));
        if n == 0 {
            return Ok(0);
        }
        end.out.bytes += n;
        let pair = (end.host, self.ends[1 - side].host);
        let id = self.id;
        ctx.trace.note(ctx.now, || format!("c{id}.{side} write {n} {:016x}", fnv(FNV_START, &data[..n])));
        if let Some(crossing) = self.crossing.as_mut().filter(|_| side == CLIENT) {
            crossing.first.get_or_insert(data[0]);
        }
        let mut data = Bytes::copy_from_slice(&data[..n]);
        // A link without loss treats a burst as the kernel's wire treats a large segment: as one
        // packet.
        let whole = self.local || (ctx.links.profile(pair).loss == 0.0 && !self.ends[side].out.collapsed);
        let cut = if whole { n } else { MSS };
        while data.len() > cut {
            self.transmit(side, Body::Data(data.split_to(cut)), ctx);
        }
        self.transmit(side, Body::Data(data), ctx);
        if self.faults.as_mut().is_some_and(|faults| faults.passed(side, n, ctx.now)) {
            ctx.trace.note(ctx.now, || format!("c{id} torn apart"));
            self.send_reset(CLIENT, ctx);
            self.send_reset(SERVER, ctx);
        }
        Ok(n)
    }

    /// Ends this end's direction.
    pub fn shutdown(&mut self, side: usize, ctx: &mut Ctx<'_>) -> io::Result<()> {
        let end = &mut self.ends[side];
        if end.is_reset(ctx.now) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if !end.shut {
            end.shut = true;
            let id = self.id;
            ctx.trace.note(ctx.now, || format!("c{id}.{side} fin"));
            self.transmit(side, Body::Fin, ctx);
        }
        Ok(())
    }

    /// Moves what has arrived into `buf`.
    pub fn read(&mut self, side: usize, buf: &mut ReadBuf<'_>, ctx: &mut Ctx<'_>) -> io::Result<Read> {
        let [client, server] = &mut self.ends;
        let (me, peer) = if side == CLIENT { (client, server) } else { (server, client) };
        if me.eof || buf.remaining() == 0 {
            return Ok(Read::Done);
        }
        let before = buf.filled().len();
        let flow = &mut peer.out;
        let room = buf.remaining();
        let mut most = self.faults.as_mut().map_or(room, |faults| faults.portion(room));
        while most > 0 {
            let Some(head) = flow.queue.front_mut() else { break };
            let arrived =
                head.due.is_some_and(|due| due <= ctx.now && me.reset_at.is_none_or(|reset| due <= reset));
            if !arrived {
                break;
            }
            match &mut head.body {
                Body::Data(data) => {
                    let n = data.len().min(most);
                    most -= n;
                    buf.put_slice(&data[..n]);
                    data.advance(n);
                    flow.bytes -= n;
                    if data.is_empty() {
                        flow.queue.pop_front();
                    }
                }
                Body::Fin => {
                    flow.queue.pop_front();
                    me.eof = true;
                    break;
                }
            }
        }
        let n = buf.filled().len() - before;
        if n > 0 || me.eof {
            let (id, eof) = (self.id, me.eof);
            ctx.trace.note(ctx.now, || format!("c{id}.{side} read {n}{}", if eof { " eof" } else { "" }));
            ctx.wakes.extend(peer.writer.take());
            return Ok(Read::Done);
        }
        if me.is_reset(ctx.now) {
            if std::mem::replace(&mut me.reset_told, true) {
                return Ok(Read::Done);
            }
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let head = peer.out.queue.front().and_then(|head| head.due);
        Ok(Read::Wait([head, me.reset_at].into_iter().flatten().min()))
    }

    /// Whether [`Self::read`] has something to say.
    pub fn readable(&self, side: usize, ctx: &Ctx<'_>) -> Read {
        let [me, peer] = [&self.ends[side], &self.ends[1 - side]];
        let arrives = peer.out.queue.front().and_then(|head| head.due);
        let next = [arrives, me.reset_at].into_iter().flatten().min();
        let is_there = me.eof || me.is_reset(ctx.now) || next.is_some_and(|at| at <= ctx.now);
        if is_there { Read::Done } else { Read::Wait(next) }
    }

    /// Notes that nobody holds this end any more.
    pub fn let_go(&mut self, side: usize, now: u64) {
        self.ends[side].open = false;
        if let Some(crossing) = &mut self.crossing {
            crossing.closed[side].get_or_insert(now / 1000);
        }
    }

    /// The process lets this end go: a FIN follows its bytes, or a RST if it left some unread. If
    /// it `aborts` (SO_LINGER at zero), a RST follows what has been sent.
    pub fn close(&mut self, side: usize, aborts: bool, ctx: &mut Ctx<'_>) {
        if !self.ends[side].open {
            // Its machine has lost its power.
            return;
        }
        let reset = self.ends[side].is_reset(ctx.now);
        self.let_go(side, ctx.now);
        let gone = [self.ends[side].reader.take(), self.ends[side].writer.take()];
        ctx.wakes.extend(gone.into_iter().flatten());
        let id = self.id;
        ctx.trace.note(ctx.now, || format!("c{id}.{side} close{}", if reset { " (reset)" } else { "" }));
        if reset {
            return;
        }
        let incoming = &mut self.ends[1 - side].out.queue;
        let data = |s: &&Segment| matches!(s.body, Body::Data(_));
        let unread = incoming.front().filter(data).and_then(|s| s.due).is_some_and(|due| due <= ctx.now);
        if unread || aborts {
            // As Linux's tcp_close: what was not sent yet is dropped as well.
            self.ends[side].out.timer = None;
            self.send_reset(side, ctx);
            return;
        }
        let next = incoming.iter().filter(data).filter_map(|s| s.due).min();
        if let Some(due) = next {
            ctx.timers.set(due, id, Later::Refuse(side));
        }
        if !self.ends[side].shut {
            self.ends[side].shut = true;
            self.transmit(side, Body::Fin, ctx);
        }
    }

    /// The machine of an end has lost its power: that end is gone without a FIN, and what it had
    /// not sent yet with it. Data that reaches the machine later finds no connection and is
    /// answered with a RST.
    pub fn power_off(&mut self, host: usize, now: u64, wakes: &mut Vec<Waker>) {
        for side in [CLIENT, SERVER] {
            let end = &mut self.ends[side];
            if end.host != host {
                continue;
            }
            // Its tasks are about to end, but must not do so while the stack is locked.
            wakes.extend(end.reader.take());
            wakes.extend(end.writer.take());
            end.shut = true;
            end.out = Flow::default();
            self.let_go(side, now);
        }
    }

    /// Ends the connection from `from`: the other end is told by a RST, if that arrives.
    pub fn send_reset(&mut self, from: usize, ctx: &mut Ctx<'_>) {
        if !self.ends[1 - from].open {
            return;
        }
        let (id, at, to) = (self.id, self.send(from, &Body::Fin, ctx), 1 - from);
        ctx.trace.note(ctx.now, || format!("c{id}.{from} rst {}", Shown(at)));
        let Some(at) = at else { return };
        let end = &mut self.ends[to];
        end.reset_at = Some(end.reset_at.map_or(at, |earlier| earlier.min(at)));
        ctx.wakes.extend(end.reader.take());
        if at <= ctx.now {
            ctx.wakes.extend(end.writer.take());
        } else {
            ctx.timers.set(at, id, Later::WakeWriter(to));
        }
    }

    fn transmit(&mut self, side: usize, body: Body, ctx: &mut Ctx<'_>) {
        let collapsed = self.ends[side].out.collapsed;
        let due = if collapsed { None } else { self.send(side, &body, ctx) };
        if let Some(due) = due {
            self.arrives(side, &body, due, ctx);
        }
        let pair = (self.ends[side].host, self.ends[1 - side].host);
        let (id, flow) = (self.id, &mut self.ends[side].out);
        if !self.local {
            ctx.trace.note(ctx.now, || {
                let what = if collapsed { "queued".to_owned() } else { Shown(due).to_string() };
                format!("c{id}.{side} segment {what}")
            });
        }
        flow.queue.push_back(Segment { body, due });
        match due {
            None => {
                flow.missing += 1;
                if flow.timer.is_none() {
                    let at = ctx.now + RTO_MIN + ctx.links.round_trip(pair);
                    flow.timer = Some((ctx.timers.set(at, id, Later::Retransmit(side)), at));
                }
            }
            Some(due) if flow.missing > 0 => {
                flow.later += 1;
                let back = ctx.links.profile((pair.1, pair.0)).delay.as_nanos() as u64;
                let at = due + back;
                if flow.later == DUPLICATES && flow.timer.is_some_and(|(_, timer)| at < timer) {
                    flow.recovering = true;
                    flow.timer = Some((ctx.timers.set(at, id, Later::Retransmit(side)), at));
                }
            }
            Some(_) => {}
        }
    }

    /// A segment from `side` is on its way and will arrive.
    fn arrives(&mut self, side: usize, body: &Body, due: u64, ctx: &mut Ctx<'_>) {
        if side == CLIENT {
            // Any segment carries the acknowledgement that completes the handshake.
            self.ready_at = self.ready_at.min(due);
        }
        let peer = &mut self.ends[1 - side];
        if peer.open {
            ctx.wakes.extend(peer.reader.take());
        } else if matches!(body, Body::Data(_)) {
            ctx.timers.set(due, self.id, Later::Refuse(1 - side));
        }
    }

    /// The retransmission timer fired.
    pub fn retransmit(&mut self, side: usize, ticket: u64, ctx: &mut Ctx<'_>) {
        let pair = (self.ends[side].host, self.ends[1 - side].host);
        let end = &mut self.ends[side];
        if end.out.timer.is_none_or(|(current, _)| current != ticket) {
            return;
        }
        end.out.timer = None;
        if end.out.missing == 0 || end.is_reset(ctx.now) {
            return;
        }
        let mut queue = std::mem::take(&mut end.out.queue);
        let all = end.out.recovering;
        let (mut sent, mut lost) = (0, 0);
        let mut due = ctx.now;
        for segment in queue.iter_mut().filter(|s| s.due.is_none()).take(if all { usize::MAX } else { 1 }) {
            segment.due = self.send(side, &segment.body, ctx);
            match segment.due {
                Some(at) => {
                    due = at;
                    sent += 1;
                    self.arrives(side, &segment.body, at, ctx);
                }
                None => lost += 1,
            }
        }
        let id = self.id;
        ctx.trace.note(ctx.now, || {
            format!("c{id}.{side} retransmit: {sent} due {:.6}, {lost} lost", due as f64 / 1e9)
        });

        let flow = &mut self.ends[side].out;
        flow.queue = queue;
        flow.missing -= sent;
        flow.later = 0;
        flow.recovering = false;
        flow.collapsed = flow.missing > 0;
        let rto = RTO_MIN + ctx.links.round_trip(pair);
        let at = if lost > 0 {
            flow.backoff += u32::from(sent == 0);
            ctx.now + rto.saturating_mul(1 << flow.backoff.min(16)).min(RTO_MAX)
        } else {
            // The acknowledgement of what got through reveals the rest.
            flow.backoff = 0;
            flow.recovering = true;
            due + ctx.links.profile((pair.1, pair.0)).delay.as_nanos() as u64
        };
        if flow.missing == 0 {
            flow.recovering = false;
            return;
        }
        flow.timer = Some((ctx.timers.set(at, id, Later::Retransmit(side)), at));
    }

    /// A request to [`Timers`] is due.
    pub fn later(&mut self, what: Later, ticket: u64, ctx: &mut Ctx<'_>) {
        match what {
            Later::Retransmit(side) => self.retransmit(side, ticket, ctx),
            Later::Refuse(side) => self.send_reset(side, ctx),
            Later::WakeWriter(side) => ctx.wakes.extend(self.ends[side].writer.take()),
        }
    }
}

/// When a packet arrives, for the trace.
struct Shown(Option<u64>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(due) => write!(f, "due {:.6}", due as f64 / 1e9),
            None => f.write_str("lost"),
        }
    }
}
