//! Copies between two streams in both directions, with half-close kept: when one side stops sending, the other side is
//! told (FIN) and may go on answering.
//!
//! Unlike `tokio::io::copy_bidirectional`, a half-closed connection that stays silent is cut after a limit: peers that
//! never close their half would otherwise hold it for ever (linkerd2#8033).

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

/// Buffer of each direction. ztunnel copies with 16 KiB once a connection has moved 128 KiB.
const BUFFER: usize = 16 * 1024;

/// Bytes that were moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the first stream to the second.
    pub forth: u64,
    /// From the second to the first.
    pub back: u64,
}

/// Copies until both sides have closed, one fails, or one has closed and the other was silent for `half_close`.
///
/// # Errors
/// The first failure of either stream; a peer that resets after everything was said is not one.
pub async fn both_ways<A, B>(a: A, b: B, half_close: Duration) -> io::Result<Moved>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let (forth, back) = (Cell::new(0), Cell::new(0));
    let silent_since = Cell::new(Instant::now());
    let half_closed = tokio::sync::Notify::new();
    let watchdog = async {
        half_closed.notified().await;
        loop {
            let deadline = silent_since.get() + half_close;
            sleep_until(deadline).await;
            if silent_since.get() + half_close <= deadline {
                return;
            }
        }
    };
    let copy = async {
        tokio::try_join!(
            one_way(&mut a_read, &mut b_write, &forth, &silent_since, &half_closed),
            one_way(&mut b_read, &mut a_write, &back, &silent_since, &half_closed),
        )
    };
    tokio::select! {
        biased;
        result = copy => { result?; }
        () = watchdog => {}
    }
    Ok(Moved { forth: forth.get(), back: back.get() })
}

async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Cell<u64>,
    silent_since: &Cell<Instant>,
    half_closed: &tokio::sync::Notify,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        silent_since.set(Instant::now());
        if n == 0 {
            break;
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        moved.set(moved.get() + n as u64);
        silent_since.set(Instant::now());
    }
    half_closed.notify_one();
    match to.shutdown().await {
        // The other side may have closed fully already; then it knows.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_answer_still_arrives_after_the_question_was_closed() {
        let (mut client, a) = tokio::io::duplex(64);
        let (b, mut server) = tokio::io::duplex(64);
        let client = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let server = async {
            let mut question = String::new();
            server.read_to_string(&mut question).await.unwrap();
            tokio::time::sleep(LIMIT / 2).await;
            server.write_all(b"answer to ").await.unwrap();
            tokio::time::sleep(LIMIT / 2).await;
            server.write_all(question.as_bytes()).await.unwrap();
            drop(server);
        };
        let (moved, answer, ()) = tokio::join!(both_ways(a, b, LIMIT), client, server);
        assert_eq!(answer, "answer to question");
        assert_eq!(moved.unwrap(), Moved { forth: 8, back: 18 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_connection_that_stays_silent_is_cut_and_an_open_one_is_not() {
        let (mut client, a) = tokio::io::duplex(64);
        let (b, _server) = tokio::io::duplex(64);
        let copy = both_ways(a, b, LIMIT);
        let begun = Instant::now();
        let close = async {
            tokio::time::sleep(10 * LIMIT).await;
            client.shutdown().await.unwrap();
        };
        let (result, ()) = tokio::join!(copy, close);
        result.unwrap();
        assert_eq!(begun.elapsed(), 11 * LIMIT);
    }
}
