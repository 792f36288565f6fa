//! gRPC calls with one message each way, as many at once over one HTTP/2 connection as there are.
//!
//! A client may leave its half of a call open for a while after its message, as one does that may
//! have more to say.
//!
//! As the gRPC project's clients do, a call that its server has not begun with (REFUSED_STREAM, or
//! a GOAWAY that leaves it out) is made once more, over another connection if that one has ended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Uri};
use proxy::grpc;
use proxy::world::Net;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::id::Id;
use super::protocol::{Callee, Caller, LoadProtocol, LoadUrl, add_headers, invalid};
use super::record::Outcome;
use super::table::LoadTable;
use crate::app::http::echo::{REQUEST, SERVED_BY};
use crate::app::http::grpc::{PREFIX, message};
use crate::syntax::diagnose::Mistake;
use crate::traffic::emit;

/// gRPC calls, over one shared HTTP/2 connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrpcCall {
    /// `/package.Service/Method`
    pub path: String,
    /// Bytes in each message.
    pub body: u32,
    /// Headers of each call, beside those that gRPC needs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How long a client waits after its message before it ends its half of the call.
    #[serde(default, skip_serializing_if = "Duration::is_zero", with = "crate::readable")]
    pub end_delay: Duration,
}

impl LoadProtocol for GrpcCall {
    type Caller<N: Net> = GrpcCaller<N>;

    const KEYS: &'static [&'static str] = &["method", "body", "headers", "end_delay"];

    fn resolve(table: &LoadTable, url: &LoadUrl<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        if let Some(method) = table.method.as_ref().filter(|method| *method.get_ref() != "POST") {
            let mistake = Mistake::new(method.span(), "every gRPC call is a POST", "another method");
            mistakes.push(mistake.help("leave it out"));
        }
        GrpcCall {
            path: url.path(mistakes),
            body: table.body(),
            headers: table.headers(mistakes),
            end_delay: table.end_delay.as_ref().map_or(Duration::ZERO, |delay| delay.get_ref().0),
        }
    }

    fn caller<N: Net>(&self, net: N, callee: Callee<'_>) -> io::Result<GrpcCaller<N>> {
        let Callee { address, host, port, .. } = callee;
        let uri = format!("http://{host}:{port}{}", self.path);
        let uri = uri.parse().map_err(|e| invalid(format!("`{uri}` is not a URL: {e}")))?;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(grpc::CONTENT_TYPE));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(USER_AGENT, HeaderValue::from_static("lab"));
        add_headers(&mut headers, &self.headers)?;
        let (message, end_delay) = (message(self.body), self.end_delay);
        Ok(GrpcCaller { net, address, uri, headers, message, end_delay, connection: RefCell::default() })
    }
}

/// Makes calls of one method at one address.
pub struct GrpcCaller<N> {
    net: N,
    address: SocketAddr,
    uri: Uri,
    headers: HeaderMap,
    message: Bytes,
    end_delay: Duration,
    /// The connection that calls share.
    connection: RefCell<Option<SendRequest<Bytes>>>,
}

/// A call that came to nothing.
enum Failed {
    /// And its server has not begun with it.
    Unprocessed,
    Otherwise(Outcome),
}

impl<N: Net> Caller for GrpcCaller<N> {
    async fn call(&self, id: Id<'_>) -> Outcome {
        let Ok(id) = HeaderValue::try_from(id.to_string()) else { return Outcome::Mismatch };
        match self.once(&id).await {
            Ok(outcome) | Err(Failed::Otherwise(outcome)) => return outcome,
            Err(Failed::Unprocessed) => {}
        }
        match self.once(&id).await {
            Ok(outcome) | Err(Failed::Otherwise(outcome)) => outcome,
            Err(Failed::Unprocessed) => Outcome::Reset,
        }
    }
}

impl<N: Net> GrpcCaller<N> {
    async fn once(&self, id: &HeaderValue) -> Result<Outcome, Failed> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(REQUEST, id.clone());
        let mut sender = self.ready().await?;
        let (response, mut body) = sender.send_request(request, false).map_err(failed)?;
        let ends = self.end_delay.is_zero();
        body.send_data(self.message.clone(), ends).map_err(failed)?;
        if ends {
            return answer(id, response).await;
        }
        let mut reading = pin!(answer(id, response));
        tokio::select! {
            biased;
            outcome = &mut reading => {
                let outcome = outcome?;
                // It was answered before its end.
                sleep(self.end_delay).await;
                drop(body.send_data(Bytes::new(), true));
                Ok(outcome)
            }
            () = sleep(self.end_delay) => {
                // If that cannot be sent, the answer says why.
                drop(body.send_data(Bytes::new(), true));
                reading.await
            }
        }
    }

    /// The shared connection when it takes another call, or a new one in its place.
    async fn ready(&self) -> Result<SendRequest<Bytes>, Failed> {
        let shared = self.connection.borrow().clone();
        if let Some(shared) = shared
            && let Ok(ready) = shared.ready().await
        {
            return Ok(ready);
        }
        let io = self.net.connect(self.address, None).await;
        let io = io.map_err(|error| Failed::Otherwise(Outcome::of_connect(error)))?;
        let (sender, connection) = h2::client::handshake(io).await.map_err(failed)?;
        self.net.spawn("load-connection", async move {
            // What went wrong reaches the calls that it happened to.
            let _ = connection.await;
        });
        self.connection.replace(Some(sender.clone()));
        sender.ready().await.map_err(failed)
    }
}

/// Reads the answer of the call `id` to its end.
async fn answer(id: &HeaderValue, response: ResponseFuture) -> Result<Outcome, Failed> {
    let (head, mut body) = response.await.map_err(failed)?.into_parts();
    let mut length: u64 = 0;
    while let Some(data) = body.data().await {
        let read = data.map_err(failed)?.len();
        body.flow_control().release_capacity(read).map_err(failed)?;
        length += read as u64;
    }
    let trailers = body.trailers().await.map_err(failed)?;
    let by = head.headers.get(SERVED_BY).and_then(|by| by.to_str().ok()).unwrap_or_default();
    let length = length.saturating_sub(PREFIX as u64);
    emit!(AnswerComplete { id: id.to_str().unwrap_or_default(), length, by });
    if head.headers.get(REQUEST).is_some_and(|echoed| echoed != id) {
        return Ok(Outcome::Mismatch);
    }
    let status = head.headers.get(grpc::STATUS).or(trailers.as_ref().and_then(|t| t.get(grpc::STATUS)));
    let code = status.and_then(|status| status.to_str().ok()?.parse::<u8>().ok());
    Ok(match code {
        Some(0) => Outcome::Ok,
        Some(code) => Outcome::Status(http_status(code)),
        None if head.status.as_u16() >= 400 => Outcome::Status(head.status.as_u16()),
        // Something was cut short and given a clean end: every call ends with a status.
        None => Outcome::Mismatch,
    })
}

/// What an error says about a call.
fn failed(error: h2::Error) -> Failed {
    let is_untouched = error.reason() == Some(Reason::REFUSED_STREAM)
        || error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    if is_untouched { Failed::Unprocessed } else { Failed::Otherwise(Outcome::Reset) }
}

/// The HTTP status that says the same as one of gRPC, by the table of `google.rpc.Code`.
fn http_status(code: u8) -> u16 {
    match code {
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
