//! The clients, one function for each protocol. Each checks that every answer is the whole of what
//! was asked for: a path that answers errors quickly must not look fast.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{Method, Request};
use proxy::world::{KernelNet, Net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::BODY;
use crate::app::WINDOW;
use crate::options::Protocol;

/// HTTP/2 streams on one connection, at most: 64 requests in flight are 4 connections.
pub const STREAMS: u16 = 16;

const HTTP1_REQUEST: &[u8] = b"GET /bench HTTP/1.1\r\nhost: app\r\nuser-agent: bench\r\naccept: */*\r\n\r\n";

/// Says when clients ask, and hears what became of it.
pub(super) trait Pace: 'static {
    /// Waits until a request is due, and says since when; `None` when there are no more.
    async fn due(&self) -> Option<Instant>;

    /// The whole answer, with a body of `bytes`, has come to a request that was due at `due`.
    fn answered(&self, due: Instant, bytes: usize);

    /// A request or a connection failed.
    fn failed(&self, error: impl ToString);
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub to: SocketAddr,
    pub protocol: Protocol,
    /// Requests in flight.
    pub concurrency: u16,
    /// Whether each request gets a connection of its own. HTTP/1 only.
    pub fresh: bool,
}

/// Starts the clients; they end when no more requests are due.
pub(super) fn start<P: Pace>(clients: &mut JoinSet<()>, net: &KernelNet, load: Load, recorder: &Rc<P>) {
    let h2 = matches!(load.protocol, Protocol::Http2 | Protocol::Grpc);
    let mut left = if load.protocol == Protocol::TcpBulk { 1 } else { load.concurrency };
    while left > 0 {
        let streams = if h2 { left.min(STREAMS) } else { 1 };
        left -= streams;
        let (net, Load { to, protocol, fresh, .. }, recorder) = (net.clone(), load, recorder.clone());
        clients.spawn_local(async move {
            let recorder: &Rc<P> = &recorder;
            let done = match protocol {
                Protocol::Http1 if fresh => http1_fresh(&net, to, recorder).await,
                Protocol::Http1 => http1(&net, to, recorder).await,
                Protocol::Http2 | Protocol::Grpc => http2(&net, to, protocol, streams, recorder).await,
                Protocol::TcpPingpong => pingpong(&net, to, recorder).await,
                Protocol::TcpFresh => pingpong_fresh(&net, to, recorder).await,
                Protocol::TcpBulk => bulk(&net, to, recorder).await,
            };
            if let Err(error) = done {
                recorder.failed(error);
            }
        });
    }
}

async fn http1(net: &KernelNet, to: SocketAddr, recorder: &Rc<impl Pace>) -> io::Result<()> {
    let mut io = net.connect(to, None).await?;
    let mut buffer = Vec::with_capacity(8 << 10);
    while let Some(sent) = recorder.due().await {
        ask_http1(&mut io, &mut buffer).await?;
        recorder.answered(sent, BODY);
    }
    Ok(())
}

/// A connection for each request, opened when it is due and closed when it is answered.
async fn http1_fresh(net: &KernelNet, to: SocketAddr, recorder: &Rc<impl Pace>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(8 << 10);
    while let Some(due) = recorder.due().await {
        let mut io = net.connect(to, None).await?;
        ask_http1(&mut io, &mut buffer).await?;
        recorder.answered(due, BODY);
    }
    Ok(())
}

