//! Serving HTTP/1 to clients: hyper's settings, and a connection's part in a drain.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::strict::Strict;
use super::version::LAST_REQUEST;
use crate::config::Http1;
use crate::config::defaults::{HEADER_TIMEOUT, HEADERS};
use crate::drain;
use crate::error::BoxError;

/// Serves one connection until it closes, a drain has ended its last request, or it has become a tunnel.
///
/// # Errors
/// What ended the connection, other than the client closing it between requests.
pub async fn http1<I, B, F>(
    io: I,
    limits: Http1,
    mut drain: drain::Watch,
    handle: impl Fn(Request<Incoming>) -> F,
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<B>>,
{
    let service = service_fn(|request| {
        let response = handle(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let mut builder = http1::Builder::new();
    if limits.headers != HEADERS as usize {
        // Said, it makes hyper count what is its own default anyway.
        builder.max_headers(limits.headers);
    }
    let connection = builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(limits.header_bytes)
        .max_header_size(limits.header_bytes)
        .preserve_header_case(limits.preserve_header_case)
        // A proxy passes the app's own Date on; and hyper's clock is not the simulator's.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(Strict::new(io)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let late = drain.is_draining();
    let told = async {
        drain.signaled().await;
        if late {
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
