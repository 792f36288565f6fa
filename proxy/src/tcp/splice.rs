//! Pipes through which the kernel moves bytes from one socket to another without showing them to
//! this process.
//!
//! splice(2) moves references to pages from a socket to a pipe and from there to the other socket:
//! two system calls for up to a pipe's size, and no copying. Pipes cost two file descriptors each,
//! so they are taken only while a direction moves bulk and holds some, and kept for the next one in
//! a small pool of the worker. A pipe is empty when it comes back to the pool, or it is closed.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};

use crate::config::defaults::SPLICE_PIPE;
use crate::config::defaults::SPLICE_PIPES_KEPT;

thread_local! {
    // A worker is a thread; a pipe that one connection has given back serves the next.
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe with what it holds.
#[derive(Debug)]
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
}

impl Pipe {
    /// A pipe of the pool, or a new one.
    ///
    /// # Errors
    /// If there are no more file descriptors.
    pub(super) fn take() -> io::Result<Pipe> {
        if let Some(pipe) = POOL.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (out, into) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // A user with many pipes may not enlarge more of them; then it has the default of 64 KiB.
        let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(SPLICE_PIPE as i32));
        Ok(Pipe { out, into, held: 0 })
    }

    /// Gives it back for the next connection.
    pub(super) fn give_back(self) {
        debug_assert_eq!(self.held, 0, "what is left would reach another connection");
        POOL.with_borrow_mut(|pool| {
            if self.held == 0 && pool.len() < SPLICE_PIPES_KEPT {
                pool.push(self);
            }
        });
    }

    /// Bytes inside.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves what `socket` has received into the empty pipe; 0 at its end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it has received nothing, [`io::ErrorKind::InvalidInput`] if
    /// it cannot be spliced.
    pub(super) fn fill(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        // A pipe that is not empty could be full, and the same error would mean two things.
        debug_assert_eq!(self.held, 0);
        self.held = between(socket, &self.into, SPLICE_PIPE)?;
        Ok(self.held)
    }

    /// Moves what is inside to `socket`, as much as it takes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it takes nothing now.
    pub(super) fn drain(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let moved = between(&self.out, socket, self.held)?;
        self.held -= moved;
        Ok(moved)
    }

    /// Reads out what is inside.
    ///
    /// # Errors
    /// What read(2) says.
    pub(super) fn into_bytes(self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += read(&self.out, &mut bytes[filled..])?;
        }
        Ok(bytes)
    }
}

fn between(from: &impl AsFd, to: &impl AsFd, limit: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    Ok(splice(from, None, to, None, limit, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pipe_took_it_gives_back_and_only_an_empty_one_is_kept() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(&far).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        std::io::Write::write_all(&mut &near, b"twelve bytes").unwrap();
        assert_eq!(pipe.fill(&far).unwrap(), 12);
        assert_eq!(pipe.into_bytes().unwrap(), b"twelve bytes");
        assert_eq!(POOL.with_borrow(Vec::len), 0);
        Pipe::take().unwrap().give_back();
        assert_eq!(POOL.with_borrow(Vec::len), 1);
        let file = std::fs::File::open("/dev/null").unwrap();
        drop(near);
        let mut pipe = Pipe::take().unwrap();
        assert_eq!((POOL.with_borrow(Vec::len), pipe.fill(&far).unwrap()), (0, 0));
        assert!(pipe.fill(&file).is_ok_and(|n| n == 0) || pipe.held() == 0);
    }
}