/// One request and its whole answer. `buffer` is scratch space, and is left empty.
pub(super) async fn ask_http1(io: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    io.write_all(HTTP1_REQUEST).await?;
    buffer.clear();
    loop {
        if io.read_buf(buffer).await? == 0 {
            return Err(wrong("the connection was closed before the answer was whole"));
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = response.parse(buffer).map_err(wrong)? else { continue };
        if response.code != Some(200) {
            return Err(wrong(format!("status {:?}", response.code)));
        }
        let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
        if length.is_none_or(|h| h.value != BODY.to_string().as_bytes()) {
            return Err(wrong(format!("the answer does not say that it has {BODY} bytes")));
        }
        while buffer.len() < head + BODY {
            if io.read_buf(buffer).await? == 0 {
                return Err(wrong("the connection was closed within the answer"));
            }
        }
        if buffer.len() > head + BODY {
            return Err(wrong("there is more than the answer"));
        }
        buffer.clear();
        return Ok(());
    }
}

/// One connection with `streams` requests in flight.
async fn http2(
    net: &KernelNet,
    to: SocketAddr,
    protocol: Protocol,
    streams: u16,
    recorder: &Rc<impl Pace>,
) -> io::Result<()> {
    let io = net.connect(to, None).await?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(4 * WINDOW).enable_push(false);
    let (sender, connection) = builder.handshake::<_, Bytes>(io).await.map_err(io::Error::other)?;
    net.spawn("h2", async move {
        // Its streams fail with it, and say why.
        let _ = connection.await;
    });
    let mut clients = JoinSet::new();
    for _ in 0..streams {
        let (sender, recorder) = (sender.clone(), recorder.clone());
        clients.spawn_local(async move {
            let done = match protocol {
                Protocol::Grpc => calls(sender, &recorder).await,
                _ => gets(sender, &recorder).await,
            };
            if let Err(error) = done {
                recorder.failed(error);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.map_err(io::Error::other)?;
    }
    Ok(())
}

type Sender = h2::client::SendRequest<Bytes>;

async fn gets(mut sender: Sender, recorder: &Rc<impl Pace>) -> io::Result<()> {
    let request = Request::builder().uri("http://app/bench").body(()).map_err(io::Error::other)?;
    while let Some(sent) = recorder.due().await {
        sender = sender.ready().await.map_err(io::Error::other)?;
        let (response, _) = sender.send_request(request.clone(), true).map_err(io::Error::other)?;
        let response = response.await.map_err(io::Error::other)?;
        let (bytes, _) = receive(response).await?;
        if bytes != BODY {
            return Err(wrong(format!("{bytes} bytes instead of {BODY}")));
        }
        recorder.answered(sent, bytes);
    }
    Ok(())
}

async fn calls(mut sender: Sender, recorder: &Rc<impl Pace>) -> io::Result<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://app/bench.Echo/Say")
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(())
        .map_err(io::Error::other)?;
    // Not compressed, length, message.
    let message = Bytes::from([&[0][..], &(BODY as u32).to_be_bytes(), &[b'x'; BODY]].concat());
    while let Some(sent) = recorder.due().await {
        sender = sender.ready().await.map_err(io::Error::other)?;
        let (response, mut body) = sender.send_request(request.clone(), false).map_err(io::Error::other)?;
        body.send_data(message.clone(), true).map_err(io::Error::other)?;
        let response = response.await.map_err(io::Error::other)?;
        let (bytes, trailers) = receive(response).await?;
        let status = trailers.as_ref().and_then(|t| t.get("grpc-status"));
        if bytes != message.len() || status.is_none_or(|s| s != "0") {
            return Err(wrong(format!("{bytes} bytes and grpc-status {status:?}")));
        }
        recorder.answered(sent, bytes);
    }
    Ok(())
}

async fn receive(response: http::Response<h2::RecvStream>) -> io::Result<(usize, Option<http::HeaderMap>)> {
    if response.status() != 200 {
        return Err(wrong(format!("status {}", response.status())));
    }
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data.map_err(io::Error::other)?;
        body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
        bytes += data.len();
    }
    Ok((bytes, body.trailers().await.map_err(io::Error::other)?))
}

async fn pingpong(net: &KernelNet, to: SocketAddr, recorder: &Rc<impl Pace>) -> io::Result<()> {
    let mut io = net.connect(to, None).await?;
    while let Some(sent) = recorder.due().await {
        ask_byte(&mut io).await?;
        recorder.answered(sent, 1);
    }
    Ok(())
}

/// A connection for each byte.
async fn pingpong_fresh(net: &KernelNet, to: SocketAddr, recorder: &Rc<impl Pace>) -> io::Result<()> {
    while let Some(due) = recorder.due().await {
        let mut io = net.connect(to, None).await?;
        ask_byte(&mut io).await?;
        recorder.answered(due, 1);
    }
    Ok(())
}

/// One byte and its echo.
pub(super) async fn ask_byte(io: &mut TcpStream) -> io::Result<()> {
    io.write_u8(b'x').await?;
    match io.read_u8().await? {
        b'x' => Ok(()),
        other => Err(wrong(format!("the byte {other} instead of an x"))),
    }
}

async fn bulk(net: &KernelNet, to: SocketAddr, recorder: &Rc<impl Pace>) -> io::Result<()> {
    let mut io = net.connect(to, None).await?;
    io.write_u8(b'x').await?;
    let mut buffer = vec![0; 256 << 10];
    while let Some(sent) = recorder.due().await {
        match io.read(&mut buffer).await? {
            0 => return Err(wrong("the transfer ended")),
            n => recorder.answered(sent, n),
        }
    }
    Ok(())
}

fn wrong(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}
