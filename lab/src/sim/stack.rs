//! The kernels of all simulated instances in one place: listeners, accept queues, connections and
//! their timers.
//!
//! turmoil gives each instance its own runtime and its own virtual clock and decides who runs when;
//! the sockets are ours, because turmoil's cannot lose and retransmit a segment, have no accept
//! queue while a process is stopped, refuse instead of swallowing, and take a whole tick inside one
//! host. State is shared between hosts by one lock, which is never contended: a simulation runs on
//! one thread. Wakers are called and dropped only after the lock is released.
//!
//! Time is turmoil's (`sim_elapsed`), the same for every host to within the tick in which each of
//! them takes its turn.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use proxy::world::RngTree;
use rand::RngExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::plan::Plan;

use super::chaos::Chaos;
use super::conn::{Conn, Ctx, End, Timers};
use super::crossing::Crossing;
use super::link::Links;
use super::route::{Map, Route, Who};
use super::trace::Trace;

/// Length of an accept queue, as of the proxy's listeners on the kernel; a SYN beyond it is
/// dropped.
const BACKLOG: usize = 4096;
/// Linux's default range of ephemeral ports.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;
/// What a lost last packet of a handshake costs: the acceptor repeats its answer after Linux's
/// TCP_TIMEOUT_INIT.
const SYN_ACK_AGAIN: u64 = 1_000_000_000;

/// A socket that listens.
pub(super) struct Listening {
    pub host: usize,
    pub at: SocketAddr,
    /// Incarnation of the process that owns it; only the same one may bind the address again.
    owner: u64,
    /// Connections not yet accepted.
    queue: VecDeque<u64>,
    pub waker: Option<Waker>,
}

/// What an arriving SYN finds.
pub(super) enum SynOutcome {
    /// No listener: a reset.
    Closed,
    /// The accept queue is full.
    Full,
    /// This listener.
    Open(u64),
}

/// The kernels of all instances.
pub(super) struct Stack {
    pub names: Vec<String>,
    pub map: Map,
    pub links: Links,
    pub trace: Trace,
    pub timers: Timers,
    listeners: BTreeMap<u64, Listening>,
    pub conns: BTreeMap<u64, Conn>,
    /// Those between instances that are over.
    crossings: Vec<Crossing>,
    ports: Vec<u16>,
    /// Random choices made so far for each instance.
    picks: Vec<u64>,
    next: u64,
    rng: RngTree,
    pub chaos: Chaos,
    /// Ports that refuse new connections, with how many they have refused.
    refused: BTreeMap<(usize, u16), u64>,
    /// Told of every new listener: somebody may wait for a process to be ready.
    pub changed: Arc<Notify>,
    last_now: u64,
    /// The simulation is over; what is dropped from now on no longer happens.
    pub over: bool,
}

/// The stack as every socket holds it.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Stack>>);

impl Shared {
    pub fn new(plan: &Plan, seed: u64, trace: bool, changed: Arc<Notify>) -> Self {
        let rng = RngTree::new(seed).child("network", 0);
        let count = plan.instances.len();
        Shared(Arc::new(Mutex::new(Stack {
            names: plan.instances.iter().map(|i| i.name.clone()).collect(),
            map: Map::new(plan),
            links: Links::new(rng, &plan.links),
            trace: Trace::new(trace),
            timers: Timers::default(),
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            crossings: Vec::new(),
            ports: vec![*EPHEMERAL.start(); count],
            picks: vec![0; count],
            next: 0,
            rng,
            chaos: Chaos::default(),
            refused: BTreeMap::new(),
            changed,
            last_now: 0,
            over: false,
        })))
    }

    /// Runs `f` on the stack, then wakes whomever it wants woken.
    pub fn with<R>(&self, f: impl FnOnce(&mut Stack, &mut Vec<Waker>) -> R) -> R {
        let mut wakes = Vec::new();
        let result = {
            // A panic inside fails the run by itself.
            let mut stack = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            f(&mut stack, &mut wakes)
        };
        for waker in wakes {
            waker.wake();
        }
        result
    }

    /// Adds a line to the trace.
    pub fn note(&self, line: impl FnOnce() -> String) {
        self.with(|stack, _| {
            let now = stack.now();
            stack.trace.note(now, line);
        });
    }

