//! The echo over HTTP/2: gRPC calls with one message each way, each answered with its status in trailers.
//!
//! It works on a call as on any other request. A call that it is told to fail ends with UNAVAILABLE and without a message. Some
//! streams it can be told to refuse before it looks at them (RST_STREAM with REFUSED_STREAM, RFC 9113 section 8.7), and some
//! connections to end with a GOAWAY, as a server does that limits the age of its connections: what was begun is finished.
//!
//! Left out: streaming, compressed messages, and HTTP/2 that is not gRPC, which is answered with 415 (as the gRPC project asks).

use std::future::poll_fn;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use proxy::detect::Prefixed;
use proxy::grpc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::body::Pattern;
use super::http::{Echo, REQUEST, SERVED_BY};

/// How an HTTP/2 connection begins (RFC 9113 section 3.4), and no HTTP/1 request does.
const PREFACE: &[u8] = b"PRI * HTTP/2";
/// What stands before a message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;
/// The status that says to come back later.
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
/// The status of a call that went well.
const OK: HeaderValue = HeaderValue::from_static("0");

/// A connection, and whether it is an HTTP/2 one; `None` if it ended before that could be told.
pub(super) async fn is_http2<I: AsyncRead + Unpin>(mut io: I) -> Option<(Prefixed<I>, bool)> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        if (&mut io).take((PREFACE.len() - first.len()) as u64).read_buf(&mut first).await.ok()? == 0 {
            break;
        }
    }
    let is_http2 = first == PREFACE;
    (!first.is_empty()).then(|| (Prefixed::new(first.freeze(), io), is_http2))
}

/// Serves one HTTP/2 connection until it ends.
pub(super) async fn connection<I: AsyncRead + AsyncWrite + Unpin>(echo: Rc<Echo>, io: I) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if echo.refuses_stream() {
            tracing::debug!(id = id(request.headers()), "refuses a stream");
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        if echo.ends_connection() {
            tracing::debug!(id = id(request.headers()), "says GOAWAY");
            connection.graceful_shutdown();
        }
        let call = call(echo.clone(), request, respond);
        echo.spawn(Box::pin(async move {
            if let Err(error) = call.await {
                tracing::debug!("call ended: {error}");
            }
        }));
    }
}

/// What the load generator calls a request.
fn id(headers: &HeaderMap) -> &str {
    headers.get(&REQUEST).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

/// Answers a call, or forgets it if its caller does.
async fn call(
    echo: Rc<Echo>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    if !grpc::is_grpc(&head.headers) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return respond.send_response(response, true).map(drop);
    }
    let id = id(&head.headers);
    let nth = echo.hears(&head, id);
    let length = read(body).await?;
    tracing::debug!(id, nth, length = length.saturating_sub(PREFIX as u64), "request is complete");
    tokio::select! {
        biased;
        reason = poll_fn(|cx| respond.poll_reset(cx)) => return reason.map(drop),
        () = echo.works() => {}
    }
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(grpc::CONTENT_TYPE));
    headers.insert(SERVED_BY, echo.name());
    headers.extend(head.headers.get(&REQUEST).map(|id| (REQUEST, id.clone())));
    if echo.fails() {
        tracing::debug!(id, nth, status = StatusCode::SERVICE_UNAVAILABLE.as_u16(), "answers");
        headers.insert(grpc::STATUS, UNAVAILABLE);
        return respond.send_response(response, true).map(drop);
    }
    tracing::debug!(id, nth, status = StatusCode::OK.as_u16(), "answers");
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(message(echo.size()), false)?;
    let status: [(HeaderName, HeaderValue); 1] = [(grpc::STATUS, OK)];
    stream.send_trailers(HeaderMap::from_iter(status))
}

/// A message of `size` bytes, with what stands before it.
pub(crate) fn message(size: u32) -> Bytes {
    let mut message = BytesMut::with_capacity(PREFIX + size as usize);
    message.put_u8(0);
    message.put_u32(size);
    message.extend(Pattern::new(size).bytes());
    message.freeze()
}

/// Reads a body to its end and says how long it was.
pub(crate) async fn read(mut body: RecvStream) -> Result<u64, h2::Error> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let read = data?.len();
        body.flow_control().release_capacity(read)?;
        length += read as u64;
    }
    Ok(length)
}
