//! The floor: the smallest relay that could stand in a sidecar's place. It knows nothing of any
//! protocol, so what it costs is what the kernel takes for one more process on the way: one epoll,
//! one read, one write for each message.
//!
//! Only for loads whose ends always read what comes to them, as those of this bench do: when one
//! end takes no more, the whole relay waits for it. Connecting blocks as well.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Read at once: a bulk transfer gains little from more.
const BUFFER: usize = 64 << 10;
/// Marks events of the listener.
const LISTENER: u64 = u64::MAX;

/// Relays every connection to `port` on to `to`, for ever.
///
/// # Errors
/// If it cannot listen, accept or connect.
pub fn serve(port: u16, to: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    // The two ends of a connection stand at 2n and 2n + 1.
    let mut ends: Vec<Option<TcpStream>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let n = match epoll.wait(&mut events, EpollTimeout::NONE) {
            // A tracer that attaches interrupts the wait.
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        // A place that came free is given away only after the events that may still mean its old
        // connection.
        let mut freed = Vec::new();
        for event in &events[..n] {
            if event.data() == LISTENER {
                let (near, _) = listener.accept()?;
                let far = TcpStream::connect(to)?;
                let at = free.pop().unwrap_or_else(|| {
                    ends.extend([None, None]);
                    ends.len() - 2
                });
                for (at, end) in [(at, near), (at + 1, far)] {
                    end.set_nodelay(true)?;
                    end.set_nonblocking(true)?;
                    epoll.add(&end, EpollEvent::new(EpollFlags::EPOLLIN, at as u64))?;
                    ends[at] = Some(end);
                }
                continue;
            }
            let at = event.data() as usize;
            let (Some(from), Some(other)) = (&ends[at], &ends[at ^ 1]) else { continue };
            if !matches!(pass(from, other, &mut buffer), Ok(true)) {
                // One end is gone. Nothing in the bench half-closes, so the other may go too.
                (ends[at], ends[at ^ 1]) = (None, None);
                freed.push(at & !1);
            }
        }
        free.append(&mut freed);
    }
}

/// Moves what is there. False at the end of the stream.
fn pass(mut from: &TcpStream, mut to: &TcpStream, buffer: &mut [u8]) -> io::Result<bool> {
    let n = match from.read(buffer) {
        Ok(0) => return Ok(false),
        Ok(n) => n,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut left = &buffer[..n];
    while !left.is_empty() {
        match to.write(left) {
            Ok(n) => left = &left[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
