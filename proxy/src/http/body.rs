//! The body of a request as it passes through. An enum and not a box: a body is polled for every frame of every message.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// None, so the request can be made again.
    Empty,
    /// The client's.
    Client(Incoming, Rc<()>),
}

/// Tells whether a request body still has bytes to send. It outlives the body.
#[derive(Debug, Default)]
pub struct Upload(Weak<()>);

impl Upload {
    /// Whether the body has not been sent to its end, nor been given up.
    pub fn is_under_way(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl RequestBody {
    /// The body of a client's request.
    pub fn new(body: Incoming) -> Self {
        if body.is_end_stream() { RequestBody::Empty } else { RequestBody::Client(body, Rc::new(())) }
    }

    /// Watches it from outside.
    pub fn upload(&self) -> Upload {
        match self {
            RequestBody::Empty => Upload::default(),
            RequestBody::Client(_, alive) => Upload(Rc::downgrade(alive)),
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
            RequestBody::Client(body, _) => Pin::new(body).poll_frame(cx),
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
