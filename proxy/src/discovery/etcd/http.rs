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
pub struct LineStream {
    body: Incoming,
    buffer: Vec<u8>,
    _connection: oneshot::Sender<()>,
}

/// Sends `body` and waits for the status. There is no timeout here.
pub(super) async fn post<N: Net>(
    net: &N,
    server: SocketAddr,
    path: &str,
    body: String,
) -> Result<(u16, LineStream), String> {
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
    Ok((status, LineStream { body: response.into_body(), buffer: Vec::new(), _connection: connection }))
}

impl LineStream {
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

#[cfg(test)]
mod tests {
    use tokio::join;

    use super::*;
    use crate::discovery::etcd::fake::{FIRST, asked};
    use crate::world::fake::{FakeNet, run};

    #[tokio::test]
    async fn a_line_is_whole_wherever_it_was_cut_and_the_last_one_needs_no_end() {
        run(async {
            let net = FakeNet::default();
            let etcd = async {
                let mut asked = asked(&net).await;
                asked.begin(200).await;
                for piece in ["on", "e\n\n", "\ntwo\nth", "ree"] {
                    asked.say(piece).await;
                }
                asked.end().await;
            };
            let (begun, ()) = join!(post(&net, FIRST, "/v3/watch", "{}".into()), etcd);
            let (status, mut lines) = begun.unwrap();
            assert_eq!(status, 200);
            for line in ["one\n", "two\n", "three"] {
                assert_eq!(lines.next().await, Ok(Some(line.into())));
            }
            assert_eq!(lines.next().await, Ok(None));
        })
        .await;
    }

    #[tokio::test]
    async fn an_answer_may_be_as_large_as_the_largest_and_no_larger() {
        run(async {
            for (size, fits) in [(ETCD_ANSWER, true), (ETCD_ANSWER + 1, false)] {
                let net = FakeNet::default();
                let etcd = async { asked(&net).await.answer(200, &"x".repeat(size)).await };
                let whole = async {
                    let (_, lines) = post(&net, FIRST, "/v3/kv/range", "{}".into()).await.unwrap();
                    lines.whole().await
                };
                let (whole, ()) = join!(whole, etcd);
                assert_eq!(whole.is_ok_and(|whole| whole.len() == size), fits, "{size}");
            }
        })
        .await;
    }
}
