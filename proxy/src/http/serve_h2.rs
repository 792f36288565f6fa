//! Serving HTTP/2 to clients: hyper's settings, a connection's part in a drain (GOAWAY, RFC 9113
//! section 6.8), and its own end: one that has carried nothing for a while, or is old, takes no
//! further request. What it has begun it finishes.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};

use super::body::PolledFrame;
use super::cork::corked;
use super::preface::FirstFrame;
use super::resets::{Reset, Resets};
use super::serve::Settings;
use crate::config::defaults::H2_PING_TIMEOUT;
use crate::drain;
use crate::error::BoxError;
use crate::world::{Exec, Net};

/// Serves one connection until it closes, or until a drain, its age or its idleness has ended its
/// last request.
///
/// # Errors
/// What ended the connection, other than the client closing it.
pub async fn http2<N, I, B, F>(
    net: N,
    io: I,
    settings: &Settings,
    mut drain: drain::Watch,
    handle: impl Fn(Request<Incoming>) -> F,
) -> Result<(), hyper::Error>
where
    N: Net,
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<B>> + 'static,
{
    let streams = Streams::new();
    let service = service_fn(|request| {
        let (open, response) = (streams.open(), handle(request));
        async {
            let response = response.await;
            match response.extensions().get() {
                Some(Reset(reason)) => Err(h2::Error::from(*reason)),
                None => Ok(response.map(|body| Counted { body, _open: open })),
            }
        }
    });
    let (io, cork) = corked(Resets::of_a_client(FirstFrame::of_a_client(io)));
    let connection = http2::Builder::new(Exec(net))
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(settings.http2.initial_stream_window_size)
        .initial_connection_window_size(settings.http2.initial_connection_window_size)
        .max_concurrent_streams(settings.http2.streams())
        .max_header_list_size(settings.header_list)
        .keep_alive_interval(settings.ping)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        result = cork.polled(connection.as_mut()) => return result,
        () = drain.signaled() => {}
        () = streams.idle(settings.max_idle) => {}
        () = after(settings.max_age) => {}
    }
    connection.as_mut().graceful_shutdown();
    cork.polled(connection).await
}

async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// How many streams of a connection are open, and if none is, since when.
#[derive(Clone)]
struct Streams(Rc<Cell<(usize, Instant)>>);

/// An open stream, until it is dropped.
struct OpenStream(Streams);

impl Streams {
    /// Of a connection that begins now.
    fn new() -> Self {
        Streams(Rc::new(Cell::new((0, Instant::now()))))
    }

    fn open(&self) -> OpenStream {
        let (open, since) = self.0.get();
        self.0.set((open + 1, since));
        OpenStream(self.clone())
    }

    /// Waits until none has been open for as long as `limit`.
    async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let now = Instant::now();
            match self.0.get() {
                (0, since) if now >= since + limit => return,
                (0, since) => sleep_until(since + limit).await,
                // Whatever ends it, there is as long to go then.
                _ => sleep(limit).await,
            }
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let (open, _) = self.0.0.get();
        self.0.0.set((open - 1, Instant::now()));
    }
}

/// A response's body, which keeps its stream open.
struct Counted<B> {
    body: B,
    _open: OpenStream,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<B::Data, B::Error> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults::H2_KEEPALIVE_INTERVAL;
    use crate::http::RequestBody;
    use crate::world::KernelNet;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::time::timeout;

    /// Reads frames until a PING comes; after how long it did.
    async fn until_ping(client: &mut DuplexStream) -> Duration {
        const PING: u8 = 6;
        let begun = Instant::now();
        loop {
            let mut header = [0; 9];
            client.read_exact(&mut header).await.unwrap();
            let [l, e, n, kind, ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, l, e, n]) as usize];
            client.read_exact(&mut payload).await.unwrap();
            if kind == PING {
                return begun.elapsed();
            }
        }
    }

    /// A call that is silent for an hour, at a server that pings every so often; after how long it
    /// was pinged.
    fn pinged_after(ping: Option<Duration>) -> Option<Duration> {
        const GET: &[u8] = &[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'a'];
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let (mut client, io) = duplex(4096);
            let settings = Settings { ping, max_idle: None, max_age: None, ..Settings::default() };
            let (_signal, watch) = drain::channel();
            let handle = |_| std::future::pending::<Response<RequestBody>>();
            let serving = http2(KernelNet::default(), io, &settings, watch, handle);
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            client.write_all(GET).await.unwrap();
            tokio::select! {
                pinged = timeout(Duration::from_secs(3600), until_ping(&mut client)) => pinged.ok(),
                _ = serving => None,
            }
        })
    }

    #[test]
    fn a_silent_client_is_pinged_as_seldom_as_grpc_wants_and_the_local_app_never() {
        assert!(pinged_after(Some(H2_KEEPALIVE_INTERVAL)) >= Some(Duration::from_secs(300)));
        assert_eq!(pinged_after(Settings::default().ping), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_for_as_long_as_no_stream_was_open_last() {
        let streams = Streams::new();
        let begun = Instant::now();
        let limit = Duration::from_secs(10);
        let load = async {
            sleep(Duration::from_secs(7)).await;
            let first = streams.open();
            sleep(Duration::from_secs(20)).await;
            let second = streams.open();
            drop(first);
            sleep(Duration::from_secs(6)).await;
            drop(second);
        };
        tokio::join!(load, streams.idle(Some(limit)));
        assert_eq!(begun.elapsed(), Duration::from_secs(7 + 20 + 6) + limit);
    }
}
