//! The sidecar's own pages: readiness, metrics, what is in force, and the way to stop it.
//!
//! A page is a path and a closure; who owns the state behind a page makes the closure, so nothing here knows more than
//! HTTP. Pages are served by the control thread, so they answer when the data plane is busy.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::capture::listener;
use crate::config::Http1;
use crate::drain;
use crate::http::serve;
use crate::world::Net;

/// A page's answer: status, content type, text.
pub type Answer = (StatusCode, &'static str, String);

/// One page.
pub struct Page {
    /// Its path.
    pub path: &'static str,
    /// How it is asked for: `GET` for those that only look, `POST` for those that change something.
    pub method: Method,
    /// One line for the index.
    pub about: &'static str,
    /// Its answer.
    pub answer: Box<dyn Fn() -> Answer>,
}

/// Content type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Content type of the OpenMetrics text format.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves pages on a listener for ever: also during a drain, which does not wait for these connections.
pub async fn serve<N: Net>(net: N, mut listener: N::Listener, pages: Vec<Page>) {
    use crate::world::Listener as _;
    let pages = Rc::new(pages);
    // Admin connections must answer during a drain, so they watch a signal that is never given.
    let (_never, watch) = drain::channel();
    loop {
        match listener.accept().await {
            Ok((io, _)) => {
                let (pages, watch) = (pages.clone(), watch.clone());
                net.spawn("admin", async move {
                    let _ = serve::http1(io, Http1::default(), watch, |request, _| {
                        let response = answer(&pages, &request);
                        async move { response }
                    })
                    .await;
                });
            }
            Err(_) => tokio::time::sleep(listener::REST).await,
        }
    }
}

fn answer(pages: &[Page], request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    match pages.iter().find(|p| p.path == path) {
        // hyper leaves the body out of an answer to HEAD.
        Some(page) if page.method == *request.method() || is_head_of(page, request.method()) => {
            response((page.answer)())
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

fn is_head_of(page: &Page, method: &Method) -> bool {
    page.method == Method::GET && *method == Method::HEAD
}

fn index(pages: &[Page]) -> String {
    pages.iter().map(|p| format!("{:4} {:14} {}\n", p.method.as_str(), p.path, p.about)).collect()
}

fn response((status, content_type, text): Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
