//! Asks the kernel what became of the socket at the other end of a connection within this host (sock_diag(7)).
//!
//! TCP has one FIN for two things: "I send no more" (shutdown(2)) and "I am gone" (close(2)). Between hosts nobody can
//! tell them apart, but a sidecar and its app share a kernel, and it knows: a socket without an inode has no owner
//! left. This asks for one socket by its addresses, which is a look into a hash table, and takes no privilege.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as Kernel};

/// Room for one answer: a header, a socket, and attributes that were not asked for.
const ANSWER: usize = 1024;

/// Whether a process holds the TCP socket of this host that is bound to `local` and connected to `remote`; `None` if there
/// is no such socket.
///
/// # Errors
/// What netlink says, where it cannot be used.
pub fn is_held(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<bool>> {
    let request = InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
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
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    // The kernel answers within the call that asks.
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.set_non_blocking(true)?;
    socket.send_to(&bytes, &Kernel::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(ANSWER);
    socket.recv(&mut answer, 0)?;
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
            Ok(Some(found.header.inode != 0))
        }
        NetlinkPayload::Error(e) if e.raw_code() == -libc::ENOENT => Ok(None),
        NetlinkPayload::Error(e) => Err(e.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
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
}
