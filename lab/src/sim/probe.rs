//! The lab's own HTTP requests inside an instance: readiness and metrics.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use proxy::world::Net;

/// Longest answer that is read.
const LIMIT: usize = 4 << 20;

/// One GET on a connection of its own.
///
/// # Errors
/// If nobody listens, or the answer is not whole.
pub(super) async fn get<N: Net>(net: &N, to: SocketAddr, path: &str) -> io::Result<(StatusCode, String)> {
    let io = net.connect(to, None).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
    net.spawn("probe", async move {
        // Its errors reach the request.
        let _ = connection.await;
    });
    let request = hyper::Request::get(path)
        .header(hyper::header::HOST, to.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    let body = Limited::new(body, LIMIT).collect().await.map_err(io::Error::other)?.to_bytes();
    Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
}
