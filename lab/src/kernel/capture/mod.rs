//! Packet capture: what crosses the interfaces of instances, as files for Wireshark, and whether
//! all of it is TLS.
//!
//! One thread reads packet sockets on the `eth0` of each captured instance, so it sees what other
//! machines would, and nothing of what app and sidecar say to each other inside. Each packet is
//! counted where it arrives. A file takes [`MOST_BYTES`] and then no more, and the report says so;
//! looking goes on.
//!
//! Invariant: nothing is claimed of what was not seen. Packets that the socket lost, streams that
//! began before, gaps that stay open: all of them count as unread.

mod records;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use proxy::world::{SystemWall, Wall};

use super::node::Node;
use crate::fabric::gso::VNET_LEN;
use crate::fabric::packet::{MAX_FRAME, PacketPort};
use crate::plan::Plan;
use records::{Stream, StreamCounts};

/// Most bytes in one file.
pub const MOST_BYTES: u64 = 64 << 20;
/// How long the thread sleeps when nothing comes.
const PAUSE: u16 = 50;
/// Bytes before each packet in a file.
const PACKET_HEADER: u64 = 16;

/// What was found between two instances, in one direction.
pub type Found = BTreeMap<(usize, usize), StreamCounts>;

/// A capture that goes on until it is dropped.
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    found: Mutex<(Found, Vec<String>)>,
    is_over: AtomicBool,
}

impl Capture {
    /// Begins to capture at the instances that the plan names, into files of `directory`. Packets
    /// that cross from now on are seen.
    ///
    /// # Errors
    /// If a socket or a file cannot be made.
    pub fn start(plan: &Plan, nodes: &[std::rc::Rc<Node>], directory: &Path) -> io::Result<Capture> {
        std::fs::create_dir_all(directory)?;
        let tap = |&instance: &usize| {
            let port = nodes[instance].run(|| PacketPort::open_tap("eth0"))??;
            let name = &plan.instances[instance].name;
            let file = BufWriter::new(File::create(directory.join(format!("{name}.pcap")))?);
            let header = PcapHeader {
                snaplen: MAX_FRAME as u32,
                datalink: DataLink::ETHERNET,
                ..PcapHeader::default()
            };
            let file = PcapWriter::with_header(file, header).map_err(io::Error::other)?;
            Ok(Tap { instance, name: name.clone(), port, file, written: 0, is_full: false, lost: 0 })
        };
        let taps: Vec<Tap> = plan.captures.iter().map(tap).collect::<io::Result<_>>()?;
        let addresses = plan.instances.iter().enumerate();
        let addresses =
            addresses.flat_map(|(i, instance)| [(instance.v4.into(), i), (instance.v6.into(), i)]);
        // Every request of a load has this header, and each TCP exchange the load's name.
        let mut markers = vec![crate::app::http::echo::REQUEST.as_str().as_bytes().to_vec()];
        let names = plan.loads.iter().map(|load| format!("{} ", load.name).into_bytes());
        markers.extend(names.filter(|name| name.len() >= LEAST_MARKER));
        let mut watch = Watch { addresses: addresses.collect(), markers, streams: HashMap::new() };
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("capture".into()).spawn(move || {
            let mut taps = taps;
            watch.run(&mut taps, &of_thread);
        })?;
        Ok(Capture { shared, thread: Some(thread) })
    }

    /// What was found so far.
    pub fn found(&self) -> Found {
        lock(&self.shared).0.clone()
    }

