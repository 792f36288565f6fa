//! The IPv6 address that the inbound side dials its app from: `::6` on the loopback interface, as
//! Istio's.
//!
//! From `::1` an app is reached as well, but a closed port stays silent: the kernel looks for the
//! way of a reset to a loopback address on the interface that the app's own address belongs to
//! (`rt6_need_strict`), and there is none. IPv4 needs no such thing, because all of 127.0.0.0/8 is
//! local.

#![allow(unsafe_code, reason = "the ioctls that change an interface's addresses have no safe wrapper")]

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// Adds an address to an interface, and takes one away (include/uapi/linux/sockios.h).
const SIOCSIFADDR: libc::c_ulong = 0x8916;
const SIOCDIFADDR: libc::c_ulong = 0x8936;
/// The index of the loopback interface in every network namespace (LOOPBACK_IFINDEX).
const LOOPBACK: libc::c_int = 1;

/// Adds the address to the loopback interface of this network namespace; says whether it was
/// missing.
///
/// # Errors
/// If this process may not, or IPv6 is switched off.
pub fn add(address: Ipv6Addr) -> io::Result<bool> {
    change(SIOCSIFADDR, address, libc::EEXIST)
}

/// Takes it out again; says whether it was there.
///
/// # Errors
/// If this process may not.
pub fn remove(address: Ipv6Addr) -> io::Result<bool> {
    change(SIOCDIFADDR, address, libc::EADDRNOTAVAIL)
}

fn change(request: libc::c_ulong, address: Ipv6Addr, already_so: i32) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    let wanted = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr { s6_addr: address.octets() },
        ifr6_prefixlen: 128,
        ifr6_ifindex: LOOPBACK,
    };
    // SAFETY: the kernel reads one `in6_ifreq` and writes nothing.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &wanted) };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(true),
        error if error.raw_os_error() == Some(already_so) => Ok(false),
        error => Err(error),
    }
}
