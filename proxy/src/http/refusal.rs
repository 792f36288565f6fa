//! The end of an HTTP/1 connection on which the server has said its last word before the client
//! has.
//!
//! Closing a socket with unread bytes resets it, and a reset may take an answer with it that the
//! client has not read yet (RFC 9112 section 9.6). So the stream is closed in one direction first,
//! and read until the client has closed as well.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::config::defaults::DELAYED_CLOSE;

/// Writes an answer that nobody else can write, without its body to a HEAD, and ends the stream.
pub async fn send<I>(io: &mut I, response: &Response<Bytes>, is_head: bool)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut bytes = head(response);
    if !is_head {
        bytes.extend_from_slice(response.body());
    }
    // A client that does not read has gone, or will be found gone.
    let sent = timeout(DELAYED_CLOSE, async {
        io.write_all(&bytes).await?;
        io.shutdown().await
    });
    if matches!(sent.await, Ok(Ok(()))) {
        linger(io).await;
    }
}

/// Reads what a client still sends that has been told that it is over, until it closes.
pub async fn linger<I: AsyncRead + Unpin>(io: &mut I) {
    let mut ignored = [0; 4096];
    let read = async { while io.read(&mut ignored).await.is_ok_and(|n| n > 0) {} };
    let _ = timeout(DELAYED_CLOSE, read).await;
}

fn head(response: &Response<Bytes>) -> Vec<u8> {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut out = format!("{:?} {} {reason}\r\n", Version::HTTP_11, status.as_str()).into_bytes();
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(format!("{CONTENT_LENGTH}: {}\r\n\r\n", response.body().len()).as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use http::header::{CONNECTION, HeaderValue};

    #[test]
    fn a_head_is_what_http_wants() {
        let mut response = Response::new(Bytes::from_static(b"no\n"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let expected = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(String::from_utf8(head(&response)).unwrap(), expected);
    }
}
