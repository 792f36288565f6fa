//! Holds back what an HTTP/2 connection writes until it has nothing more to write.
//!
//! The library hands each frame of data to the stream under it by itself, and flushes behind it. So
//! sixteen answers that are ready together would be sixteen system calls, sixteen packets and,
//! under TLS, sixteen records, and as many of each to read at the other end. Here they are one:
//! bytes are collected while the connection's future is polled, and leave when it has returned.
//! Nothing waits for a timer, so a single answer is sent at the same moment as without.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are collected at most: as many as a record of TLS carries (RFC 8446 section 5.1). A
/// longer write gains little from company, and passes without being copied.
const HOLDS: usize = 16 * 1024;

thread_local! {
    /// The buffer of whoever collects. A connection mostly empties it before another needs one.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The stream that a connection gets. Its flushes do nothing: [`Cork::polled`] flushes.
pub struct Corked<I>(Rc<RefCell<State<I>>>);

/// Lets go what a connection has written. It does not keep the stream open.
pub struct Cork<I>(Weak<RefCell<State<I>>>);

impl<I> Clone for Cork<I> {
    fn clone(&self) -> Self {
        Cork(self.0.clone())
    }
}

struct State<I> {
    io: I,
    /// What is held, of which the bytes before `sent` have left.
    held: Vec<u8>,
    sent: usize,
    /// Whether the connection has used the stream since somebody asked.
    is_used: bool,
    /// Whether the stream has bytes that it may not have sent.
    is_dirty: bool,
    /// Why what was held did not leave. The connection has not heard of it.
    failed: Option<io::Error>,
}

/// A stream for a connection, and the cork in it.
pub fn corked<I>(io: I) -> (Corked<I>, Cork<I>) {
    let state = State { io, held: Vec::new(), sent: 0, is_used: false, is_dirty: false, failed: None };
    let state = Rc::new(RefCell::new(state));
    let cork = Cork(Rc::downgrade(&state));
    (Corked(state), cork)
}

impl<I: AsyncWrite + Unpin> Cork<I> {
    /// Runs a future. If it is the one that drives the connection, which shows, what it has written
    /// leaves whenever it has been polled.
    pub async fn polled<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut drives = false;
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if let Some(state) = self.0.upgrade() {
                let mut state = state.borrow_mut();
                drives |= std::mem::take(&mut state.is_used);
                // Others must not wait for the stream in its place.
                if drives {
                    state.let_go(cx);
                }
            }
            polled
        })
        .await
    }
}

