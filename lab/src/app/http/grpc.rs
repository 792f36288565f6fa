//! The echo over HTTP/2: gRPC calls with one message each way, each answered with its status in
//! trailers.
//!
//! It waits for the end of a call before it answers. Two methods do not: `/lab.Echo/Stream` answers
//! the message at once and ends when its caller does, as a stream of messages both ways;
//! `/lab.Echo/Early` answers at once with all that there is to say, and reads on, so that the call
//! stays half open.
//!
//! It works on a call as on any other request. A call that it is told to fail ends with UNAVAILABLE
//! and without a message. Some streams it can be told to refuse before it looks at them (RST_STREAM
//! with REFUSED_STREAM, RFC 9113 section 8.7), some connections to end with a GOAWAY, as a server
//! does that limits the age of its connections: what was begun is finished. And some answers it can
//! be told to break off after their message, by a reset that says nothing of an error.
//!
//! Left out: more than one message each way, compressed messages, and HTTP/2 that is not gRPC,
//! which is answered with 415 (as the gRPC project asks).

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use proxy::grpc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::body::Pattern;
use super::echo::{Echo, REQUEST, SERVED_BY, nth};
use crate::traffic::emit;

/// What stands before a message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;
/// How long after its message an answer is reset.
const BEFORE_RESET: Duration = Duration::from_millis(5);
/// The status that says to come back later.
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
/// The status of a call that went well.
const OK: HeaderValue = HeaderValue::from_static("0");

/// Serves one HTTP/2 connection until it ends.
pub(super) async fn connection<I: AsyncRead + AsyncWrite + Unpin>(echo: Rc<Echo>, io: I) {
    let mut settings = h2::server::Builder::new();
    let most = echo.spec().max_concurrent_streams;
    if most > 0 {
        settings.max_concurrent_streams(most);
    }
    let Ok(mut connection) = settings.handshake(io).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if echo.refuses_stream() {
            let nth = nth(request.headers());
            emit!(RefusesStream { id: id(request.headers()), nth });
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        if echo.ends_connection() {
            emit!(SaysGoaway { id: id(request.headers()) });
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

/// When a call is answered, and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// Answered when its caller has ended.
    Call,
    /// Answered after the first message, and ended with its caller.
    Stream,
    /// Answered and ended after the first message, whether its caller has ended or not.
    Early,
}

impl Method {
    fn of(path: &str) -> Self {
        match path.rsplit('/').next() {
            Some("Stream") => Method::Stream,
            Some("Early") => Method::Early,
            _ => Method::Call,
        }
    }
}

/// Answers a call, or forgets it if its caller does.
async fn call(
    echo: Rc<Echo>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    if !grpc::is_grpc(&head.headers) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return respond.send_response(response, true).map(drop);
    }
    let id = id(&head.headers);
    let nth = echo.hears(&head, id);
    let is_complete = |length: u64| {
        emit!(RequestComplete { id, nth, length: length.saturating_sub(PREFIX as u64) });
    };
    let method = Method::of(head.uri.path());
    let mut length = 0;
    if method == Method::Call {
        is_complete(read(&mut body).await?);
    } else {
        length = first_message(&mut body).await?;
    }
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
        emit!(Answers { id, nth, status: StatusCode::SERVICE_UNAVAILABLE.as_u16() });
        headers.insert(grpc::STATUS, UNAVAILABLE);
        return respond.send_response(response, true).map(drop);
    }
    emit!(Answers { id, nth, status: StatusCode::OK.as_u16() });
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(message(echo.spec().size), false)?;
    if let Some(code) = echo.resets_stream() {
        // What has not left by then never would.
        sleep(BEFORE_RESET).await;
        emit!(ResetsStream { id, nth, code });
        stream.send_reset(code);
        return Ok(());
    }
    let status = HeaderMap::from_iter([(grpc::STATUS, OK)]);
    if method == Method::Early {
        stream.send_trailers(status)?;
        is_complete(length + read(&mut body).await?);
        return Ok(());
    }
    if method == Method::Stream {
        is_complete(length + read(&mut body).await?);
    }
    stream.send_trailers(status)
}

/// A message of `size` bytes, with what stands before it.
pub(crate) fn message(size: u32) -> Bytes {
    let mut message = BytesMut::with_capacity(PREFIX + size as usize);
    message.put_u8(0);
    message.put_u32(size);
    message.extend(Pattern::new(size).bytes());
    message.freeze()
}

/// Reads a body up to the end of its first message, or to its own, and says how much that was.
async fn first_message(body: &mut RecvStream) -> Result<u64, h2::Error> {
    let (mut prefix, mut length) = (BytesMut::new(), 0);
    let size = |prefix: &[u8]| match prefix {
        [_, a, b, c, d, ..] => PREFIX as u64 + u64::from(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => u64::MAX,
    };
    while length < size(&prefix) {
        let Some(data) = body.data().await else { break };
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        length += data.len() as u64;
        prefix.extend_from_slice(&data[..data.len().min(PREFIX - prefix.len())]);
    }
    Ok(length)
}

/// Reads a body to its end and says how long it was.
pub(crate) async fn read(body: &mut RecvStream) -> Result<u64, h2::Error> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let read = data?.len();
        body.flow_control().release_capacity(read)?;
        length += read as u64;
    }
    Ok(length)
}
