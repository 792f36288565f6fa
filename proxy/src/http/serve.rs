//! Serving HTTP to clients: a connection from its first request to the end of its tunnel, and of
//! HTTP/1 hyper's settings and a connection's part in a drain. HTTP/2's are in [`super::serve_h2`].

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};

use super::closing::{ClientEnd, Closing, Shape};
use super::interim::{Interim, InterimSender};
use super::strict::Strict;
use super::tunnel::{self, TunnelSlot};
use super::{refusal, serve_h2};
use crate::config::defaults::{
    ADMIN_AGE, ADMIN_IDLE, AGE_JITTER, HEADER_TIMEOUT, HEADERS, LAST_REQUEST, MAX_CONNECTION_AGE,
    MAX_CONNECTION_IDLE, PARK_AFTER,
};
use crate::config::{Http1, Http2, Snapshot};
use crate::connection::{Connection, WireProtocol};
use crate::drain;
use crate::error::{BoxError, Error};
use crate::mutant::Mutant;
use crate::telemetry::Open;
use crate::world::{Net, Transport};

/// How a client's connection is served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How HTTP/1 is read.
    pub http1: Http1,
    /// HTTP/2's largest list of headers.
    pub header_list: u32,
    /// What a client of HTTP/2 may send at once.
    pub http2: Http2,
    /// How long a client of HTTP/1 may take to send a request's head.
    pub request_headers: Duration,
    /// How long a connection of HTTP/2 may carry nothing.
    pub max_idle: Option<Duration>,
    /// How old one may become.
    pub max_age: Option<Duration>,
    /// How often a client of HTTP/2 that is silent is asked for a sign of life, if it is.
    pub ping: Option<Duration>,
    /// Counts the connections of HTTP/1 that are parked.
    pub parked: Gauge,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            http1: Http1::default(),
            header_list: Http1::default().header_list(),
            http2: Http2::default(),
            request_headers: HEADER_TIMEOUT,
            max_idle: Some(MAX_CONNECTION_IDLE),
            max_age: Some(MAX_CONNECTION_AGE),
            // The kernel tells when the local app goes.
            ping: None,
            parked: Gauge::default(),
        }
    }
}

impl Settings {
    /// Those of `snapshot`, of a connection that begins now and counts in `parked` while it is
    /// parked: `ages` spreads their ends.
    pub fn of(snapshot: &Snapshot, parked: Gauge, http1: Http1, ages: &mut StdRng) -> Self {
        let timeouts = &snapshot.timeouts;
        let spread = 1.0 - AGE_JITTER..=1.0 + AGE_JITTER;
        Settings {
            http1,
            header_list: snapshot.http1.header_list(),
            http2: snapshot.http2,
            request_headers: timeouts.request_headers,
            max_idle: timeouts.max_connection_idle,
            max_age: timeouts.max_connection_age.map(|age| age.mul_f64(ages.random_range(spread))),
            parked,
            ..Settings::default()
        }
    }

    /// When a client of HTTP/1 that is parked now has been silent for too long.
    fn silent_until(&self) -> Instant {
        Instant::now() + self.request_headers.saturating_sub(PARK_AFTER)
    }

    /// The same for clients on other machines, which may vanish without a word.
    pub fn of_remote(snapshot: &Snapshot, parked: Gauge, http1: Http1, ages: &mut StdRng) -> Self {
        let ping = Some(snapshot.http2.connection_keepalive_interval);
        Settings { ping, ..Settings::of(snapshot, parked, http1, ages) }
    }
}

/// What the handler of a request may do with its client's connection beside answering.
pub struct Client {
    /// Opens a tunnel.
    pub tunnel: TunnelSlot,
    /// Sends interim responses; `None` if the client must not get any.
    pub interim: Option<InterimSender>,
    /// How its connection ends, if that is HTTP/1.
    pub end: Option<ClientEnd>,
}

