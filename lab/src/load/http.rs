//! One HTTP/1.1 request over a kept-alive connection.
//!
//! The pool is a stack: the connection used last is used next, so that as few as possible stay warm
//! and the others age out. A reused connection that turns out closed before the request left is
//! replaced by a fresh one, once, as Go's client and curl do; once any byte of the request may have
//! left, a broken connection is an error, because whether the server acted is unknown.
//!
//! A client may be slow to read: it takes the head of an answer and leaves the rest for a while in
//! the buffers in between.
//!
//! The length of an answer is checked by hyper against its `Content-Length`: a short one counts as
//! a reset. An app that returns [`REQUEST`] also proves that the answer belongs to the request; if
//! not, it is a mismatch.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use proxy::world::Net;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::id::Id;
use super::protocol::{Callee, Caller, LoadProtocol, LoadUrl, add_headers, invalid};
use super::record::Outcome;
use super::table::LoadTable;
use crate::app::http::body::Pattern;
use crate::app::http::echo::{REQUEST, SERVED_BY};
use crate::syntax::diagnose::Mistake;
use crate::traffic::emit;

/// How long a connection may lie idle. Shorter than servers' limits (5 s is the shortest in common
/// use, Node.js'), so that a server's closing of idle connections is not mistaken for a fault.
const IDLE: Duration = Duration::from_secs(2);

/// HTTP methods that a generator sends.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// HTTP/1.1 requests over kept-alive connections.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HttpCall {
    /// Path and query.
    pub path: String,
    /// Method.
    pub method: String,
    /// Bytes in each request body.
    pub body: u32,
    /// Headers of each request, beside those that HTTP needs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How long a client waits after the head of an answer before it reads the body.
    #[serde(default, skip_serializing_if = "Duration::is_zero", with = "crate::readable")]
    pub read_delay: Duration,
}

impl LoadProtocol for HttpCall {
    type Caller<N: Net> = HttpCaller<N>;

    const KEYS: &'static [&'static str] = &["method", "body", "headers", "read_delay"];

    fn resolve(table: &LoadTable, url: &LoadUrl<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        if let Some(word) = table.method.as_ref().filter(|m| !METHODS.contains(&&m.get_ref()[..])) {
            mistakes.push(Mistake::unknown("method", word, METHODS));
        }
        HttpCall {
            path: url.path(mistakes),
            method: table.method.as_ref().map_or("GET", |method| method.get_ref()).to_owned(),
            body: table.body(),
            headers: table.headers(mistakes),
            read_delay: table.read_delay.as_ref().map_or(Duration::ZERO, |delay| delay.get_ref().0),
        }
    }

    fn caller<N: Net>(&self, net: N, callee: Callee<'_>) -> io::Result<HttpCaller<N>> {
        let template = Template::new(self, callee.host, callee.port)?;
        let Callee { address, timeout, .. } = callee;
        Ok(HttpCaller { net, address, timeout, read_delay: self.read_delay, template, pool: Rc::default() })
    }
}

/// A request with everything but its id.
struct Template {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: u32,
}

impl Template {
    fn new(call: &HttpCall, host: &str, port: u16) -> io::Result<Self> {
        let HttpCall { path, method, body, headers: more, .. } = call;
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| invalid(format!("`{method}` is not an HTTP method")))?;
        let uri = path.parse().map_err(|e| invalid(format!("`{path}` is not a path: {e}")))?;
        let host = HeaderValue::try_from(format!("{host}:{port}"))
            .map_err(|_| invalid(format!("`{host}` is not a host name")))?;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static("lab"));
        add_headers(&mut headers, more)?;
        Ok(Template { method, uri, headers, body: *body })
    }

    fn request(&self, id: &HeaderValue) -> Request<Pattern> {
        let mut request = Request::new(Pattern::new(self.body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(REQUEST, id.clone());
        request
    }
}

/// Makes requests of one template to one address.
pub struct HttpCaller<N> {
    net: N,
    address: SocketAddr,
    timeout: Duration,
    read_delay: Duration,
    template: Template,
    pool: Rc<Pool>,
}

impl<N: Net> Caller for HttpCaller<N> {
    async fn call(&self, id: Id<'_>) -> Outcome {
        let Ok(id) = HeaderValue::try_from(id.to_string()) else { return Outcome::Mismatch };
        let mut request = self.template.request(&id);
        if let Some(mut sender) = self.pool.take() {
            match sender.try_send_request(request).await {
                Ok(response) => return self.finish(sender, response, &id).await,
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return classify(failed.error()),
                },
            }
        }
        let mut sender = match self.open().await {
            Ok(sender) => sender,
            Err(outcome) => return outcome,
        };
        match sender.try_send_request(request).await {
            Ok(response) => self.finish(sender, response, &id).await,
            Err(failed) => classify(failed.error()),
        }
    }
}

impl<N: Net> HttpCaller<N> {
    async fn open(&self) -> Result<SendRequest<Pattern>, Outcome> {
        let io = self.net.connect(self.address, None).await.map_err(Outcome::of_connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|_| Outcome::Reset)?;
        self.net.spawn("load-connection", async move {
            // What went wrong reaches the request that it happened to.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn finish(
        &self,
        sender: SendRequest<Pattern>,
        response: Response<Incoming>,
        id: &HeaderValue,
    ) -> Outcome {
        let status = response.status();
        let other = response.headers().get(REQUEST).is_some_and(|echoed| echoed != id);
        let (head, mut body) = response.into_parts();
        if !self.read_delay.is_zero() {
            sleep(self.read_delay).await;
        }
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => length += frame.data_ref().map_or(0, bytes::Bytes::len),
                Err(e) => return classify(&e),
            }
        }
        let by = head.headers.get(SERVED_BY);
        emit!(AnswerComplete { id: words(Some(id)), length, by: words(by) });
        if other {
            // The connection is out of step: its next answer would be wrong too.
            return Outcome::Mismatch;
        }
        self.keep(sender);
        if status.as_u16() >= 400 { Outcome::Status(status.as_u16()) } else { Outcome::Ok }
    }

    /// Puts a connection back, at once if it can take the next request, else when it can.
    fn keep(&self, mut sender: SendRequest<Pattern>) {
        if sender.is_ready() {
            self.pool.put(sender);
        } else if !sender.is_closed() {
            let (pool, limit) = (self.pool.clone(), self.timeout);
            self.net.spawn("load-keep", async move {
                if let Ok(Ok(())) = timeout(limit, sender.ready()).await {
                    pool.put(sender);
                }
            });
        }
    }
}

/// A header's value, if it is one that people can read.
fn words(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What an error of hyper says about the request.
fn classify(error: &hyper::Error) -> Outcome {
    if error.is_parse() { Outcome::Mismatch } else { Outcome::Reset }
}

/// Idle connections, the one used last on top.
#[derive(Default)]
struct Pool {
    idle: RefCell<VecDeque<(Instant, SendRequest<Pattern>)>>,
}

impl Pool {
    /// The connection used last, if one is alive and not too old.
    fn take(&self) -> Option<SendRequest<Pattern>> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while let Some((since, sender)) = idle.pop_back() {
            if now - since > IDLE {
                // All the others are older still.
                idle.clear();
            } else if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn put(&self, sender: SendRequest<Pattern>) {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while idle.front().is_some_and(|(since, _)| now - *since > IDLE) {
            idle.pop_front();
        }
        idle.push_back((now, sender));
    }
}
