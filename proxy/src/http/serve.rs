//! Serving HTTP to clients: a connection from its first request to the end of its tunnel, and of HTTP/1 hyper's settings
//! and a connection's part in a drain. HTTP/2's are in [`super::serve_h2`].

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::closing::{ClientEnd, Closing, Shape};
use super::interim::{Interim, Speaker};
use super::serve_h2;
use super::strict::Strict;
use super::tunnel::Slot;
use super::version::LAST_REQUEST;
use crate::config::defaults::{AGE_JITTER, HEADER_TIMEOUT, HEADERS, MAX_CONNECTION_AGE, MAX_CONNECTION_IDLE};
use crate::config::{Http1, Http2, Snapshot};
use crate::drain;
use crate::error::{BoxError, Kind};
use crate::mutant;
use crate::telemetry::SideMetrics;
use crate::world::{Abort, Net};

/// How a client's connection is served.
#[derive(Debug, Clone, Copy)]
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
        }
    }
}

impl Settings {
    /// Those of `snapshot`, of a connection that begins now: `ages` spreads their ends.
    pub fn of(snapshot: &Snapshot, http1: Http1, ages: &mut StdRng) -> Self {
        let timeouts = &snapshot.timeouts;
        let spread = 1.0 - AGE_JITTER..=1.0 + AGE_JITTER;
        Settings {
            http1,
            header_list: snapshot.http1.header_list(),
            http2: snapshot.http2,
            request_headers: timeouts.request_headers,
            max_idle: timeouts.max_connection_idle,
            max_age: timeouts.max_connection_age.map(|age| age.mul_f64(ages.random_range(spread))),
        }
    }
}

/// What the handler of a request may do with its client's connection beside answering.
pub struct Client {
    /// Opens a tunnel.
    pub tunnel: Slot,
    /// Sends interim responses; `None` if the client must not get any.
    pub interim: Option<Speaker>,
    /// How its connection ends, if that is HTTP/1.
    pub end: Option<ClientEnd>,
}

/// Carries one connection, of a client to what it dialled, to its end, tunnel included. What is no HTTP is counted in
/// `metrics`.
pub async fn connection<N, I, B, F>(
    net: &N,
    (is_http2, io): (bool, I),
    settings: Settings,
    drain: drain::Watch,
    metrics: &SideMetrics,
    (peer, dst): (SocketAddr, SocketAddr),
    handle: impl Fn(Request<Incoming>, Client) -> F,
) where
    N: Net,
    I: AsyncRead + AsyncWrite + Abort + Send + Unpin + 'static,
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<B>> + 'static,
{
    let end = ClientEnd::default();
    let tunnel = if is_http2 { Slot::stream(net.clone()) } else { Slot::connection(end.clone()) };
    let served = if is_http2 {
        let handle = |request| handle(request, Client { tunnel: tunnel.clone(), interim: None, end: None });
        Box::pin(serve_h2::http2(net.clone(), io, settings, drain.clone(), handle)).await
    } else {
        let handle = |request, interim| {
            handle(request, Client { tunnel: tunnel.clone(), interim, end: Some(end.clone()) })
        };
        http1(io, settings, drain.clone(), end.clone(), handle).await
    };
    if let Err(error) = served {
        if error.is_parse() || error.is_parse_too_large() {
            metrics.refused(Kind::Malformed);
        }
        tracing::debug!(%peer, %dst, %error, "client connection ended");
    }
    // It holds the drain as well.
    tunnel.run().await;
}

/// Serves one connection until it closes, a drain has ended its last request, or it has become a tunnel. With each request
/// comes who may send interim responses, if its client may get them. `end` knows what is due to the client.
///
/// # Errors
/// What ended the connection, other than the client closing it between requests.
pub async fn http1<I, B, F>(
    io: I,
    settings: Settings,
    mut drain: drain::Watch,
    end: ClientEnd,
    handle: impl Fn(Request<Incoming>, Option<Speaker>) -> F,
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Abort + Send + Unpin + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<B>>,
{
    // Asked of the watch once and not for each request: that would take a lock which all workers share.
    let (interim, draining) = (Interim::default(), Cell::new(drain.is_draining()));
    let service = service_fn(|request: Request<Incoming>| {
        let turn = interim.begin();
        end.begin();
        let (shape, end) = (Shape::of(request.method()), &end);
        let speaker = (request.version() == Version::HTTP_11).then(|| turn.speaker());
        let (response, draining) = (handle(request, speaker), &draining);
        async move {
            let mut response = response.await;
            drop(turn);
            let says_so = draining.get() && !mutant::is_planted("drains-without-a-word");
            if says_so && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let status = response.status();
            Ok::<_, Infallible>(response.map(|body| end.answer(body, shape, status)))
        }
    });
    let (limits, mut builder) = (settings.http1, http1::Builder::new());
    if limits.headers != HEADERS as usize {
        // Said, it makes hyper count what is its own default anyway.
        builder.max_headers(limits.headers);
    }
    let connection = builder
        .timer(TokioTimer::new())
        .header_read_timeout(settings.request_headers)
        .max_buf_size(limits.header_bytes)
        .max_header_size(limits.header_bytes)
        .preserve_header_case(limits.preserve_header_case)
        // A proxy passes the app's own Date on; and hyper's clock is not the simulator's.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(Closing::new(Strict::new(io, interim.clone()), end.clone())), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // A connection that is idle may have a request on its way to it: whoever closes it loses that, and one that is not
    // idempotent for good. So the next answer says that it is the last, and only who asks nothing for a while is closed.
    let told = async {
        drain.signaled().await;
        draining.set(true);
        if !mutant::is_planted("closes-at-once") {
            sleep(LAST_REQUEST).await;
        }
    };
    tokio::select! {
        biased;
        result = connection.as_mut() => return result,
        () = told => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