/// Serves an HTTP connection to its end, tunnel included. `refuse` answers what is no HTTP/1.
pub async fn connection<N, I, B, F>(
    net: &N,
    connection: &Connection,
    io: I,
    settings: &Settings,
    drain: drain::Watch,
    refuse: impl Fn(&Error) -> Response<Bytes>,
    handle: impl Fn(Request<Incoming>, Client) -> F,
) where
    N: Net,
    I: AsyncRead + AsyncWrite + Transport + Send + Unpin + 'static,
    B: Body<Error: Unpin> + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<B>> + 'static,
{
    let end = ClientEnd::default();
    let is_http2 = connection.protocol == WireProtocol::Http2;
    let tunnel = if is_http2 { TunnelSlot::stream(net.clone()) } else { TunnelSlot::connection(end.clone()) };
    let served = if is_http2 {
        let handle = |request| handle(request, Client { tunnel: tunnel.clone(), interim: None, end: None });
        Box::pin(serve_h2::http2(net.clone(), io, settings, drain.clone(), handle)).await
    } else {
        let handle = |request, interim| {
            handle(request, Client { tunnel: tunnel.clone(), interim, end: Some(end.clone()) })
        };
        http1(io, settings, drain.clone(), end.clone(), refuse, handle).await
    };
    if let Err(error) = served {
        let Connection { peer, original_dst: dst, .. } = connection;
        tracing::debug!(%peer, %dst, %error, "client connection ended");
    }
    // It holds the drain as well.
    tunnel.run().await;
}

/// Serves a connection of a client that asks a few things and goes: it is closed when it is idle,
/// and when it gets old. No drain of the sidecar means anything here. `refuse` answers what is no
/// HTTP/1.
pub async fn briefly<I, B, F>(
    io: I,
    refuse: impl Fn(&Error) -> Response<Bytes>,
    handle: impl Fn(Request<Incoming>) -> F,
) where
    I: AsyncRead + AsyncWrite + Transport + Send + Unpin + 'static,
    B: Body<Error: Unpin> + Unpin + 'static,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<B>>,
{
    let (age, watch) = drain::channel();
    let settings = Settings { request_headers: ADMIN_IDLE, ..Settings::default() };
    let served = http1(io, &settings, watch, ClientEnd::default(), refuse, |request, _| handle(request));
    let aging = async {
        sleep(ADMIN_AGE).await;
        // Between two requests it ends now, and else after the answer if that is read at all.
        age.drain(Instant::now() + ADMIN_IDLE).await;
    };
    tokio::select! {
        biased;
        _ = served => {}
        () = aging => {}
    }
}

/// Serves one connection until it closes, a drain has ended its last request, or it has become a
/// tunnel. With each request comes a sender of interim responses, if its client may get them.
/// `end` knows what is due to the client. What cannot be read `refuse` answers, after the answers
/// to all that came before.
///
/// # Errors
/// What ended the connection, other than the client closing it between requests.
pub async fn http1<I, B, F>(
    io: I,
    settings: &Settings,
    mut drain: drain::Watch,
    end: ClientEnd,
    refuse: impl Fn(&Error) -> Response<Bytes>,
    handle: impl Fn(Request<Incoming>, Option<InterimSender>) -> F,
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Transport + Send + Unpin + 'static,
    B: Body<Error: Unpin> + Unpin + 'static,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<B>>,
{
    // Asked of the watch once and not for each request: that would take a lock which all workers
    // share.
    let (interim, draining) = (Interim::default(), Cell::new(drain.is_draining()));
    // hyper keeps the stream of a request that offers an upgrade, in case a handler accepts the
    // offer. None here does.
    let offered = RefCell::new(None);
    // When a parked client has been silent for too long, however often it was found readable and
    // had nothing to say.
    let silent_until = Cell::new(None);
    let service = |mut request: Request<Incoming>| {
        if tunnel::is_only_offered(&request) {
            *offered.borrow_mut() = Some(hyper::upgrade::on(&mut request));
        }
        let turn = interim.begin();
        end.begin();
        silent_until.set(None);
        let (shape, is_sized) = (Shape::of(request.method()), request.body().size_hint().exact().is_some());
        let interim_sender = (request.version() == Version::HTTP_11).then(|| turn.interim_sender());
        let (response, draining, end) = (handle(request, interim_sender), &draining, &end);
        async move {
            let mut response = response.await;
            drop(turn);
            if is_draining(draining) || end.is_last_answer(is_sized) {
                say_last(&mut response);
            }
            let status = response.status();
            Ok::<_, Infallible>(response.map(|body| end.answer(body, shape, status)))
        }
    };
    let strict = Strict::new(io, settings.http1, interim.clone(), end.clone());
    let mut client = Box::new(Closing::new(strict, end.clone()));
    // A request may be on its way to an idle connection. To close that would lose the request, for
    // good if it is not idempotent. So the next answer says that it is the last one, and only a
    // connection without a request for a while is closed.
    let told = async {
        drain.signaled().await;
        draining.set(true);
        if !Mutant::ClosesAtOnce.is_planted() {
            sleep(LAST_REQUEST).await;
        }
    };
    let (mut told, mut is_told) = (pin!(told), false);
    loop {
        // In a box of its own, which is gone when the stream is parked.
        let (ended, parts) = Box::pin(async {
            let mut connection = builder(settings)
                .serve_connection(TokioIo::new(client), service_fn(&service))
                .with_upgrades();
            let ended = tokio::select! {
                biased;
                ended = &mut connection, if !is_told => Some(ended),
                () = told.as_mut(), if !is_told => {
                    is_told = true;
                    None
                }
                () = end.idle(), if !is_told => {
                    end.park();
                    None
                }
                // A drain has come while the stream was parked.
                else => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    Pin::new(&mut connection).graceful_shutdown();
                    (&mut connection).await
                }
            };
            let parts = connection.into_parts().map(|parts| (parts.io.into_inner(), parts.read_buf));
            (ended, given_back(parts, offered.take()).await)
        })
        .await;
        let Some((stream, unread)) = parts else { return ended };
        client = stream;
        if !end.is_parked() || ended.is_err() {
            return Box::pin(finish(client, unread, ended, refuse)).await;
        }
        // Though it is empty, it holds hyper's buffer.
        drop(unread);
        let _parked = Open::new(&settings.parked);
        let until = silent_until.get().unwrap_or_else(|| settings.silent_until());
        silent_until.set(Some(until));
        if !wait_parked(&mut client, told.as_mut(), &mut is_told, until).await {
            return Ok(());
        }
        end.unpark();
    }
}

