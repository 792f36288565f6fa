//! The userspace wire: one thread that reads the outer end of every instance's veth pair and hands
//! each frame on to the outer end of its receiver, when and if [`Direction::decide`] says so.
//!
//! One thread and one heap of (due, sequence) keep order simple. A frame of an undelayed direction
//! is passed on without the heap and without a copy. A frame's due time counts from the kernel's
//! stamp of its arrival, so the wire's own wake-up does not add to the delay. A change of profile
//! holds for frames read after it was acknowledged and touches none in flight.
//!
//! Left out: learning addresses (the table is given), VLANs, rate limits. Dropping a [`Wire`] loses
//! what is in flight.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use nix::sys::eventfd::{EfdFlags, EventFd};
use proxy::world::RngTree;

use super::gso::{self, Super};
use super::packet::{self, MAX_FRAME, PacketPort, Poller, now_ns};
use super::spin::Spin;
use super::stats::{PairStats, Spread, WireStats};
use super::{Direction, LinkProfile, LostSet};

/// Frames taken from one port before other ports get their turn.
const BATCH: usize = 32;
/// Bytes in flight beyond which frames are dropped and counted as overflow: a limit to memory, not
/// a model of a queue.
const MAX_IN_FLIGHT: usize = 512 * 1024 * 1024;
/// Real-time priority of the thread, low in its class.
const PRIORITY: i32 = 10;
/// What the poller calls the file descriptor of [`Wire::send`].
const COMMANDS: u64 = u64::MAX;

/// The outer end of an instance's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Name of the instance, for notes.
    pub name: String,
    /// Name of the interface in the fabric's namespace. It must be up.
    pub ifname: String,
    /// Hardware address of the inner end.
    pub mac: [u8; 6],
}