    /// The task that makes timers fire: retransmissions and resets, which outlive the processes
    /// that caused them.
    pub async fn run_timers(self) {
        let wake = self.with(|stack, _| stack.timers.wake.clone());
        loop {
            let (now, next) = self.with(|stack, wakes| {
                let now = stack.now();
                while let Some((at, ticket, conn, what)) = stack.timers.pop(now) {
                    stack.act(conn, at, wakes, |conn, ctx| conn.later(what, ticket, ctx));
                }
                (now, stack.timers.first())
            });
            match next {
                None => wake.notified().await,
                Some(at) => tokio::select! {
                    biased;
                    () = wake.notified() => {}
                    () = tokio::time::sleep(Duration::from_nanos(at.saturating_sub(now))) => {}
                },
            }
        }
    }
}

/// What this thread knows of virtual time. A simulation runs on one thread.
#[derive(Clone, Copy)]
enum Clock {
    /// It may pass at any moment.
    Runs,
    /// A task is being polled on an instance that has this clock, and nobody has asked for the time
    /// yet.
    Stands(HostClock),
    /// A task is being polled, and this is the time.
    Read(u64),
}

/// What an instance's runtime calls now, and what time that is: both go on alike, so it is known
/// for ever after.
#[derive(Clone, Copy)]
pub(super) struct HostClock {
    here: Instant,
    nanos: u64,
}

impl HostClock {
    /// That of the runtime inside which this is called.
    pub fn here() -> Self {
        HostClock { here: Instant::now(), nanos: looked_up().unwrap_or_default() }
    }

    fn read(self) -> u64 {
        self.nanos + self.here.elapsed().as_nanos() as u64
    }
}

/// Virtual time, nanoseconds since the simulation began; `None` where no host runs.
pub(super) fn now() -> Option<u64> {
    match CLOCK.get() {
        Clock::Runs => looked_up(),
        Clock::Stands(clock) => {
            let now = clock.read();
            debug_assert_eq!(Some(now), looked_up());
            CLOCK.set(Clock::Read(now));
            Some(now)
        }
        Clock::Read(now) => Some(now),
    }
}

/// The same, as turmoil finds it.
fn looked_up() -> Option<u64> {
    turmoil::sim_elapsed().map(|elapsed| elapsed.as_nanos() as u64)
}

thread_local! {
    static CLOCK: Cell<Clock> = const { Cell::new(Clock::Runs) };
}

/// While this lives, virtual time stands still, as it does while a task is polled, and turmoil,
/// which finds the time by looking hosts up, is not asked.
pub(super) struct FrozenTime(());

impl FrozenTime {
    pub fn begin(clock: HostClock) -> Self {
        CLOCK.set(Clock::Stands(clock));
        FrozenTime(())
    }
}

impl Drop for FrozenTime {
    fn drop(&mut self) {
        CLOCK.set(Clock::Runs);
    }
}

