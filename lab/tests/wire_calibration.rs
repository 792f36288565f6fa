//! What the wire does to real packets between real namespaces, against what it was asked to do. Run
//! it with `--nocapture` to see what was measured. Needs root: else it says that it was skipped,
//! and fails if LAB_REQUIRE_KERNEL is set.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lab::fabric::netem::{self, Sender};
use lab::fabric::{LinkProfile, PairStats, Wire, WireStats};
use nix::sys::socket::{setsockopt, sockopt};

#[path = "wire/net.rs"]
mod net;

use net::{Net, PORT, bulk, feed, join, ping_pong, v4};

fn delay(ms: u64) -> LinkProfile {
    LinkProfile { delay: Duration::from_millis(ms), ..LinkProfile::default() }
}

fn lossy(loss: f64) -> LinkProfile {
    LinkProfile { loss, ..LinkProfile::default() }
}

fn both(wire: &Wire, profile: LinkProfile) {
    wire.set_profiles(vec![(0, 1, profile), (1, 0, profile)]).expect("the wire runs");
}

fn stats(wire: &Wire) -> WireStats {
    let stats = wire.stats().expect("the wire runs");
    assert_eq!(stats.overflow, 0, "nothing may be lost outside the model: {stats:?}");
    stats
}

fn node(node: usize) -> SocketAddr {
    (v4(node), PORT).into()
}

/// Fails if `hits` of `all` is further from `rate` than chance explains once in 15 000 times.
fn assert_rate(hits: u64, all: u64, rate: f64) {
    let sigma = (all as f64 * rate * (1.0 - rate)).sqrt();
    let error = hits as f64 - all as f64 * rate;
    assert!(error.abs() < 4.0 * sigma, "{hits} of {all} is not {rate}");
}

#[test]
fn round_trips_take_as_long_as_the_delays_say() {
    let Some(net) = Net::new(2) else { return };
    let middle = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1e6;
    let tail = |times: &[Duration]| times[times.len() * 99 / 100].as_secs_f64() * 1e6;
    let bare = ping_pong(&net, ([10, 78, 0, 2], PORT).into(), 2000);
    println!("{:34} RTT p50 {:8.0} us  p99 {:8.0} us", "no wire", middle(&bare), tail(&bare));
    for (ms, count) in [(0, 2000), (1, 300), (5, 100), (20, 40)] {
        let wire = net.wire();
        both(&wire, delay(ms));
        let times = ping_pong(&net, node(1), count);
        let stats = stats(&wire);
        println!(
            "delay {ms:2} ms each way: asked {:5} us  RTT p50 {:8.0} us  p99 {:8.0} us  error {:5.0} us  \
             lateness {:.0}/{:.0}/{:.0} us  transit {:.0}/{:.0}/{:.0} us  cpu {:.0} ms (spin {:.0})  {:?}",
            ms * 2000,
            middle(&times),
            tail(&times),
            middle(&times) - (ms * 2000) as f64,
            stats.lateness_p50_us,
            stats.lateness_p99_us,
            stats.lateness_max_us,
            stats.transit_p50_us,
            stats.transit_p99_us,
            stats.transit_max_us,
            stats.cpu_ms,
            stats.spin_ms,
            stats.notes,
        );
        assert!(times[0] >= Duration::from_millis(2 * ms), "no packet comes early");
        assert!(middle(&times) < (ms * 2000 + 5000) as f64, "the median is less than 5 ms late");
        assert_eq!(stats.delayed_packets, if ms == 0 { 0 } else { stats.packets });
        assert_eq!((stats.lost_packets, stats.unroutable), (0, 0));
    }
}

#[test]
fn datagrams_are_lost_at_the_rate_asked_for_and_every_loss_is_counted() {
    let Some(net) = Net::new(2) else { return };
    let wire = net.wire();
    wire.set_profile(0, 1, lossy(0.1)).expect("the wire runs");
    let (sender, receiver) = (net.udp(0, 0), net.udp(1, PORT));
    let got = net.inside(1, move || receive_all(&receiver).len() as u64);
    for n in 0..4000_u32 {
        sender.send_to(&n.to_le_bytes(), node(1)).expect("the way is there");
    }
    finish(&wire, &sender, 4000);
    let got = join(got);
    let pair = without_end(stats(&wire).pair(0, 1));
    println!(
        "loss asked 10 %: {} of {} datagrams lost ({:.2} %)",
        4000 - got,
        4000,
        (4000 - got) as f64 / 40.0
    );
    assert_eq!((pair.packets, pair.packets - pair.lost_segments), (4000, got));
    assert_rate(pair.lost_segments, 4000, 0.1);
}

