//! A few network namespaces around a wire, and work to do inside them. Everything is removed on
//! drop.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lab::fabric::{PortSpec, Wire};
use nix::sched::{CloneFlags, setns};

pub const PORT: u16 = 7000;

/// One at a time: these tests measure.
static ALONE: Mutex<()> = Mutex::new(());
static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Net {
    prefix: String,
    nodes: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Net {
    /// A fabric and this many nodes, or `None` (with the reason on the terminal) where that is
    /// impossible.
    pub fn new(nodes: usize) -> Option<Net> {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var_os("LAB_REQUIRE_KERNEL").is_none(),
                "LAB_REQUIRE_KERNEL is set, but we are not root"
            );
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(|poison| poison.into_inner());
        let prefix = format!("wire{}-{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Net { prefix, nodes, _alone: alone };
        let mut script = String::new();
        for name in net.names() {
            script += &format!("netns add {name}\n");
        }
        ip(&["-batch", "-"], &script);
        script.clear();
        for node in 0..nodes {
            script += &format!("link add name w{node} type veth peer name eth0 netns {}\n", net.name(node));
            script += &format!("link set dev w{node} up\n");
        }
        // A pair without a wire, for comparison.
        let (zero, one) = (net.name(0), net.name(1));
        script += &format!("link add name bare netns {zero} type veth peer name bare netns {one}\n");
        ip(&["-n", &net.name(nodes), "-batch", "-"], &script);
        for node in 0..nodes {
            let mut script = format!("link set dev eth0 address {} up\nlink set dev lo up\n", mac_text(node));
            script += &format!("address add {}/24 dev eth0\n", v4(node));
            script += &format!("address add fd77::{}/64 dev eth0 nodad\n", node + 1);
            for other in (0..nodes).filter(|&other| other != node) {
                let mac = mac_text(other);
                script += &format!("neigh add {} lladdr {mac} dev eth0 nud permanent\n", v4(other));
                script += &format!("neigh add fd77::{} lladdr {mac} dev eth0 nud permanent\n", other + 1);
            }
            if node < 2 {
                script += &format!("link set dev bare up\naddress add 10.78.0.{}/24 dev bare\n", node + 1);
            }
            ip(&["-n", &net.name(node), "-batch", "-"], &script);
            // Feels loss, which bbr does not, and is allowed in every namespace, which cubic is
            // not.
            let reno = || std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno");
            join(net.inside(node, reno)).expect("reno is always there");
        }
        Some(net)
    }

    pub fn wire(&self) -> Wire {
        Wire::start(self.netns(self.nodes), self.ports(), 42).expect("the wire starts")
    }

    pub fn ports(&self) -> Vec<PortSpec> {
        let port =
            |node| PortSpec { name: format!("node-{node}"), ifname: format!("w{node}"), mac: mac(node) };
        (0..self.nodes).map(port).collect()
    }

    /// The namespace of a node; the fabric's comes after the last.
    pub fn netns(&self, node: usize) -> OwnedFd {
        File::open(format!("/run/netns/{}", self.name(node))).expect("the namespace exists").into()
    }

    /// Runs `work` on a thread of its own inside a node (or the fabric).
    pub fn inside<T: Send + 'static>(
        &self,
        node: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let netns = self.netns(node);
        thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).expect("we are root");
            work()
        })
    }

    /// A UDP socket inside a node with room for a burst.
    pub fn udp(&self, node: usize, port: u16) -> UdpSocket {
        let bind = move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(16 << 20))
                .expect("root");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid time");
            socket
        };
        join(self.inside(node, bind))
    }

    /// A counter of /proc/net/snmp, such as ("Tcp:", "InCsumErrors").
    pub fn snmp(&self, node: usize, family: &'static str, field: &'static str) -> u64 {
        // Not /proc/net, which is the process's first thread's.
        let read = || std::fs::read_to_string("/proc/thread-self/net/snmp").expect("proc is mounted");
        let text = join(self.inside(node, read));
        let mut lines = text.lines().filter(|line| line.starts_with(family));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let position = names.split(' ').position(|name| name == field).expect("the field exists");
        values.split(' ').nth(position).and_then(|value| value.parse().ok()).expect("a number")
    }

    /// Makes the kernel finish the checksums of (and cut) what the wire sends to a node, so that
    /// the node checks them. Between veth ends it otherwise trusts unfinished ones.
    #[allow(unsafe_code, reason = "the ethtool request has no safe wrapper")]
    pub fn without_checksum_offload(&self, node: usize) {
        /// `struct ethtool_value`.
        #[repr(C)]
        struct Value {
            command: u32,
            data: u32,
        }
        const ETHTOOL_STXCSUM: u32 = 0x17;
        let socket = join(self.inside(self.nodes, || UdpSocket::bind("0.0.0.0:0").expect("any port")));
        let mut value = Value { command: ETHTOOL_STXCSUM, data: 0 };
        // SAFETY: all zeros is a request without a name; the name written is shorter than its
        // field; the kernel reads and writes one `Value`, which outlives the call.
        let result = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(format!("w{node}").bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_data = (&raw mut value).cast();
            libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCETHTOOL, &raw mut request)
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    fn name(&self, node: usize) -> String {
        let last = if node == self.nodes { "fabric".into() } else { node.to_string() };
        format!("{}{last}", self.prefix)
    }

    fn names(&self) -> Vec<String> {
        (0..=self.nodes).map(|node| self.name(node)).collect()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.names() {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

pub fn join<T>(handle: JoinHandle<T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub fn v4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, node as u8 + 1)
}

fn mac(node: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, node as u8 + 1]
}

fn mac_text(node: usize) -> String {
    format!("02:00:00:00:00:{:02x}", node + 1)
}

/// Runs `ip` with this on its standard input.
fn ip(arguments: &[&str], input: &str) {
    let (_, errors) = feed("ip", arguments, input);
    assert!(errors.is_empty(), "ip {arguments:?}: {errors}");
}

/// Runs a program and returns its output and its errors.
pub fn feed(program: &str, arguments: &[&str], input: &str) -> (String, String) {
    let piped = Stdio::piped;
    let child = Command::new(program).args(arguments).stdin(piped()).stdout(piped()).stderr(piped()).spawn();
    let mut child = child.expect("the program is installed");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("the program reads");
    let output = child.wait_with_output().expect("the program ends");
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

pub fn now() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("the clock runs").into()
}

/// Sends `count` datagrams one after the other from node 0 to an echo on node 1; returns the round
/// trips in order.
pub fn ping_pong(net: &Net, to: SocketAddr, count: usize) -> Vec<Duration> {
    let server = net.udp(1, PORT);
    let echo = net.inside(1, move || {
        let mut buffer = [0; 64];
        while let Ok((len, from)) = server.recv_from(&mut buffer) {
            if len == 0 {
                return;
            }
            server.send_to(&buffer[..len], from).expect("the way back is there");
        }
    });
    let client = net.udp(0, 0);
    let times = net.inside(0, move || {
        let mut buffer = [0; 64];
        let times = (0..count)
            .map(|n| {
                let start = now();
                client.send_to(&n.to_le_bytes(), to).expect("the way is there");
                let len = client.recv(&mut buffer).expect("nothing is lost");
                assert_eq!(buffer[..len], n.to_le_bytes());
                now() - start
            })
            .collect();
        client.send_to(&[], to).expect("the way is there");
        times
    });
    let mut times: Vec<_> = join(times);
    join(echo);
    times.sort_unstable();
    times
}

/// Sends `len` bytes that follow from a formula over TCP from node 0 to `to` on node 1, checks
/// every one of them, and returns how long it took.
pub fn bulk(net: &Net, to: SocketAddr, len: usize) -> Duration {
    let (listening, ready) = mpsc::channel();
    let server = net.inside(1, move || {
        let listener = TcpListener::bind(to).expect("the address is ours");
        listening.send(()).expect("somebody waits");
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid time");
        let (mut buffer, mut at) = (vec![0; 1 << 18], 0);
        loop {
            let got = stream.read(&mut buffer).expect("the stream goes on");
            if got == 0 {
                break;
            }
            for (offset, byte) in buffer[..got].iter().enumerate() {
                assert_eq!(*byte, byte_at(at + offset), "byte {}", at + offset);
            }
            at += got;
        }
        assert_eq!(at, len);
        stream.write_all(b"k").expect("the client waits");
    });
    let data: Vec<u8> = (0..len).map(byte_at).collect();
    ready.recv().expect("the server lives");
    let client = net.inside(0, move || {
        let mut stream =
            TcpStream::connect_timeout(&to, Duration::from_secs(10)).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid time");
        let start = now();
        stream.write_all(&data).expect("the server reads");
        stream.shutdown(std::net::Shutdown::Write).expect("connected");
        stream.read_exact(&mut [0]).expect("the server has it all");
        now() - start
    });
    join(server);
    join(client)
}

/// Has no period that a segment, a run or a buffer could share.
fn byte_at(position: usize) -> u8 {
    ((position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8
}
