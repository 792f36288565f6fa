//! The sidecar's own pages: readiness, metrics, what is in force, and the way to stop it.
//!
//! A page is a path and a closure. The owner of the state behind a page makes the closure, so
//! nothing here knows more than HTTP. Pages are served by the control thread, so they answer when
//! the data plane is busy.

mod access;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::sleep;

pub use access::Access;

use crate::config::defaults::ACCEPT_REST;
use crate::error::Error;
use crate::http::{reply, serve};
use crate::limit::slots::ConnectionSlots;
use crate::world::Net;

/// A page's answer: status, content type, text.
pub type PageResponse = (StatusCode, &'static str, String);

/// Answers a request for a page, with its body if it has one.
type Handler = Box<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = PageResponse>>>>;

/// One page.
pub struct Page {
    method: Method,
    path: &'static str,
    about: &'static str,
    answer: Handler,
}

impl Page {
    /// A page that is answered at once. `method` says how it is asked for: `GET` for those that
    /// only look, `POST` for those that change something. `about` is its line in the index.
    pub fn new(
        method: Method,
        path: &'static str,
        about: &'static str,
        answer: impl Fn(&Request<Incoming>) -> PageResponse + 'static,
    ) -> Self {
        let ready = move |request: Request<Incoming>| std::future::ready(answer(&request));
        Page::waiting(method, path, about, ready)
    }

    /// A page whose answer takes time, or depends on the body of the request.
    pub fn waiting<F: Future<Output = PageResponse> + 'static>(
        method: Method,
        path: &'static str,
        about: &'static str,
        answer: impl Fn(Request<Incoming>) -> F + 'static,
    ) -> Self {
        Page { method, path, about, answer: Box::new(move |request| Box::pin(answer(request))) }
    }
}

/// Content type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Content type of JSON.
pub const JSON: &str = "application/json";

/// Whether a client asks for JSON, by `?format=json` as in Envoy or by `Accept`.
pub fn wants_json(request: &Request<Incoming>) -> bool {
    let asks = |query: &str| query.split('&').any(|pair| pair == "format=json");
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    request.uri().query().is_some_and(asks) || accept.is_some_and(|accept| accept.contains(JSON))
}

/// A page of JSON, indented for people.
pub fn json(value: &impl Serialize) -> PageResponse {
    match serde_json::to_string_pretty(value) {
        Ok(text) => (StatusCode::OK, JSON, text + "\n"),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

/// Serves pages on a listener for ever: also during a drain, which does not wait for these
/// connections. Each port has a small number of connections of its own, `limit`, so that its
/// clients take nothing from the data plane.
///
/// Pages that change something answer whom `access` permits.
pub async fn serve<N: Net>(
    net: N,
    mut listener: N::Listener,
    limit: impl Fn() -> usize,
    pages: Vec<Page>,
    access: Access,
) {
    use crate::world::Listener as _;
    let pages = Rc::new((pages, access));
    let mut open = ConnectionSlots::default();
    loop {
        match listener.accept().await {
            Ok((io, _)) => {
                let (slot, pages) = (open.take(limit()), pages.clone());
                let is_operator = pages.0.iter().any(gives_orders) && net.is_operator(&io);
                net.spawn("admin", async move {
                    tokio::select! {
                        biased;
                        _ = slot => {}
                        () = connection::<N>(io, &pages.0, (&pages.1, is_operator)) => {}
                    }
                });
            }
            Err(_) => sleep(ACCEPT_REST).await,
        }
    }
}

/// Carries one connection to its end, which comes soon.
async fn connection<N: Net>(io: N::Io, pages: &[Page], client: (&Access, bool)) {
    let refuse = |error: &Error| reply::failure(error, "admin", false);
    serve::briefly(io, refuse, |request| answer(pages, client, request)).await;
}

async fn answer(
    pages: &[Page],
    (access, is_operator): (&Access, bool),
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if pages.iter().any(gives_orders) && access::is_for_another(request.uri(), request.headers()) {
        let why = "these pages are for an address or localhost, and for no site\n";
        return response((StatusCode::FORBIDDEN, TEXT, why.into()));
    }
    match pages.iter().find(|p| p.path == path) {
        // hyper leaves the body out of an answer to HEAD.
        Some(page) if page.method == *request.method() || is_head_of(page, request.method()) => {
            if gives_orders(page)
                && let Err(why) = access.permit(request.uri(), request.headers(), is_operator)
            {
                tracing::warn!(path, why, "an order was refused");
                return response((StatusCode::FORBIDDEN, TEXT, why + "\n"));
            }
            response((page.answer)(request).await)
        }
        Some(page) => {
            let hint = format!("use {}\n", page.method);
            let mut response = response((StatusCode::METHOD_NOT_ALLOWED, TEXT, hint));
            let allow = HeaderValue::from_str(page.method.as_str()).expect("a method is a valid value");
            response.headers_mut().insert(ALLOW, allow);
            response
        }
        None if path == "/" => response((StatusCode::OK, TEXT, index(pages))),
        None => {
            let hint = format!("no such page; there are:\n{}", index(pages));
            response((StatusCode::NOT_FOUND, TEXT, hint))
        }
    }
}

fn gives_orders(page: &Page) -> bool {
    page.method != Method::GET
}

fn is_head_of(page: &Page, method: &Method) -> bool {
    page.method == Method::GET && *method == Method::HEAD
}

fn index(pages: &[Page]) -> String {
    pages.iter().map(|p| format!("{:4} {:14} {}\n", p.method.as_str(), p.path, p.about)).collect()
}

fn response((status, content_type, text): PageResponse) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