/// The last number of a series.
const END: u32 = u32::MAX;

/// The numbers at the start of all datagrams before the one that says [`END`].
fn receive_all(socket: &UdpSocket) -> Vec<u32> {
    let mut buffer = [0; 2048];
    let mut numbers = Vec::new();
    loop {
        let len = socket.recv(&mut buffer).expect("the end arrives");
        assert!(len >= 4);
        match u32::from_le_bytes(buffer[..4].try_into().expect("four bytes")) {
            END => return numbers,
            number => numbers.push(number),
        }
    }
}

/// Waits until the wire has decided about this many packets from node 0 to node 1.
fn decided(wire: &Wire, packets: u64) {
    while stats(wire).pair(0, 1).packets < packets {
        std::thread::yield_now();
    }
}

/// Waits as [`decided`] does, heals the link and sends the [`END`].
fn finish(wire: &Wire, sender: &UdpSocket, packets: u64) {
    decided(wire, packets);
    wire.set_profile(0, 1, LinkProfile::default()).expect("the wire runs");
    sender.send_to(&END.to_le_bytes(), node(1)).expect("the way is there");
}

/// The counters without the packet that says [`END`].
fn without_end(pair: PairStats) -> PairStats {
    PairStats { packets: pair.packets - 1, segments: pair.segments - 1, ..pair }
}

#[test]
fn segments_are_lost_out_of_large_udp_frames_one_by_one() {
    let Some(net) = Net::new(2) else { return };
    net.without_checksum_offload(1);
    let wire = net.wire();
    wire.set_profile(0, 1, lossy(0.1)).expect("the wire runs");
    let (sender, receiver) = (net.udp(0, 0), net.udp(1, PORT));
    let numbers = net.inside(1, move || receive_all(&receiver));
    setsockopt(&sender, sockopt::UdpGsoSegment, &1000).expect("the kernel segments UDP");
    for burst in 0..400_u32 {
        let segment = |n: u32| (burst * 10 + n).to_le_bytes().into_iter().chain([n as u8; 996]);
        let payload = (0..10).flat_map(segment).collect::<Vec<_>>();
        sender.send_to(&payload, node(1)).expect("the way is there");
    }
    finish(&wire, &sender, 400);
    let numbers = join(numbers);
    let pair = without_end(stats(&wire).pair(0, 1));
    println!(
        "loss asked 10 % of large UDP frames: {} of {} segments lost, in {} frames",
        pair.lost_segments, pair.segments, pair.packets
    );
    assert_eq!(pair.segments, 4000);
    assert_eq!(pair.packets, 400, "large UDP frames reach the wire");
    assert_eq!(numbers.len() as u64, pair.segments - pair.lost_segments);
    assert!(numbers.is_sorted());
    assert_rate(pair.lost_segments, 4000, 0.1);
    assert_eq!(net.snmp(1, "Udp:", "InCsumErrors"), 0);
}

fn tcp_with_and_without_loss(family: &str, to: SocketAddr) {
    let Some(net) = Net::new(2) else { return };
    for (loss, megabytes) in [(0.0, 64), (0.01, 12), (0.1, 1)] {
        let wire = net.wire();
        wire.set_profile(0, 1, lossy(loss)).expect("the wire runs");
        let before = net.snmp(0, "Tcp:", "RetransSegs");
        let took = bulk(&net, to, megabytes << 20);
        let retransmitted = net.snmp(0, "Tcp:", "RetransSegs") - before;
        let pair = stats(&wire).pair(0, 1);
        println!(
            "{family} loss asked {:4.1} %: measured {:5.2} % of {} segments in {} frames, {retransmitted} \
             retransmitted, {:.0} Mbit/s, wire cpu {:.0} ms of {:.0} ms",
            loss * 100.0,
            pair.lost_segments as f64 / pair.segments as f64 * 100.0,
            pair.segments,
            pair.packets,
            (megabytes << 23) as f64 / took.as_secs_f64() / 1e6,
            stats(&wire).cpu_ms,
            took.as_secs_f64() * 1e3,
        );
        assert!(pair.segments > pair.packets, "large frames reach the wire");
        assert_eq!(net.snmp(1, "Tcp:", "InCsumErrors"), 0);
        if loss == 0.0 {
            assert_eq!(pair.lost_segments, 0);
        } else {
            assert_rate(pair.lost_segments, pair.segments, loss);
            assert!(retransmitted >= pair.lost_segments / 2, "what was lost is sent again");
        }
    }
}