    /// What the reader of the report should know.
    pub fn notes(&self) -> Vec<String> {
        lock(&self.shared).1.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, (Found, Vec<String>)> {
    shared.found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shorter words may be in ciphertext by chance.
const LEAST_MARKER: usize = 8;

/// One captured interface.
struct Tap {
    instance: usize,
    name: String,
    port: PacketPort,
    file: PcapWriter<BufWriter<File>>,
    written: u64,
    is_full: bool,
    /// Packets that the socket had no room for.
    lost: u64,
}

impl Tap {
    fn write(&mut self, at: SystemTime, frame: &[u8]) {
        self.is_full |= self.written + PACKET_HEADER + frame.len() as u64 > MOST_BYTES;
        if self.is_full {
            return;
        }
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.written += PACKET_HEADER + frame.len() as u64;
        // A full disk must not end a run.
        self.is_full = self.file.write_packet(&PcapPacket::new(at, frame.len() as u32, frame)).is_err();
    }

    fn note(&self) -> Option<String> {
        let what = match (self.lost, self.is_full) {
            (0, false) => return None,
            (0, true) => "is not whole: there was no room".to_owned(),
            (lost, _) => format!("lacks {lost} packets, which came too fast"),
        };
        Some(format!("the capture of {} {what}", self.name))
    }
}

/// One direction of a connection: from, to.
type Flow = (SocketAddr, SocketAddr);

/// Reads what arrives at captured instances.
struct Watch {
    addresses: HashMap<IpAddr, usize>,
    markers: Vec<Vec<u8>>,
    streams: HashMap<Flow, Open>,
}

/// A stream between two instances.
struct Open {
    between: (usize, usize),
    stream: Stream,
    /// What is in the sum already.
    told: StreamCounts,
}

impl Watch {
    fn run(&mut self, taps: &mut [Tap], shared: &Shared) {
        let mut buffer = vec![0; MAX_FRAME];
        while !shared.is_over.load(Ordering::Relaxed) {
            let mut found = Found::default();
            let mut any = false;
            for tap in taps.iter_mut() {
                // A frame that is gone is in the count of the lost.
                while let Ok(Some(received)) = tap.port.receive(&mut buffer) {
                    any = true;
                    let frame = &buffer[VNET_LEN.min(received.len)..received.len];
                    tap.write(SystemWall.now(), frame);
                    self.packet(tap.instance, frame, &mut found);
                }
                let lost = tap.port.take_drops();
                tap.lost += lost;
                if lost > 0 {
                    // They may have come from anybody.
                    for &sender in self.addresses.values().filter(|sender| **sender != tap.instance) {
                        found.entry((sender, tap.instance)).or_default().unread += lost as i64;
                    }
                    any = true;
                }
            }
            if any {
                let mut all = lock(shared);
                found.into_iter().for_each(|(pair, counts)| all.0.entry(pair).or_default().add(counts));
                all.1 = taps.iter().filter_map(Tap::note).collect();
            } else {
                let mut wait: Vec<PollFd<'_>> =
                    taps.iter().map(|tap| PollFd::new(tap.port.as_fd(), PollFlags::POLLIN)).collect();
                let _ = poll(&mut wait, PollTimeout::from(PAUSE));
            }
        }
    }

    /// Reads a frame, if it arrives at `instance` from another one of the plan.
    fn packet(&mut self, instance: usize, frame: &[u8], found: &mut Found) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
        let (Some(net), Some(TransportSlice::Tcp(tcp))) = (&packet.net, &packet.transport) else { return };
        let (from, to) = match net {
            NetSlice::Ipv4(ip) => {
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            NetSlice::Ipv6(ip) => {
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            NetSlice::Arp(_) => return,
        };
        let (Some(&sender), Some(&receiver)) = (self.addresses.get(&from), self.addresses.get(&to)) else {
            return;
        };
        if receiver != instance || sender == receiver {
            return;
        }
        let flow = ((from, tcp.source_port()).into(), (to, tcp.destination_port()).into());
        if tcp.syn() {
            // The port may have been used before.
            let is_new =
                self.streams.get(&flow).is_none_or(|open| open.stream.first() != Some(tcp.sequence_number()));
            if is_new {
                self.streams.remove(&flow);
            }
        }
        let new =
            || Open { between: (sender, receiver), stream: Stream::default(), told: StreamCounts::default() };
        let open = self.streams.entry(flow).or_insert_with(new);
        if tcp.syn() {
            open.stream.open(tcp.sequence_number());
        }
        open.stream.segment(tcp.sequence_number(), tcp.payload(), &self.markers);
        let now = open.stream.counts();
        found.entry(open.between).or_default().add_change(open.told, now);
        open.told = now;
    }
}