/// A running wire. Dropping it ends its thread.
#[derive(Debug)]
pub struct Wire {
    commands: Sender<WireCommand>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum WireCommand {
    Profiles(Vec<(usize, usize, LinkProfile)>, Sender<()>),
    Stats(Sender<WireStats>),
    Stop,
}

impl Wire {
    /// Joins all ports in the network namespace `netns` with perfect links. Returns when frames
    /// flow. Randomness follows from `seed`; positions in `ports` name instances from then on.
    pub fn start(netns: OwnedFd, ports: Vec<PortSpec>, seed: u64) -> io::Result<Wire> {
        let (commands, inbox) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (started, outcome) = mpsc::channel();
        let thread = {
            let wake = wake.clone();
            thread::Builder::new().name("wire".into()).spawn(move || {
                let engine = Engine::new(netns, ports, seed, inbox, wake);
                match engine {
                    Ok(engine) => {
                        let _ = started.send(Ok(()));
                        engine.run();
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            })?
        };
        let wire = Wire { commands, wake, thread: Some(thread) };
        outcome.recv().unwrap_or_else(|_| Err(ended()))?;
        Ok(wire)
    }

    /// Puts a profile in force for frames from one port to another. Returns when it is.
    pub fn set_profile(&self, from: usize, to: usize, profile: LinkProfile) -> io::Result<()> {
        self.set_profiles(vec![(from, to, profile)])
    }

    /// Puts several profiles, each `(from, to, profile)`, in force at once, with no frame between
    /// them. Returns when they are. Positions without a port are ignored.
    pub fn set_profiles(&self, profiles: Vec<(usize, usize, LinkProfile)>) -> io::Result<()> {
        let (done, wait) = mpsc::channel();
        self.send(WireCommand::Profiles(profiles, done))?;
        wait.recv().map_err(|_| ended())
    }

    /// All counters up to now.
    pub fn stats(&self) -> io::Result<WireStats> {
        let (answer, wait) = mpsc::channel();
        self.send(WireCommand::Stats(answer))?;
        wait.recv().map_err(|_| ended())
    }

    fn send(&self, command: WireCommand) -> io::Result<()> {
        self.commands.send(command).map_err(|_| ended())?;
        self.wake.write(1)?;
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.send(WireCommand::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the wire's thread has ended")
}

/// One direction between two ports.
#[derive(Debug)]
struct Pair {
    profile: LinkProfile,
    unicast: Direction,
    /// Neighbour discovery and the like have random numbers of their own, so that they do not
    /// change what happens to others, and do not count as losses.
    flood: Direction,
    in_flight: usize,
}

/// A frame on its way. Ordered by due time and then by the order of arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Queued {
    due_ns: u64,
    sequence: u64,
    from: usize,
    to: usize,
    frame: Vec<u8>,
}

struct Engine {
    names: Vec<String>,
    ports: Vec<PacketPort>,
    macs: BTreeMap<[u8; 6], usize>,
    /// By sender and then receiver; made when first needed.
    pairs: Vec<Option<Box<Pair>>>,
    rng: RngTree,
    poller: Poller,
    inbox: Receiver<WireCommand>,
    wake: Arc<EventFd>,
    queue: BinaryHeap<Reverse<Queued>>,
    queued_bytes: usize,
    sequence: u64,
    spin: Spin,
    /// The kernel adds no slack to the sleeps of a real-time thread.
    fifo: bool,
    lateness: Spread,
    transit: Spread,
    overflow: u64,
    unroutable: u64,
    flooded: u64,
    notes: Vec<String>,
}

impl Engine {
    fn new(
        netns: OwnedFd,
        specs: Vec<PortSpec>,
        seed: u64,
        inbox: Receiver<WireCommand>,
        wake: Arc<EventFd>,
    ) -> io::Result<Engine> {
        // Affects this thread only, and sockets stay where they were made.
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        let mut notes = Vec::new();
        if let Err(error) = nix::sys::prctl::set_timerslack(1) {
            notes.push(format!("timer slack could not be lowered ({error}): delays are less exact"));
        }
        let fifo = packet::run_first(PRIORITY);
        if let Err(error) = &fifo {
            notes.push(format!(
                "SCHED_FIFO refused ({error}): late packets are more likely on a busy machine"
            ));
        }
        let poller = Poller::new()?;
        poller.add(&*wake, COMMANDS)?;
        let mut ports = Vec::new();
        for (position, spec) in specs.iter().enumerate() {
            let port = PacketPort::open(&spec.ifname).map_err(|error| {
                io::Error::new(error.kind(), format!("{} ({}): {error}", spec.ifname, spec.name))
            })?;
            poller.add(&port, position as u64)?;
            ports.push(port);
        }
        Ok(Engine {
            macs: specs.iter().enumerate().map(|(position, spec)| (spec.mac, position)).collect(),
            pairs: (0..ports.len() * ports.len()).map(|_| None).collect(),
            names: specs.into_iter().map(|spec| spec.name).collect(),
            ports,
            rng: RngTree::new(seed).child("wire", 0),
            poller,
            inbox,
            wake,
            queue: BinaryHeap::new(),
            queued_bytes: 0,
            sequence: 0,
            spin: Spin::default(),
            fifo: fifo.is_ok(),
            lateness: Spread::new(),
            transit: Spread::new(),
            overflow: 0,
            unroutable: 0,
            flooded: 0,
            notes,
        })
    }

    fn run(mut self) {
        let mut buffer = vec![0; MAX_FRAME];
        let mut ready = Vec::new();
        loop {
            let asleep = now_ns();
            let timeout = self.timeout(asleep);
            if let Err(error) = self.poller.wait(timeout, &mut ready) {
                self.note(format!("waiting for frames failed: {error}"));
                return;
            }
            if timeout == Some(0) && ready.is_empty() {
                self.spin.spent(now_ns().saturating_sub(asleep));
            }
            for &token in &ready {
                if token == COMMANDS {
                    if self.obey() == Next::Stop {
                        return;
                    }
                } else {
                    self.read(token as usize, &mut buffer);
                }
            }
            self.release();
        }
    }

    /// How long to sleep before the next frame is due. 0 means to watch the clock.
    fn timeout(&mut self, now: u64) -> Option<u64> {
        let due = self.queue.peek()?.0.due_ns;
        let wait = due.saturating_sub(now);
        // The kernel stretches long sleeps of an ordinary thread by a thousandth, whatever the
        // timer slack.
        let stretch = if self.fifo { 0 } else { wait / 1000 };
        Some(wait.saturating_sub(self.spin.lead(now, due).max(stretch)))
    }

    fn obey(&mut self) -> Next {
        // Before the inbox is emptied, so that a command sent in between wakes us again.
        let _ = self.wake.read();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                WireCommand::Profiles(profiles, done) => {
                    for (from, to, profile) in profiles {
                        if from < self.ports.len() && to < self.ports.len() {
                            self.pair(from, to).profile = profile;
                        }
                    }
                    let _ = done.send(());
                }
                WireCommand::Stats(answer) => {
                    let _ = answer.send(self.stats());
                }
                WireCommand::Stop => return Next::Stop,
            }
        }
        Next::Continue
    }

    /// Takes what waits at one port, within reason, and lets no due frame wait for it.
    fn read(&mut self, from: usize, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            match self.ports[from].receive(buffer) {
                Ok(Some(frame)) => {
                    self.accept(from, &buffer[..frame.len], frame.arrived_ns);
                    self.release();
                }
                Ok(None) => return,
                Err(error) => {
                    self.overflow += 1;
                    self.note(format!("a frame from {} could not be read: {error}", self.names[from]));
                }
            }
        }
    }

    fn accept(&mut self, from: usize, frame: &[u8], arrived: u64) {
        match gso::destination(frame) {
            Some(mac) if mac[0] & 1 == 1 => {
                self.flooded += 1;
                for to in (0..self.ports.len()).filter(|&to| to != from) {
                    self.carry(from, to, frame, arrived, true);
                }
            }
            Some(mac) => match self.macs.get(&mac) {
                Some(&to) if to != from => self.carry(from, to, frame, arrived, false),
                _ => self.unroutable += 1,
            },
            None => self.unroutable += 1,
        }
    }