#[test]
fn tcp_over_ipv4_delivers_every_byte_and_loses_single_segments() {
    tcp_with_and_without_loss("IPv4", node(1));
}

#[test]
fn tcp_over_ipv6_delivers_every_byte_and_loses_single_segments() {
    tcp_with_and_without_loss("IPv6", "[fd77::2]:7000".parse().expect("an address"));
}

#[test]
fn the_kernel_accepts_the_checksums_of_what_is_left_of_large_frames() {
    let Some(net) = Net::new(2) else { return };
    net.without_checksum_offload(1);
    let wire = net.wire();
    wire.set_profile(0, 1, lossy(0.02)).expect("the wire runs");
    for to in [node(1), "[fd77::2]:7000".parse().expect("an address")] {
        bulk(&net, to, 4 << 20);
    }
    let pair = stats(&wire).pair(0, 1);
    assert!(pair.lost_segments > 0 && pair.segments > pair.packets);
    assert_eq!(net.snmp(1, "Tcp:", "InCsumErrors"), 0);
}

#[test]
fn tcp_over_a_delayed_link_delivers_every_byte() {
    let Some(net) = Net::new(2) else { return };
    let wire = net.wire();
    let profile = LinkProfile {
        delay: Duration::from_millis(3),
        jitter: Duration::from_millis(1),
        loss: 0.001,
        bandwidth: 0,
    };
    both(&wire, profile);
    let took = bulk(&net, node(1), 32 << 20);
    let stats = stats(&wire);
    println!(
        "delay 3 ms, jitter 1 ms, loss 0.1 %: {:.0} Mbit/s, lateness {:.0}/{:.0}/{:.0} us, cpu {:.0} ms (spin {:.0})",
        (32 << 23) as f64 / took.as_secs_f64() / 1e6,
        stats.lateness_p50_us,
        stats.lateness_p99_us,
        stats.lateness_max_us,
        stats.cpu_ms,
        stats.spin_ms,
    );
    assert_eq!(net.snmp(1, "Tcp:", "InCsumErrors"), 0);
}

#[test]
fn a_narrow_link_passes_its_bandwidth_and_no_more() {
    let Some(net) = Net::new(2) else { return };
    let wire = net.wire();
    both(&wire, LinkProfile { bandwidth: 20_000_000, ..LinkProfile::default() });
    let took = bulk(&net, node(1), 4 << 20);
    let rate = (4 << 23) as f64 / took.as_secs_f64() / 1e6;
    println!("20 Mbit/s: {rate:.1} Mbit/s of payload");
    // Headers are a twentieth; the queue without an end costs TCP nothing.
    assert!((15.0..=20.0).contains(&rate), "{rate} Mbit/s");
}

#[test]
fn a_cut_drops_everything_of_its_own_direction_and_healing_brings_it_back() {
    let Some(net) = Net::new(3) else { return };
    let wire = net.wire();
    let (zero, one, two) = (net.udp(0, PORT), net.udp(1, PORT), net.udp(2, PORT));
    let number = |socket: &UdpSocket| {
        let mut buffer = [0; 4];
        socket.recv(&mut buffer).expect("it arrives");
        u32::from_le_bytes(buffer)
    };
    let send = |socket: &UdpSocket, n: u32, to| {
        socket.send_to(&n.to_le_bytes(), node(to)).expect("the way is there")
    };
    wire.set_profile(0, 1, LinkProfile::CUT).expect("the wire runs");
    for n in 0..50 {
        send(&zero, n, 1);
    }
    send(&zero, 100, 2);
    send(&one, 101, 0);
    send(&two, 102, 1);
    assert_eq!(
        (number(&two), number(&zero), number(&one)),
        (100, 101, 102),
        "the other directions are whole"
    );
    // All frames were read: frames of one port are, in order, and node 0 sent its last to node 2.
    assert_eq!(stats(&wire).pair(0, 1).lost_segments, 50);
    wire.set_profile(0, 1, LinkProfile::default()).expect("the wire runs");
    send(&zero, 103, 1);
    assert_eq!(number(&one), 103);
    let stats = stats(&wire);
    assert_eq!((stats.packets, stats.lost_packets), (54, 50));
}