impl<I: AsyncWrite + Unpin> State<I> {
    fn let_go(&mut self, cx: &mut Context<'_>) {
        if !self.is_dirty || self.failed.is_some() {
            return;
        }
        let left = match self.drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.io).poll_flush(cx),
            other => other,
        };
        match left {
            Poll::Ready(Ok(())) => self.is_dirty = false,
            Poll::Ready(Err(error)) => {
                self.failed = Some(error);
                cx.waker().wake_by_ref();
            }
            // The stream wakes the task that is being polled, which drives the connection.
            Poll::Pending => {}
        }
    }

    /// Hands on what is held.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.held[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        if self.held.capacity() > 0 {
            self.held.clear();
            self.sent = 0;
            SPARE.set(std::mem::take(&mut self.held));
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.is_used = true;
        self.has_failed()?;
        self.is_dirty = true;
        let all = slices.iter().map(|slice| slice.len()).sum();
        if self.held.len() + all > HOLDS {
            ready!(self.drain(cx))?;
        }
        if all > HOLDS {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.held.capacity() == 0 {
            self.held = SPARE.take();
            self.held.reserve_exact(HOLDS);
        }
        slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
        Poll::Ready(Ok(all))
    }

    fn has_failed(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Corked<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        state.is_used = true;
        Pin::new(&mut state.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Corked<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        state.is_used = true;
        Poll::Ready(state.has_failed())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        state.is_used = true;
        state.has_failed()?;
        ready!(state.drain(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::task::Waker;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::timeout;

    use super::*;

    /// Notes each write by itself.
    #[derive(Default)]
    struct Wire {
        writes: Vec<Vec<u8>>,
        flushes: usize,
        /// Bytes that it takes now; `None` if the peer is gone.
        room: Option<usize>,
        waiting: Option<Waker>,
    }

    #[derive(Clone)]
    struct Handle(Rc<RefCell<Wire>>);

    impl AsyncWrite for Handle {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let mut wire = self.0.borrow_mut();
            let Some(room) = wire.room else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
            if room == 0 {
                wire.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let taken = room.min(bytes.len());
            wire.room = Some(room - taken);
            wire.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.borrow_mut().flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.borrow_mut().writes.push(b"FIN".to_vec());
            Poll::Ready(Ok(()))
        }
    }

    fn wire(room: usize) -> Handle {
        Handle(Rc::new(RefCell::new(Wire { room: Some(room), ..Wire::default() })))
    }

    fn run<F: Future>(test: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime
            .expect("a runtime")
            .block_on(async { timeout(Duration::from_secs(60), test).await.expect("it ends") })
    }

    /// Polls it until it waits.
    async fn for_a_while(future: impl Future) {
        let _ = timeout(Duration::from_secs(1), future).await;
    }

    #[test]
    fn what_is_written_in_one_turn_leaves_as_one_write_with_one_flush() {
        run(async {
            let wire = wire(usize::MAX);
            let (mut io, cork) = corked(wire.clone());
            for_a_while(cork.polled(async {
                for part in ["one ", "two ", "three"] {
                    io.write_all(part.as_bytes()).await.unwrap();
                    io.flush().await.unwrap();
                }
                assert!(wire.0.borrow().writes.is_empty(), "not yet");
                pending::<()>().await;
            }))
            .await;
            let wire = wire.0.borrow();
            assert_eq!(
                (wire.writes.concat(), wire.writes.len(), wire.flushes),
                (b"one two three".to_vec(), 1, 1)
            );
        });
    }

    #[test]
    fn a_long_write_passes_behind_what_came_before_it() {
        run(async {
            let wire = wire(usize::MAX);
            let (mut io, cork) = corked(wire.clone());
            let long = vec![b'x'; HOLDS + 1];
            cork.polled(async {
                io.write_all(b"before").await.unwrap();
                io.write_all(&long).await.unwrap();
                io.write_all(b"after").await.unwrap();
            })
            .await;
            assert_eq!(wire.0.borrow().writes, [&b"before"[..], &long, b"after"]);
        });
    }

    #[test]
    fn more_than_is_held_leaves_in_the_order_in_which_it_was_written() {
        run(async {
            let wire = wire(usize::MAX);
            let (mut io, cork) = corked(wire.clone());
            let all: Vec<u8> = (0..100_000).map(|n| (n % 251) as u8).collect();
            cork.polled(async {
                for part in all.chunks(999) {
                    io.write_all(part).await.unwrap();
                }
            })
            .await;
            let wire = wire.0.borrow();
            assert_eq!(wire.writes.concat(), all);
            assert!(wire.writes.len() <= all.len() / HOLDS + 1, "{}", wire.writes.len());
        });
    }

    #[test]
    fn a_stream_that_takes_no_more_is_gone_on_with_when_it_does() {
        run(async {
            let wire = wire(3);
            let (mut io, cork) = corked(wire.clone());
            let connection = cork.polled(async {
                io.write_all(b"0123456789").await.unwrap();
                io.flush().await.unwrap();
                pending::<()>().await;
            });
            let peer = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_eq!(wire.0.borrow().writes.concat(), b"012");
                wire.0.borrow_mut().room = Some(100);
                wire.0.borrow_mut().waiting.take().expect("somebody waits").wake();
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_eq!(wire.0.borrow().writes.concat(), b"0123456789");
            };
            tokio::select! {
                () = connection => {}
                () = peer => {}
            }
        });
    }

    #[test]
    fn a_connection_that_is_silent_hears_that_its_last_write_has_failed() {
        run(async {
            let wire = wire(0);
            wire.0.borrow_mut().room = None;
            let (mut io, cork) = corked(wire.clone());
            let ended = cork.polled(async {
                io.write_all(b"anything").await.unwrap();
                // As the library does whenever it is polled.
                poll_fn(|cx| match Pin::new(&mut io).poll_flush(cx) {
                    Poll::Ready(Ok(())) => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
                    Poll::Pending => Poll::Pending,
                })
                .await
            });
            assert_eq!(ended.await, io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn nothing_is_left_behind_at_the_end() {
        run(async {
            let wire = wire(usize::MAX);
            let (mut io, cork) = corked(wire.clone());
            cork.polled(async {
                io.write_all(b"goaway").await.unwrap();
                io.shutdown().await.unwrap();
                drop(io);
            })
            .await;
            assert_eq!(wire.0.borrow().writes, [&b"goaway"[..], b"FIN"]);
            assert_eq!(Rc::strong_count(&wire.0), 1, "a cork keeps no stream open");
        });
    }

    #[test]
    fn only_who_drives_the_connection_waits_for_its_stream() {
        run(async {
            let (near, mut far) = duplex(4);
            let (mut io, cork) = corked(near);
            let driving = cork.polled(async {
                io.write_all(b"0123456789").await.unwrap();
                io.flush().await.unwrap();
                let mut answer = [0; 2];
                io.read_exact(&mut answer).await.unwrap();
                answer
            });
            let other = cork.polled(async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                pending::<()>().await;
            });
            let peer = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let mut all = [0; 10];
                far.read_exact(&mut all).await.unwrap();
                far.write_all(b"ok").await.unwrap();
                assert_eq!(&all, b"0123456789");
                pending::<()>().await;
            };
            tokio::select! {
                answer = driving => assert_eq!(&answer, b"ok"),
                () = other => {}
                () = peer => {}
            }
        });
    }
}
