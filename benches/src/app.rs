//! The app at the end of every path: answers as cheaply as it can, so that what is measured is the
//! way to it.
//!
//! One thread. HTTP/1 is answered from one prepared buffer with one write; HTTP/2 and gRPC by the
//! `h2` crate itself, with nothing on top.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use proxy::world::{KernelNet, Listener, Net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::options::Protocol;
use crate::{APP_PORT, BODY};

/// How much of a bulk transfer is written at once.
const CHUNK: usize = 256 << 10;
/// HTTP/2 windows large enough never to be what a measurement waits for.
pub const WINDOW: u32 = 4 << 20;

/// Serves `protocol` on [`APP_PORT`] for ever, with `pause` before each answer.
///
/// # Errors
/// If it cannot listen or accept.
pub async fn serve(net: KernelNet, protocol: Protocol, pause: Duration) -> io::Result<()> {
    let mut listener = net.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, APP_PORT))).await?;
    loop {
        let (io, _) = listener.accept().await?;
        let tasks = net.clone();
        net.spawn("app", async move {
            // A client that goes away is the usual end of a connection, and no other failure could
            // be mended here: the client sees it and counts it.
            let _ = match protocol {
                Protocol::Http1 => http1(io, pause).await,
                Protocol::Http2 | Protocol::Grpc => {
                    http2(io, tasks, protocol, pause).await.map_err(io::Error::other)
                }
                Protocol::TcpPingpong | Protocol::TcpFresh => echo(io, pause).await,
                Protocol::TcpBulk => bulk(io).await,
            };
        });
    }
}

async fn http1(mut io: TcpStream, pause: Duration) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n");
    let answer = [head.into_bytes(), vec![b'x'; BODY]].concat();
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        if io.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        while let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            buffer.drain(..end + 4);
            wait(pause).await;
            io.write_all(&answer).await?;
        }
    }
}

async fn http2(
    io: TcpStream,
    tasks: KernelNet,
    protocol: Protocol,
    pause: Duration,
) -> Result<(), h2::Error> {
    let body = Bytes::from(vec![b'x'; BODY]);
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(4 * WINDOW);
    let mut connection = builder.handshake::<_, Bytes>(io).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        // One at a time, which is enough where there is a pause.
        wait(pause).await;
        if protocol == Protocol::Http2 {
            respond.send_response(Response::new(()), false)?.send_data(body.clone(), true)?;
        } else {
            tasks.spawn("call", async move {
                // The client counts a call that fails.
                let _ = call(request.into_body(), respond).await;
            });
        }
    }
    Ok(())
}

/// A unary gRPC call: the message comes back as it came.
async fn call(
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut message = Vec::with_capacity(BODY + 5);
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        message.extend_from_slice(&data);
    }
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(message.into(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

async fn echo(mut io: TcpStream, pause: Duration) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match io.read(&mut buffer).await? {
            0 => return Ok(()),
            n => {
                wait(pause).await;
                io.write_all(&buffer[..n]).await?;
            }
        }
    }
}

async fn wait(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// The client speaks first, one byte, so that nothing in between has to guess; then it is given all
/// it can take.
async fn bulk(mut io: TcpStream) -> io::Result<()> {
    io.read_u8().await?;
    let chunk = vec![b'x'; CHUNK];
    loop {
        io.write_all(&chunk).await?;
    }
}
