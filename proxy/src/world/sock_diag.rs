//! Asks the kernel what became of the socket at the other end of a connection within this host
//! (sock_diag(7)).
//!
//! TCP has one FIN for two things: "I send no more" (shutdown(2)) and "I am gone" (close(2)).
//! Between hosts nobody can tell them apart, but a sidecar and its app share a kernel, and it
//! knows: a socket without an inode has no owner left. This asks for one socket by its addresses,
//! which is a look into a hash table, and takes no privilege.
//!
//! Connection tracking may have given the client's port another number on the way here, if another
//! of its connections to another address has or had it. Then its socket is not found by that
//! number, and is looked for among all that have sent a FIN to the same address and still wait for
//! one.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as Kernel};

/// Room for one answer: a header, a socket, and attributes that were not asked for.
const ANSWER: usize = 1024;
/// Room for a part of an answer that has many: the kernel sends no larger ones.
const PART: usize = 32 * 1024;

/// Whether a process holds the TCP socket of this host that is bound to `local` and connected to
/// `remote`; `None` if there is no such socket.
///
/// # Errors
/// What netlink says, where it cannot be used.
pub fn is_held(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<bool>> {
    Ok(find(local, remote)?.map(|found| found.inode != 0))
}

/// One socket.
fn find(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<InetResponseHeader>> {
    let socket = ask(NLM_F_REQUEST, StateFlags::all(), local, remote)?;
    let mut answer = Vec::with_capacity(ANSWER);
    socket.recv(&mut answer, 0)?;
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => Ok(Some(found.header)),
        NetlinkPayload::Error(e) if e.raw_code() == -libc::ENOENT => Ok(None),
        NetlinkPayload::Error(e) => Err(e.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The user whose process made the TCP socket of this host that is bound to `local` and connected
/// to `remote`; `None` if there is no such socket.
///
/// # Errors
/// What netlink says, where it cannot be used.
pub fn owner(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    Ok(find(local, remote)?.map(|found| found.uid))
}

/// Whether processes hold the sockets of this host at `local` that have sent a FIN to `remote` and
/// got none back; `None` if there are none, or some are held and others not. Looks at every socket,
/// so nobody should ask often.
///
/// # Errors
/// What netlink says, where it cannot be used.
pub fn are_held(local: IpAddr, remote: SocketAddr) -> io::Result<Option<bool>> {
    // Most who are asked for are on other hosts, and nothing of this one can be theirs.
    if UdpSocket::bind((local, 0)).is_err() {
        return Ok(None);
    }
    let waiting = StateFlags::FIN_WAIT1 | StateFlags::FIN_WAIT2;
    let socket = ask(NLM_F_REQUEST | NLM_F_DUMP, waiting, (local, 0).into(), remote)?;
    let (mut held, mut gone) = (false, false);
    loop {
        let mut part = Vec::with_capacity(PART);
        socket.recv(&mut part, 0)?;
        let mut rest = &part[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Messages begin at multiples of four bytes (netlink(7)).
            let length = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                    let id = &found.header.socket_id;
                    if id.source_address == local && id.destination_address == remote.ip() {
                        held |= found.header.inode != 0;
                        gone |= found.header.inode == 0;
                    }
                }
                NetlinkPayload::Done(_) => return Ok((held != gone).then_some(held)),
                NetlinkPayload::Error(e) => return Err(e.to_io()),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// Asks about TCP sockets. The kernel answers within the call, or begins to.
fn ask(flags: u16, states: StateFlags, local: SocketAddr, remote: SocketAddr) -> io::Result<Socket> {
    let request = InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: 0,
            cookie: [0xff; 8],
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.set_non_blocking(true)?;
    socket.send_to(&bytes, &Kernel::new(0, 0), 0)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_that_is_shut_down_is_held_and_one_that_is_closed_is_not() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let to = listener.local_addr().unwrap();
            let client = TcpStream::connect(to).unwrap();
            let (_accepted, from) = listener.accept().unwrap();
            assert_eq!(is_held(from, to).unwrap(), Some(true));
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(is_held(from, to).unwrap(), Some(true));
            drop(client);
            assert_eq!(is_held(from, to).unwrap(), Some(false));
            assert_eq!(is_held(from, "127.0.0.1:1".parse().unwrap()).ok().flatten(), None);
        }
    }

    #[test]
    fn without_the_port_those_that_have_sent_a_fin_are_found_if_they_are_alike() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let to = listener.local_addr().unwrap();
            let connect = || (TcpStream::connect(to).unwrap(), listener.accept().unwrap());
            let held = || are_held(to.ip(), to).unwrap();
            let _open = connect();
            assert_eq!(held(), None, "nobody has sent a FIN");
            let half = connect();
            half.0.shutdown(Shutdown::Write).unwrap();
            assert_eq!(held(), Some(true));
            let (closed, accepted) = connect();
            drop(closed);
            assert_eq!(held(), None, "one of each");
            drop(half);
            assert_eq!(held(), Some(false));
            drop(accepted);
            assert_eq!(held(), None, "that one is over");
            assert_eq!(are_held("192.0.2.1".parse().unwrap(), to).unwrap(), None, "not of this host");
        }
    }
}
