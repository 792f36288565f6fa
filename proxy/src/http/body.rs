//! The body of a request as it passes through. An enum and not a box: a body is polled for every frame of every message.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::patience::{Progress, Upload};

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// None, so the request can be made again.
    Empty,
    /// The client's.
    Client(Incoming, Sending),
}

/// Notes the progress of a body, and its end when dropped.
#[derive(Debug)]
pub struct Sending(Rc<Progress>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

impl RequestBody {
    /// The body of a client's request.
    pub fn new(body: Incoming) -> Self {
        if body.is_end_stream() {
            return RequestBody::Empty;
        }
        RequestBody::Client(body, Sending(Rc::new(Progress::begin(Instant::now()))))
    }

    /// Watches it from outside.
    pub fn upload(&self) -> Upload {
        match self {
            RequestBody::Empty => Upload::default(),
            RequestBody::Client(_, sending) => Upload::of(&sending.0),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Client(body, sending) => {
                let polled = Pin::new(body).poll_frame(cx);
                if polled.is_ready() {
                    sending.0.moved(Instant::now());
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Client(body, _) => body.size_hint(),
        }
    }
}
