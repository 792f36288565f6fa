//! A socket whose reads are given.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proxy::world::{AfterFin, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Reads give one piece each.
pub struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    /// It waits to be asked, and its stream ends after the last piece. A client's stays silent.
    is_server: bool,
    /// A client that leaves does so after as much silence, and this is what is left of it.
    leaves: Option<(Duration, Option<Pin<Box<Sleep>>>)>,
    reader: Option<Waker>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Pieces {
    /// A client that sends `bytes` cut at `cuts`, which are in order, and what it is sent.
    pub fn of_a_client(bytes: &[u8], cuts: &[usize]) -> (Pieces, Arc<Mutex<Vec<u8>>>) {
        Pieces::new(bytes, cuts, false)
    }

    /// The same of one that leaves when it has been silent for so long.
    pub fn leaving_after(self, silence: Duration) -> Pieces {
        Pieces { leaves: Some((silence, None)), ..self }
    }

    /// A server that answers with `bytes`.
    pub fn of_a_server(bytes: &[u8], cuts: &[usize]) -> (Pieces, Arc<Mutex<Vec<u8>>>) {
        Pieces::new(bytes, cuts, true)
    }

    fn new(bytes: &[u8], cuts: &[usize], is_server: bool) -> (Pieces, Arc<Mutex<Vec<u8>>>) {
        let mut pieces = VecDeque::new();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            if cut > from && cut <= bytes.len() {
                pieces.push_back(bytes[from..cut].to_vec());
                from = cut;
            }
        }
        let written = Arc::<Mutex<Vec<u8>>>::default();
        (Pieces { pieces, is_server, leaves: None, reader: None, written: written.clone() }, written)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_server && self.written.lock().unwrap().is_empty() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match self.pieces.pop_front() {
            Some(mut piece) => {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.pieces.push_front(rest);
                }
                Poll::Ready(Ok(()))
            }
            None if self.is_server => Poll::Ready(Ok(())),
            None => match &mut self.leaves {
                Some((silence, left)) => {
                    let left = left.get_or_insert_with(|| Box::pin(sleep(*silence)));
                    left.as_mut().poll(cx).map(Ok)
                }
                // Nobody is woken: a time limit ends it, on a clock that does not wait.
                None => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        self.written.lock().unwrap().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Cuts that the first byte of an input asks for.
pub fn cuts(seed: u8, len: usize) -> Vec<usize> {
    let step = usize::from(seed % 16);
    if step == 0 { Vec::new() } else { (step..len).step_by(step).collect() }
}

impl Transport for Pieces {
    fn abort(&mut self) {}

    fn behind_fin(&self) -> AfterFin {
        AfterFin::Unknown
    }
}