impl Stack {
    /// Virtual time, nanoseconds since the simulation began.
    pub fn now(&mut self) -> u64 {
        if let Some(now) = now() {
            self.last_now = now;
        }
        self.last_now
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Lets a connection act at `now`; `None` if it is gone. Removes it when nobody holds either
    /// end.
    pub fn act<R>(
        &mut self,
        id: u64,
        now: u64,
        wakes: &mut Vec<Waker>,
        f: impl FnOnce(&mut Conn, &mut Ctx<'_>) -> R,
    ) -> Option<R> {
        if self.over {
            return None;
        }
        let conn = self.conns.get_mut(&id)?;
        let (links, timers, trace) = (&mut self.links, &mut self.timers, &mut self.trace);
        let result = f(conn, &mut Ctx { links, timers, trace, wakes, now });
        if let Some(listener) = conn.queued.and_then(|listener| self.listeners.get_mut(&listener)) {
            // Its first bytes may have completed the handshake.
            wakes.extend(listener.waker.take());
        }
        if !conn.ends[0].open && !conn.ends[1].open {
            let gone = self.conns.remove(&id);
            self.crossings.extend(gone.and_then(|conn| conn.crossing).map(|crossing| *crossing));
        }
        Some(result)
    }

    /// All connections between instances that there were, in the order in which they were opened.
    pub fn take_crossings(&mut self) -> Vec<Crossing> {
        let open = self.conns.values_mut().filter_map(|conn| conn.crossing.take());
        let mut all = std::mem::take(&mut self.crossings);
        all.extend(open.map(|crossing| *crossing));
        all.sort_by_key(|crossing| crossing.opened);
        all
    }

    /// A port for the next connection of `host`. It only tells connections apart, so reuse is
    /// harmless.
    pub fn port(&mut self, host: usize) -> u16 {
        let port = self.ports[host];
        self.ports[host] = if port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
        port
    }

    /// Where a connection of `host` leads; see [`Map::route`].
    pub fn route(
        &mut self,
        host: usize,
        who: Who,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> io::Result<Route> {
        let (rng, picks) = (self.rng.child("dnat", host as u64), &mut self.picks[host]);
        self.map.route(host, who, to, from, |n| choose(rng, picks, n))
    }

    /// Opens a listener. Returns its id and address.
    pub fn bind(
        &mut self,
        host: usize,
        at: SocketAddr,
        owner: u64,
        now: u64,
    ) -> io::Result<(u64, SocketAddr)> {
        if !self.map.owns(host, at.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let at = if at.port() == 0 { SocketAddr::new(at.ip(), self.port(host)) } else { at };
        let clash = self.listeners.values().any(|l| {
            let overlap = l.at.ip() == at.ip() || l.at.ip().is_unspecified() || at.ip().is_unspecified();
            l.host == host && l.at.port() == at.port() && overlap && l.owner != owner
        });
        if clash {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let id = self.id();
        self.listeners.insert(id, Listening { host, at, owner, queue: VecDeque::new(), waker: None });
        let name = &self.names[host];
        self.trace.note(now, || format!("listen {name} {at}"));
        self.changed.notify_waiters();
        Ok((id, at))
    }

    /// Closes a listener; connections in its queue are reset.
    pub fn unbind(&mut self, id: u64, now: u64, wakes: &mut Vec<Waker>) {
        let Some(listener) = self.listeners.remove(&id) else { return };
        wakes.extend(listener.waker);
        for conn in listener.queue {
            self.act(conn, now, wakes, turn_away);
        }
    }

    /// Refuses new connections to a port of `host`.
    pub fn refuse(&mut self, host: usize, port: u16) {
        self.refused.insert((host, port), 0);
    }

    /// Lets them in again. Returns how many were refused.
    pub fn admit(&mut self, host: usize, port: u16) -> u64 {
        self.refused.remove(&(host, port)).unwrap_or_default()
    }

    /// How many were refused so far, if any are.
    pub fn refusals(&self, host: usize, port: u16) -> u64 {
        self.refused.get(&(host, port)).copied().unwrap_or_default()
    }

    /// Forgets every connection of `host`, which has lost its power: nothing follows the bytes that
    /// have left.
    pub fn power_off(&mut self, host: usize, wakes: &mut Vec<Waker>) {
        let now = self.now();
        for conn in self.conns.values_mut() {
            conn.power_off(host, now, wakes);
        }
        let gone = self.conns.extract_if(.., |_, conn| conn.ends.iter().all(|end| !end.open));
        self.crossings.extend(gone.filter_map(|(_, conn)| conn.crossing).map(|crossing| *crossing));
    }

    /// What a SYN for `dst` finds on `host`.
    pub fn syn_outcome(&mut self, host: usize, dst: SocketAddr) -> SynOutcome {
        if let Some(refused) = self.refused.get_mut(&(host, dst.port())) {
            *refused += 1;
            return SynOutcome::Closed;
        }
        let reaches = |at: SocketAddr, exact: bool| {
            let any = at.ip().is_unspecified() && (at.is_ipv6() || dst.is_ipv4());
            at.port() == dst.port() && if exact { at.ip() == dst.ip() } else { any }
        };
        for exact in [true, false] {
            let open = self.listeners.iter().filter(|(_, l)| l.host == host && reaches(l.at, exact));
            let open: Vec<u64> = open.map(|(&id, _)| id).collect();
            if open.is_empty() {
                continue;
            }
            // SO_REUSEPORT: the kernel hashes the connection onto one of the sockets.
            let chosen = match open[..] {
                [only] => only,
                _ => open[choose(self.rng.child("listener", host as u64), &mut self.picks[host], open.len())],
            };
            let full = self.listeners[&chosen].queue.len() >= BACKLOG;
            return if full { SynOutcome::Full } else { SynOutcome::Open(chosen) };
        }
        SynOutcome::Closed
    }

    /// Whether anybody listens on this port of `host`, on whatever address.
    pub fn listens(&self, host: usize, port: u16) -> bool {
        self.listeners.values().any(|l| l.host == host && l.at.port() == port)
    }

    /// How many sockets listen.
    pub fn listening(&self) -> usize {
        self.listeners.len()
    }

    /// Completes a handshake for the opener: the connection enters the listener's queue. Returns
    /// its id.
    pub fn open(
        &mut self,
        (from, who): (usize, Who),
        route: Route,
        listener: u64,
        now: u64,
        wakes: &mut Vec<Waker>,
    ) -> u64 {
        let id = self.id();
        let src = SocketAddr::new(route.src, self.port(from));
        let local = from == route.host;
        // The acknowledgement of the answer is a packet of its own.
        let ready_at = match local {
            true => now,
            false => self.links.send((from, route.host), now, 1, 0).unwrap_or(now + SYN_ACK_AGAIN),
        };
        let ends = [End::new(from, src), End::new(route.host, route.dst)];
        let (orig, queued) = (route.orig, Some(listener));
        let faults = self.chaos.faults(self.rng, id, local, now);
        let crossing = (!local).then(|| {
            let (to, port) = (route.host, route.orig.unwrap_or(route.dst).port());
            let (opened, closed) = (now / 1000, [None, None]);
            Box::new(Crossing { from, who, to, port, opened, first: None, closed })
        });
        self.conns.insert(id, Conn { id, local, ends, orig, ready_at, queued, faults, crossing });
        let listens = self.listeners.get_mut(&listener).map(|listener| {
            listener.queue.push_back(id);
            wakes.extend(listener.waker.take());
        });
        let (from, to) = (&self.names[from], &self.names[route.host]);
        self.trace.note(now, || {
            let orig = route.orig.map(|orig| format!(" for {orig}")).unwrap_or_default();
            format!("c{id} open {from} {src} -> {to} {}{orig}", route.dst)
        });
        if listens.is_none() {
            // It closed while the handshake was under way: Linux forgets such a connection and
            // resets it when it hears of it.
            self.act(id, now, wakes, turn_away);
        }
        id
    }

    /// The next connection whose handshake is complete. Otherwise says when the first will be, if
    /// that is known.
    pub fn accept(&mut self, listener: u64, now: u64) -> Result<u64, Option<u64>> {
        let Some(listening) = self.listeners.get_mut(&listener) else { return Err(None) };
        let conns = &mut self.conns;
        let ready = |id: &u64| conns.get(id).map_or(u64::MAX, |conn| conn.ready_at);
        let Some(at) = listening.queue.iter().position(|id| ready(id) <= now) else {
            return Err(listening.queue.iter().map(ready).filter(|&at| at < u64::MAX).min());
        };
        let id = listening.queue.remove(at).expect("the position was just found");
        let conn = conns.get_mut(&id).expect("a connection that is ready exists");
        conn.queued = None;
        self.trace.note(now, || format!("c{id} accept"));
        Ok(id)
    }

    /// Where `accept` waits.
    pub fn wait_accept(&mut self, listener: u64, waker: Waker) -> Option<Waker> {
        self.listeners.get_mut(&listener).and_then(|listening| listening.waker.replace(waker))
    }
}

/// Resets a connection that nobody will accept.
fn turn_away(conn: &mut Conn, ctx: &mut Ctx<'_>) {
    conn.queued = None;
    conn.send_reset(super::conn::SERVER, ctx);
    conn.let_go(super::conn::SERVER, ctx.now);
}

/// One of `n`. Each choice has a stream of its own, so that what happens elsewhere does not change
/// it.
fn choose(rng: RngTree, picks: &mut u64, n: usize) -> usize {
    *picks += 1;
    rng.child("pick", *picks).rng().random_range(0..n)
}
