//! The kernel-facing part of the wire: a raw socket on a network interface, and a wait with
//! nanoseconds.
//!
//! A [`PacketPort`] takes and gives whole Ethernet frames with the virtio header in front
//! (`PACKET_VNET_HDR`): without it the checksums that the kernel leaves unfinished would arrive as
//! garbage, and large frames could not be sent at all. Frames that the port itself sends are not
//! seen again (`PACKET_IGNORE_OUTGOING`).
//!
//! This file is the only one of the fabric with `unsafe`: options and a system call that no safe
//! wrapper offers.

#![allow(
    unsafe_code,
    reason = "packet socket options, epoll_pwait2 and sched_setscheduler have no safe wrapper"
)]

use std::io::{self, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Bytes that a frame can have, virtio header included: 64 KiB of IP packet and its headers, with
/// room to spare.
pub const MAX_FRAME: usize = 66 * 1024;

/// Receive buffer of each port, bytes as the kernel counts them (about twice the payload): some
/// tens of milliseconds of a TCP flow at full speed.
const RECEIVE_BUFFER: usize = 32 * 1024 * 1024;

/// Monotonic time in nanoseconds: the clock of the wire.
pub fn now_ns() -> u64 {
    nanos(ClockId::CLOCK_MONOTONIC)
}

/// Processor time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    nanos(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn nanos(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// A raw socket on one interface.
#[derive(Debug)]
pub struct PacketPort {
    socket: Socket,
    control: Vec<u8>,
}

/// A frame that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer, virtio header included.
    pub len: usize,
    /// When the kernel took it from the interface, on the clock of [`now_ns`].
    pub arrived_ns: u64,
}

impl PacketPort {
    /// Opens the interface `ifname` of the calling thread's network namespace. Needs CAP_NET_RAW
    /// there.
    pub fn open(ifname: &str) -> io::Result<PacketPort> {
        Self::open_for(ifname, false)
    }

    /// The same to look on: what the interface sends is seen too.
    pub fn open_tap(ifname: &str) -> io::Result<PacketPort> {
        Self::open_for(ifname, true)
    }

    fn open_for(ifname: &str, sees_outgoing: bool) -> io::Result<PacketPort> {
        let index = if_nametoindex(ifname)?;
        // Protocol 0 receives nothing until the socket is bound, so no frame of another interface
        // slips in.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        set_packet_option(&socket, libc::PACKET_VNET_HDR)?;
        if !sees_outgoing {
            set_packet_option(&socket, libc::PACKET_IGNORE_OUTGOING)?;
        }
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // Beyond the system's limit if we may, else up to it.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        socket.bind(&link_address(index))?;
        Ok(PacketPort { socket, control: nix::cmsg_space!(libc::timespec) })
    }

    /// Takes the next frame, or `None` if none waits. An error stands for one frame that is gone.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut slices = [IoSliceMut::new(buffer)];
        let control = Some(self.control.as_mut_slice());
        let message =
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, control, MsgFlags::MSG_DONTWAIT) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        if message.flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame larger than the buffer"));
        }
        let stamp = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp).as_nanos() as u64),
            _ => None,
        });
        // The stamp is wall time. Only its distance from now is used, so a step of that clock moves
        // one frame at most.
        let now = now_ns();
        let age = stamp.map_or(0, |stamp| nanos(ClockId::CLOCK_REALTIME).saturating_sub(stamp));
        let age = if age > MAX_AGE_NS { 0 } else { age };
        Ok(Some(Received { len: message.bytes, arrived_ns: now.saturating_sub(age) }))
    }

    /// Hands a frame (virtio header included) to the other end of the interface. Never waits.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// How many frames the kernel dropped since the last call because the port's buffer was full.
    pub fn take_drops(&self) -> u64 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = mem::size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the option writes at most `len` bytes to a live struct of plain integers of that
        // size.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &mut len,
            )
        };
        if result == 0 { u64::from(stats.tp_drops) } else { 0 }
    }
}

/// A stamp older than this comes from a step of the wall clock and not from a frame that waited.
const MAX_AGE_NS: u64 = 5_000_000_000;

impl AsFd for PacketPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Switches an option of packet sockets on.
fn set_packet_option(socket: &Socket, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from a live integer of that size.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// All protocols of the interface with this index.
fn link_address(index: u32) -> SockAddr {
    // SAFETY: `sockaddr_ll` is plain integers, for which all zeros is a value; it is smaller than
    // the storage that it is written to, which is aligned for every kind of address, and the length
    // told is its own.
    let (_, address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let mut address: libc::sockaddr_ll = mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index as i32;
            storage.cast::<libc::sockaddr_ll>().write(address);
            *len = mem::size_of_val(&address) as libc::socklen_t;
            Ok(())
        })
        .expect("the closure cannot fail")
    };
    address
}

/// Waits for several file descriptors at once, or until a time that is exact to the kernel's
/// timers.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    /// A poller that waits for nothing yet.
    pub fn new() -> io::Result<Poller> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Poller { epoll, events: vec![EpollEvent::empty(); 64] })
    }

    /// Waits for `fd` to be readable from now on; it is reported as `token`.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// Waits at most `timeout_ns` (`None`: for ever) and puts what is readable into `ready`.
    pub fn wait(&mut self, timeout_ns: Option<u64>, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let timeout = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), |timeout| timeout as *const libc::timespec);
        // SAFETY: `EpollEvent` is `repr(transparent)` over `epoll_event`, the kernel writes at most
        // as many as the vector holds, the timeout lives in this frame and no signal mask is given.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.0.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                timeout,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        match Errno::result(count) {
            Ok(count) => ready.extend(self.events[..count as usize].iter().map(EpollEvent::data)),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Puts the calling thread before all ordinary ones.
pub fn run_first(priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 names the calling thread and the parameter is read from a live struct.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
