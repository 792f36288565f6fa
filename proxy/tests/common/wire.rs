//! HTTP/1 as bytes: a socket that reads whole messages and keeps what follows.

use std::future::Future;
use std::net::SocketAddr;

use proxy::world::{KernelNet, Listener, Net, Transport};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A message as it came over the wire.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Start line and headers, without the empty line.
    pub head: String,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
    /// Trailer lines.
    pub trailers: String,
}

impl Message {
    /// The value of a header; all of them joined with commas if it is repeated.
    pub fn header(&self, name: &str) -> Option<String> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let values: Vec<_> = fields.filter(|f| f.0.eq_ignore_ascii_case(name)).map(|f| f.1.trim()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The status code of a response.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A connection.
pub struct Wire {
    pub io: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    /// Opens one.
    pub async fn connect(to: SocketAddr) -> Wire {
        Wire::new(KernelNet::default().connect(to, None).await.unwrap())
    }

    /// Around a socket.
    pub fn new(io: TcpStream) -> Wire {
        Wire { io, read: Vec::new() }
    }

    /// Ends it with a reset.
    pub fn reset(mut self) {
        self.io.abort();
    }

    /// Sends text.
    pub async fn send(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a request and reads its response.
    pub async fn ask(&mut self, request: &str) -> Message {
        self.send(request).await;
        self.response(request.starts_with("HEAD")).await
    }

    /// Sends a request without a body and reads the response.
    pub async fn ask_as(&mut self, method: &str, path: &str) -> Message {
        self.ask(&format!("{method} {path} HTTP/1.1\r\nhost: orders\r\n\r\n")).await
    }

    /// Sends a GET request for `path` and reads the response.
    pub async fn get(&mut self, path: &str) -> Message {
        self.ask_as("GET", path).await
    }

    /// Reads one of the sidecar's own pages.
    pub async fn page(&mut self, path: &str) -> Message {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await
    }

    /// Reads up to and including `end`.
    async fn take_until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end.as_bytes()) {
                let text = String::from_utf8(self.read.drain(..at + end.len()).collect()).unwrap();
                return Some(text[..at].to_owned());
            }
            if self.more().await == 0 {
                return None;
            }
        }
    }

    async fn take(&mut self, n: usize) -> Vec<u8> {
        while self.read.len() < n {
            assert!(self.more().await > 0, "the body is cut after {} of {n} bytes", self.read.len());
        }
        self.read.drain(..n).collect()
    }

    /// Reads exactly `n` bytes.
    pub async fn bytes(&mut self, n: usize) -> Vec<u8> {
        self.take(n).await
    }

    /// Reads something; an error counts as the end.
    async fn more(&mut self) -> usize {
        self.io.read_buf(&mut self.read).await.unwrap_or(0)
    }

    /// Reads to the end of the stream.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.read)
    }

    /// Whether the peer has closed, waiting for it; bytes before that are a failure.
    pub async fn closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    /// The head of the next message, or `None` if the peer closes first.
    pub async fn head(&mut self) -> Option<Message> {
        let head = self.take_until("\r\n\r\n").await?;
        Some(Message { head, ..Message::default() })
    }

    /// The next request, or `None` if the peer closes first.
    pub async fn request(&mut self) -> Option<Message> {
        let message = self.head().await?;
        Some(self.body(message, false).await)
    }

    /// The next response. One to a HEAD request has no body.
    pub async fn response(&mut self, to_head: bool) -> Message {
        let message = self.head().await.expect("a response");
        if to_head || matches!(message.status(), 204 | 304 | 100..200) {
            return message;
        }
        self.body(message, true).await
    }

    /// Reads the body of `message`. That of a response may end with the connection.
    pub async fn body(&mut self, mut message: Message, to_end: bool) -> Message {
        if message.header("transfer-encoding").as_deref() == Some("chunked") {
            loop {
                let size = self.take_until("\r\n").await.expect("a chunk");
                match usize::from_str_radix(&size, 16).unwrap() {
                    0 => break,
                    n => message.body.extend(self.take(n + 2).await[..n].iter()),
                }
            }
            while let Some(line) = self.take_until("\r\n").await.filter(|line| !line.is_empty()) {
                message.trailers += &format!("{line}\n");
            }
        } else if let Some(length) = message.header("content-length") {
            message.body = self.take(length.parse().unwrap()).await;
        } else if to_end {
            message.body = self.rest().await;
        }
        message
    }
}

/// An app that runs `serve` for each connection; its address.
pub async fn app<F: Future<Output = ()> + 'static>(serve: impl Fn(usize, Wire) -> F + 'static) -> SocketAddr {
    let mut listener = KernelNet::default().bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = listener.local_addr().unwrap();
    super::spawn(async move {
        for n in 0.. {
            let (io, _) = listener.accept().await.unwrap();
            super::spawn(serve(n, Wire::new(io)));
        }
    });
    at
}

/// An app that gives each request the same answer.
pub async fn answering(answer: &'static str) -> SocketAddr {
    app(move |_, mut wire| async move {
        while wire.request().await.is_some() {
            wire.send(answer).await;
        }
    })
    .await
}

/// An address at which nobody listens, and nobody will while the process lives.
pub fn nobody() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    at
}
