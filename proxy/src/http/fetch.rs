//! One request and its answer over a connection of its own, for what the sidecar itself asks of
//! servers now and then. Nothing is kept open, and no task outlives the caller's.

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::BoxError;

/// Sends `request` over `io`, which was just opened, and reads the whole answer, whose body has at
/// most `most` bytes. Takes as long as the server does: the caller limits it.
///
/// # Errors
/// If the connection breaks, or the answer is no HTTP or is too long.
pub async fn fetch(
    io: impl AsyncRead + AsyncWrite + Unpin,
    mut request: Request<Full<Bytes>>,
    most: usize,
) -> Result<Response<Bytes>, BoxError> {
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut send, connection) = http1::handshake(TokioIo::new(io)).await?;
    let exchange = async {
        let (head, body) = send.send_request(request).await?.into_parts();
        let body = Limited::new(body, most).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    beside(connection, exchange).await
}

/// Waits for an exchange, and drives the connection that it needs meanwhile.
pub async fn beside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let driving = async {
        let _ = connection.await;
        // What it read last may still be on its way to the exchange.
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answer = exchange => answer,
        never = driving => never,
    }
}