    /// Decides about a frame and passes on what is left of it.
    fn carry(&mut self, from: usize, to: usize, frame: &[u8], arrived: u64, flood: bool) {
        let large = Super::parse(frame);
        let segments = large.map_or(1, |large| large.segments());
        let pair = self.pair(from, to);
        let direction = if flood { &mut pair.flood } else { &mut pair.unicast };
        let verdict = direction.decide(arrived, &pair.profile, segments, frame.len());
        // Not even an undelayed frame may overtake those in flight.
        let at_once = verdict.due_ns == arrived && pair.in_flight == 0;
        match (verdict.lost, large) {
            (LostSet::All, _) => {}
            (LostSet::Some(lost), Some(large)) => {
                for run in large.survivors(frame, &lost) {
                    if at_once {
                        self.pass(to, &run, arrived);
                    } else {
                        self.enqueue(from, to, run, verdict.due_ns);
                    }
                }
            }
            _ if at_once => self.pass(to, frame, arrived),
            _ => self.enqueue(from, to, frame.to_vec(), verdict.due_ns),
        }
    }

    fn pass(&mut self, to: usize, frame: &[u8], arrived: u64) {
        self.transit.record(now_ns().saturating_sub(arrived));
        self.send(to, frame);
    }

    fn enqueue(&mut self, from: usize, to: usize, frame: Vec<u8>, due_ns: u64) {
        if self.queued_bytes + frame.len() > MAX_IN_FLIGHT {
            self.overflow += 1;
            self.note("more bytes in flight than the wire can hold".into());
            return;
        }
        self.queued_bytes += frame.len();
        self.sequence += 1;
        self.pair(from, to).in_flight += 1;
        self.queue.push(Reverse(Queued { due_ns, sequence: self.sequence, from, to, frame }));
    }

    /// Hands on every frame that is due.
    fn release(&mut self) {
        while let Some(next) = self.queue.peek() {
            let now = now_ns();
            if next.0.due_ns > now {
                return;
            }
            let Some(Reverse(queued)) = self.queue.pop() else { return };
            self.lateness.record(now - queued.due_ns);
            self.spin.released(now);
            self.queued_bytes -= queued.frame.len();
            self.pair(queued.from, queued.to).in_flight -= 1;
            self.send(queued.to, &queued.frame);
        }
    }

    fn send(&mut self, to: usize, frame: &[u8]) {
        if let Err(error) = self.ports[to].send(frame) {
            self.overflow += 1;
            self.note(format!("a frame to {} could not be sent: {error}", self.names[to]));
        }
    }

    fn pair(&mut self, from: usize, to: usize) -> &mut Pair {
        let rng = self.rng;
        self.pairs[from * self.ports.len() + to].get_or_insert_with(|| {
            Box::new(Pair {
                profile: LinkProfile::default(),
                unicast: Direction::between(rng.child("unicast", 0), from, to),
                flood: Direction::between(rng.child("flood", 0), from, to),
                in_flight: 0,
            })
        })
    }

    /// Keeps a note, once and among few.
    fn note(&mut self, note: String) {
        if self.notes.len() < 20 && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn stats(&mut self) -> WireStats {
        self.overflow += self.ports.iter().map(PacketPort::take_drops).sum::<u64>();
        let [lateness_p50_us, lateness_p99_us, lateness_max_us] = self.lateness.summary_us();
        let [transit_p50_us, transit_p99_us, transit_max_us] = self.transit.summary_us();
        let mut stats = WireStats {
            overflow: self.overflow,
            unroutable: self.unroutable,
            flooded: self.flooded,
            lateness_p50_us,
            lateness_p99_us,
            lateness_max_us,
            transit_p50_us,
            transit_p99_us,
            transit_max_us,
            cpu_ms: packet::thread_cpu_ns() as f64 / 1e6,
            spin_ms: self.spin.total_ns() as f64 / 1e6,
            notes: self.notes.clone(),
            ..WireStats::default()
        };
        for (position, pair) in self.pairs.iter().enumerate() {
            let Some(counters) = pair.as_ref().map(|pair| pair.unicast.counters()) else { continue };
            if counters.packets == 0 {
                continue;
            }
            stats.packets += counters.packets;
            stats.segments += counters.segments;
            stats.delayed_packets += counters.delayed_packets;
            stats.lost_packets += counters.lost_segments;
            stats.pairs.push(PairStats {
                from: position / self.ports.len(),
                to: position % self.ports.len(),
                packets: counters.packets,
                segments: counters.segments,
                lost_segments: counters.lost_segments,
                delayed_packets: counters.delayed_packets,
            });
        }
        stats
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Stop,
}
