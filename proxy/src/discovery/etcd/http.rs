//! One POST on a connection of its own, and its response line by line.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::config::defaults::ETCD_ANSWER;
use crate::world::Net;

/// A response as it arrives. Dropping it closes the connection.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    _connection: oneshot::Sender<()>,
}

/// Sends `body` and waits for the status. There is no time-out here.
pub(super) async fn post<N: Net>(
    net: &N,
    server: SocketAddr,
    path: &str,
    body: String,
) -> Result<(u16, Lines), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{server}: {error}");
    let io = net.connect(server, None).await.map_err(|error| failed(&error))?;
    let (mut send, driver) = http1::handshake(TokioIo::new(io)).await.map_err(|error| failed(&error))?;
    let (connection, given_up) = oneshot::channel::<()>();
    net.spawn("etcd", async move {
        tokio::select! {
            biased;
            _ = given_up => {}
            _ = driver => {}
        }
    });
    let request = Request::post(path)
        .header(HOST, server.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("a path and an address are fit for a request");
    let response = send.send_request(request).await.map_err(|error| failed(&error))?;
    let status = response.status().as_u16();
    Ok((status, Lines { body: response.into_body(), buffer: Vec::new(), _connection: connection }))
}

impl Lines {
    /// The next line, or `None` at the end. Loses nothing if it is dropped while it waits.
    ///
    /// # Errors
    /// If the connection breaks, or a line is longer than [`ETCD_ANSWER`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                if line.len() > 1 {
                    return Ok(Some(line));
                }
                continue;
            }
            if !self.more().await? {
                let last = std::mem::take(&mut self.buffer);
                return Ok((!last.is_empty()).then_some(last));
            }
        }
    }

    /// All of it.
    pub(super) async fn whole(mut self) -> Result<Vec<u8>, String> {
        while self.more().await? {}
        Ok(self.buffer)
    }

    async fn more(&mut self) -> Result<bool, String> {
        match self.body.frame().await {
            None => Ok(false),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if self.buffer.len() + data.len() > ETCD_ANSWER {
                        return Err(format!("more than {ETCD_ANSWER} bytes in one answer"));
                    }
                    self.buffer.extend_from_slice(data);
                }
                Ok(true)
            }
        }
    }
}
