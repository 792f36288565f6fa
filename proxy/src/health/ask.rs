//! One check: a connection, a question, an answer, all within one time limit.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::grpc;
use crate::config::ProbeRequest;
use crate::connect::{Connector, Target, no_answer_within};
use crate::grpc::{CONTENT_TYPE as GRPC, STATUS};
use crate::tls::{Alpn, Io};
use crate::world::{Exec, Net};

/// Who asks.
const AGENT: &str = "sidelab-check";

/// Asks the app at `target`.
///
/// # Errors
/// Why it did not pass, in words for the log.
pub(super) async fn ask<N: Net>(
    connector: &Connector<N>,
    target: &Target,
    what: &ProbeRequest,
    limit: Duration,
) -> Result<(), String> {
    let asking = async {
        let address = target.address;
        let alpn = match what {
            ProbeRequest::Tcp => Alpn::Opaque,
            ProbeRequest::Http { .. } => Alpn::Http1,
            ProbeRequest::Grpc { .. } => Alpn::Http2,
        };
        let io = connector.connect(target, alpn).await.map_err(|error| format!("cannot connect: {error}"))?;
        match what {
            ProbeRequest::Tcp => Ok(()),
            ProbeRequest::Http { path, host, status } => {
                let default = address.to_string();
                http(io, path, host.as_deref().unwrap_or(&default), status).await
            }
            ProbeRequest::Grpc { service } => grpc_health(connector.net(), io, address, service).await,
        }
    };
    let late = || Err(no_answer_within(limit));
    tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| late())
}

async fn http<I>(io: I, path: &str, host: &str, passing: &[u16]) -> Result<(), String>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let (mut send, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(http::header::CONNECTION, "close")
        .body(Full::<Bytes>::default())
        .map_err(|e| e.to_string())?;
    let status = driven(connection, async { send.send_request(request).await.map(|r| r.status()) }).await?;
    let passes = match passing {
        [] => (200..400).contains(&status.as_u16()),
        list => list.contains(&status.as_u16()),
    };
    if passes { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
}

async fn grpc_health<N: Net>(net: &N, io: Io<N>, address: SocketAddr, service: &str) -> Result<(), String> {
    let (mut send, connection) = http2::Builder::new(Exec(net.clone()))
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| e.to_string())?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}{}", grpc::PATH))
        .header(CONTENT_TYPE, GRPC)
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(grpc::request(service)))
        .map_err(|e| e.to_string())?;
    let (status, headers, message, trailers) = driven(connection, async {
        let (head, mut body) = send.send_request(request).await?.into_parts();
        let (mut message, mut trailers) = (Vec::new(), None);
        while let Some(frame) = body.frame().await.transpose()? {
            match frame.into_data() {
                Ok(data) if message.len() + data.len() <= grpc::MAX_ANSWER => {
                    message.extend_from_slice(&data)
                }
                Ok(_) => break,
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok((head.status, head.headers, message, trailers.unwrap_or_default()))
    })
    .await?;
    if status != StatusCode::OK {
        return Err(format!("status {}", status.as_u16()));
    }
    let code = trailers.get(STATUS).or_else(|| headers.get(STATUS));
    match code.and_then(|code| code.to_str().ok()) {
        Some("0") => grpc::answer(&message),
        Some("5") => Err("it does not know the service (NOT_FOUND)".to_owned()),
        Some("12") => Err("it does not speak the health protocol (UNIMPLEMENTED)".to_owned()),
        Some(code) => Err(format!("gRPC status {code}")),
        None => Err("no gRPC status".to_owned()),
    }
}

/// Runs an exchange together with the connection that it needs.
async fn driven<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    exchange: impl Future<Output = hyper::Result<T>>,
) -> Result<T, String> {
    let (mut connection, mut exchange) = (pin!(connection), pin!(exchange));
    tokio::select! {
        biased;
        answer = exchange.as_mut() => return answer.map_err(|e| words(&e)),
        ended = connection.as_mut() => ended.map_err(|e| words(&e))?,
    }
    // What the connection read last may still be on its way to the exchange.
    exchange.await.map_err(|e| words(&e))
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
