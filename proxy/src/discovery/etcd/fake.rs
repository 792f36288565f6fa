//! An etcd of which a test writes every answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use crate::world::fake::FakeNet;

/// Where its servers stand.
pub(in crate::discovery) const FIRST: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 2379);
/// The same.
pub(in crate::discovery) const SECOND: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 2379);

/// Who waits so long waits for ever.
const NEVER: Duration = Duration::from_secs(60);

/// What it was asked, on a connection of its own. Dropping it closes the connection.
pub(in crate::discovery) struct Asked {
    pub(in crate::discovery) server: SocketAddr,
    pub(in crate::discovery) path: String,
    pub(in crate::discovery) body: Value,
    io: DuplexStream,
}

/// The next that it is asked.
pub(in crate::discovery) async fn asked(net: &FakeNet) -> Asked {
    let mut io = timeout(NEVER, net.accept()).await.expect("it is asked something");
    let mut text = String::new();
    let (head, body) = loop {
        let byte = io.read_u8().await.expect("a request");
        text.push(byte.into());
        // The body is one JSON object.
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            break (head, body);
        }
    };
    let path = head.split(' ').nth(1).expect("a path").to_owned();
    let host = head.lines().find_map(|line| line.strip_prefix("host: "));
    let server = host.and_then(|host| host.parse().ok()).expect("an address");
    Asked { server, path, body, io }
}

impl Asked {
    /// Answers with all of `body`.
    pub(in crate::discovery) async fn answer(mut self, status: u16, body: &str) {
        self.begin(status).await;
        self.say(body).await;
        self.end().await;
    }

    /// Begins an answer.
    pub(in crate::discovery) async fn begin(&mut self, status: u16) {
        self.send(format!("HTTP/1.1 {status} any\r\ntransfer-encoding: chunked\r\n\r\n")).await;
    }

    /// Goes on with it, in one piece.
    pub(in crate::discovery) async fn say(&mut self, piece: &str) {
        self.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
    }

    /// Goes on with one message of a watch.
    pub(in crate::discovery) async fn tell(&mut self, result: &str) {
        self.say(&format!("{{\"result\":{result}}}\n")).await;
    }

    /// Ends it.
    pub(in crate::discovery) async fn end(mut self) {
        self.send("0\r\n\r\n".into()).await;
    }

    async fn send(&mut self, text: String) {
        // Whoever asked may have heard enough.
        let _ = self.io.write_all(text.as_bytes()).await;
    }
}
