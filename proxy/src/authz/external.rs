//! External authorization: Envoy's ext_authz over HTTP.
//!
//! The authorizer gets a request like the one that it is asked about: the method, the host, and the
//! path behind its prefix, with the headers that it may see and without a body. 200 means that the
//! request may pass, and some headers of the answer may become the request's. Any other status is
//! the client's answer, with its body and some of its headers. No answer in time, a connection that
//! breaks, or a 5xx is a failure: `fail_open` decides.
//!
//! Each worker keeps connections of its own. A question is asked once more if it was on a kept
//! connection that turned out to be closed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::config::ExternalAuthorizer;
use crate::config::defaults::{AUTHORIZER_ANSWER, AUTHORIZER_IDLE};
use crate::connect::no_answer_within;
use crate::world::Net;

/// What an authorizer says.
#[derive(Debug)]
pub enum Answer {
    /// The request may pass; these headers become its own.
    Allow(Vec<(HeaderName, HeaderValue)>),
    /// It may not, and this is the client's answer.
    Deny(Box<Response<Bytes>>),
}

/// A request as far as an authorizer sees it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'r> {
    /// Its method.
    pub method: &'r http::Method,
    /// Its host.
    pub host: &'r str,
    /// Its path, with the query.
    pub path: &'r str,
    /// Its headers.
    pub headers: &'r HeaderMap,
}

type Sender = SendRequest<Empty<Bytes>>;

/// Asks authorizers, over connections that are kept. One for each worker.
#[derive(Debug, Default)]
pub struct Authorizers {
    idle: RefCell<BTreeMap<SocketAddr, Vec<Sender>>>,
}

impl Authorizers {
    /// Asks `authorizer` about a request.
    ///
    /// # Errors
    /// Why there is no answer that could be used.
    pub async fn ask<N: Net>(
        &self,
        net: &N,
        authorizer: &Arc<ExternalAuthorizer>,
        question: Question<'_>,
    ) -> Result<Answer, String> {
        let asking = async {
            let mut kept = self.take(authorizer.address);
            loop {
                let is_kept = kept.is_some();
                let mut send = match kept.take() {
                    Some(send) => send,
                    None => dial(net, authorizer.address).await?,
                };
                let request = written(authorizer, question)?;
                match send.try_send_request(request).await {
                    Ok(response) => break self.read(authorizer, response, send).await,
                    // It was closed while nobody looked, and asking changes nothing.
                    Err(_) if is_kept => {}
                    Err(error) => break Err(error.into_error().to_string()),
                }
            }
        };
        let answered = tokio::time::timeout(authorizer.timeout, asking).await;
        answered.unwrap_or_else(|_| Err(no_answer_within(authorizer.timeout)))
    }

    /// A connection that is kept and open.
    fn take(&self, address: SocketAddr) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&address)?;
        while let Some(send) = kept.pop() {
            if send.is_ready() {
                return Some(send);
            }
        }
        None
    }

    fn keep(&self, address: SocketAddr, send: Sender) {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(address).or_default();
        if kept.len() < AUTHORIZER_IDLE && !send.is_closed() {
            kept.push(send);
        }
    }

    async fn read(
        &self,
        authorizer: &ExternalAuthorizer,
        response: Response<hyper::body::Incoming>,
        send: Sender,
    ) -> Result<Answer, String> {
        let (head, body) = response.into_parts();
        let body =
            Limited::new(body, AUTHORIZER_ANSWER).collect().await.map_err(|error| error.to_string())?;
        self.keep(authorizer.address, send);
        if !(200..500).contains(&head.status.as_u16()) {
            return Err(format!("status {}", head.status.as_u16()));
        }
        let taken = |names: &[HeaderName]| -> Vec<(HeaderName, HeaderValue)> {
            let of = |name: &HeaderName| {
                let name = name.clone();
                head.headers
                    .get_all(&name)
                    .iter()
                    .cloned()
                    .map(move |value| (name.clone(), value))
                    .collect::<Vec<_>>()
            };
            names.iter().flat_map(of).collect()
        };
        if head.status == StatusCode::OK {
            return Ok(Answer::Allow(taken(&authorizer.headers_to_upstream_on_allow)));
        }
        let mut response = Response::new(body.to_bytes());
        *response.status_mut() = head.status;
        response.headers_mut().extend(taken(&authorizer.headers_to_downstream_on_deny));
        Ok(Answer::Deny(Box::new(response)))
    }
}

async fn dial<N: Net>(net: &N, address: SocketAddr) -> Result<Sender, String> {
    let io = net.connect(address, None).await.map_err(|error| error.to_string())?;
    let (send, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|error| error.to_string())?;
    net.spawn("authorizer", async move {
        let _ = connection.await;
    });
    Ok(send)
}

/// The request that an authorizer gets.
fn written(authorizer: &ExternalAuthorizer, question: Question<'_>) -> Result<Request<Empty<Bytes>>, String> {
    // A request with another form of target (`*`, or a host alone) has none.
    let slash = if question.path.starts_with('/') { "" } else { "/" };
    let path = format!("{}{slash}{}", authorizer.path_prefix, question.path);
    let mut request = Request::builder()
        .method(question.method)
        .uri(path)
        .header(HOST, question.host)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    for name in &authorizer.include_request_headers {
        // The length of a body that it does not get, and hosts, are not for it.
        if *name != CONTENT_LENGTH && *name != HOST {
            headers.extend(question.headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    for (name, value) in &authorizer.include_additional_headers {
        headers.insert(name, value.clone());
    }
    Ok(request)
}