#[test]
fn a_change_of_profile_loses_and_reorders_nothing_in_flight() {
    let Some(net) = Net::new(2) else { return };
    let wire = net.wire();
    let (sender, receiver) = (net.udp(0, 0), net.udp(1, PORT));
    let send = |range: std::ops::Range<u32>| {
        let end = u64::from(range.end);
        for n in range {
            sender.send_to(&n.to_le_bytes(), node(1)).expect("the way is there");
        }
        // The profile in force must hold for all of them.
        decided(&wire, end);
    };
    let start = net::now();
    wire.set_profile(0, 1, delay(150)).expect("the wire runs");
    send(0..50);
    wire.set_profile(0, 1, LinkProfile::CUT).expect("the wire runs");
    send(50..60);
    wire.set_profile(0, 1, LinkProfile::default()).expect("the wire runs");
    send(60..100);
    let numbers = net.inside(1, move || {
        let mut buffer = [0; 4];
        receiver.peek(&mut buffer).expect("it arrives");
        (net::now(), receive_all(&receiver))
    });
    finish(&wire, &sender, 100);
    let (first, numbers) = join(numbers);
    assert!(first - start >= Duration::from_millis(150), "packets in flight keep the delay they left with");
    assert_eq!(numbers, (0..50).chain(60..100).collect::<Vec<_>>());
}

#[test]
fn neighbours_can_be_discovered_through_the_wire() {
    let Some(net) = Net::new(3) else { return };
    let wire = net.wire();
    let flush = || feed("ip", &["neigh", "flush", "nud", "permanent"], "");
    join(net.inside(0, flush));
    let took = bulk(&net, node(1), 1 << 16);
    let stats = stats(&wire);
    assert!(stats.flooded > 0, "the question is asked aloud; {took:?}");
    assert_eq!(stats.unroutable, 0);
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let Some(net) = Net::new(2) else { return };
    let mut ports = net.ports();
    ports[1].ifname = "w9".into();
    let error = Wire::start(net.netns(2), ports, 1).expect_err("there is no w9");
    assert!(error.to_string().starts_with("w9 (node-1): "), "{error}");
}

#[test]
fn tc_understands_the_netem_script_and_does_it_where_the_kernel_can() {
    let Some(net) = Net::new(2) else { return };
    let senders = [0, 1].map(|node| Sender {
        v4: v4(node),
        v6: format!("fd77::{}", node + 1).parse().expect("an address"),
        profile: LinkProfile {
            delay: Duration::from_millis(9),
            jitter: Duration::from_micros(70),
            loss: 0.015,
            bandwidth: 0,
        },
    });
    let script = netem::setup("w0", &senders) + &netem::change("w0", 1, &LinkProfile::CUT);
    let tc = move || feed("tc", &["-force", "-batch", "-"], &script).1;
    let errors = join(net.inside(2, tc));
    let available = lab::kernel::doctor::netem_works();
    println!("netem available: {available}");
    let expected = |line: &str| {
        // Without netem: its leaves cannot be made, and then not be changed.
        let absent = line.contains("qdisc kind is unknown") || line.contains("Qdisc not found");
        !available && (absent || line.starts_with("Command failed"))
    };
    let unexpected = errors.lines().filter(|line| !expected(line)).collect::<Vec<_>>();
    assert!(unexpected.is_empty(), "{errors}");
}

#[test]
fn without_large_frames_a_sender_cuts_its_own_segments() {
    let Some(net) = Net::new(2) else { return };
    let wire = net.wire();
    let script = netem::without_large_frames("eth0");
    let (_, errors) = join(net.inside(0, move || feed("ip", &["-batch", "-"], &script)));
    assert!(errors.is_empty(), "{errors}");
    bulk(&net, node(1), 4 << 20);
    let pair = stats(&wire).pair(0, 1);
    assert_eq!(pair.segments, pair.packets);
    assert!(pair.packets > 2000);
}