fn is_draining(draining: &Cell<bool>) -> bool {
    draining.get() && !Mutant::DrainsWithoutAWord.is_planted()
}

/// Says that no answer follows this one on its connection, unless that becomes a tunnel.
fn say_last<B>(response: &mut Response<B>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Keeps a parked stream until something comes, or the time to end has. `false`: the client was
/// silent for too long.
async fn wait_parked<I: Transport>(
    client: &mut Closing<I>,
    told: Pin<&mut impl Future<Output = ()>>,
    is_told: &mut bool,
    until: Instant,
) -> bool {
    tokio::select! {
        biased;
        () = sleep_until(until) => return false,
        () = client.readable() => {}
        () = told, if !*is_told => *is_told = true,
    }
    true
}

/// hyper's settings.
fn builder(settings: &Settings) -> http1::Builder {
    let (limits, mut builder) = (settings.http1, http1::Builder::new());
    if limits.headers != HEADERS as usize {
        // Said, it makes hyper count what is its own default anyway.
        builder.max_headers(limits.headers);
    }
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(settings.request_headers)
        .max_buf_size(limits.header_bytes)
        .max_header_size(limits.header_bytes)
        .preserve_header_case(limits.preserve_header_case)
        // A proxy passes the app's own Date on; and hyper's clock is not the simulator's.
        .auto_date_header(false);
    builder
}

/// The stream of a connection that has ended, and what was read of it and not used; `None` if it
/// has become a tunnel.
async fn given_back<I>(
    parts: Option<(Box<Closing<I>>, Bytes)>,
    offered: Option<OnUpgrade>,
) -> Option<(Box<Closing<I>>, Bytes)>
where
    I: AsyncRead + AsyncWrite + Transport + Send + Unpin + 'static,
{
    match (parts, offered) {
        (Some(parts), _) => Some(parts),
        (None, Some(offered)) => {
            let parts = offered.await.ok()?.downcast::<TokioIo<Box<Closing<I>>>>().ok()?;
            Some((parts.io.into_inner(), parts.read_buf))
        }
        (None, None) => None,
    }
}

/// Answers what could not be read, or lets the client read the last answer before its stream
/// closes.
async fn finish<I>(
    mut client: Box<Closing<I>>,
    unread: Bytes,
    served: Result<(), hyper::Error>,
    refuse: impl Fn(&Error) -> Response<Bytes>,
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Transport + Unpin,
{
    if let Some(error) = client.strict().refusal() {
        let response = refuse(&error.into());
        Box::pin(refusal::send(client.strict().get_mut(), &response, error.is_head)).await;
        return Ok(());
    }
    if served.is_ok() && (client.strict().is_mid_request() || !unread.is_empty()) {
        Box::pin(refusal::linger(client.strict().get_mut())).await;
    }
    served
}

#[cfg(test)]
mod tests;
