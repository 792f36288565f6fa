//! Serving HTTP/2 to clients: hyper's settings, and a connection's part in a drain (GOAWAY, RFC 9113 section 6.8).

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::defaults::{
    H2_CONNECTION_WINDOW, H2_HEADER_LIST, H2_MAX_STREAMS, H2_PING_INTERVAL, H2_PING_TIMEOUT, H2_STREAM_WINDOW,
};
use crate::drain;
use crate::error::BoxError;
use crate::world::{Exec, Net};

/// Serves one connection until it closes or a drain has ended its last request.
///
/// # Errors
/// What ended the connection, other than the client closing it.
pub async fn http2<N, I, B, F>(
    net: N,
    io: I,
    mut drain: drain::Watch,
    handle: impl Fn(Request<Incoming>) -> F,
) -> Result<(), hyper::Error>
where
    N: Net,
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<B>> + 'static,
{
    let service = service_fn(|request| {
        let response = handle(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let connection = http2::Builder::new(Exec(net))
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_concurrent_streams(H2_MAX_STREAMS)
        .max_header_list_size(H2_HEADER_LIST)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        result = connection.as_mut() => return result,
        () = drain.signaled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
