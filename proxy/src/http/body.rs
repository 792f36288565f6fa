//! Bodies as they pass through. Enums and not boxes: a body is polled for every frame of every message.
//!
//! A response body that is dropped before its end takes its connection with it, which tells the endpoint that the client
//! has gone.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;

use crate::endpoint::InHand;
use crate::endpoint::pool::Exchange;
use crate::world::Net;

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

/// The body of a response on its way to the client.
pub enum ResponseBody<N: Net> {
    /// An endpoint's, with the connection that it arrives on and the mark that the endpoint is busy.
    Endpoint {
        /// The body.
        body: Incoming,
        /// Its connection.
        exchange: Exchange<N>,
        /// Keeps the endpoint's count of requests in hand up.
        in_hand: Option<InHand>,
        /// Counts bodies that break off.
        broken: Counter,
    },
    /// The sidecar's own words.
    Own(Option<Bytes>),
}

impl<N: Net> ResponseBody<N> {
    /// The body of a response that has just begun to arrive.
    pub fn endpoint(
        body: Incoming,
        mut exchange: Exchange<N>,
        in_hand: Option<InHand>,
        broken: Counter,
    ) -> Self {
        // A body of length zero is never polled.
        let in_hand = if body.is_end_stream() && !exchange.is_tunnel() {
            exchange.finish();
            None
        } else {
            in_hand
        };
        ResponseBody::Endpoint { body, exchange, in_hand, broken }
    }
}

impl<N: Net> Body for ResponseBody<N> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            ResponseBody::Endpoint { body, exchange, in_hand, broken } => {
                let mut body = Pin::new(body);
                let mut polled = body.as_mut().poll_frame(cx);
                if polled.is_pending() {
                    // Nothing there, but now the connection knows that more is wanted.
                    exchange.drive(cx);
                    polled = body.as_mut().poll_frame(cx);
                }
                match &polled {
                    Poll::Ready(Some(Err(_))) => {
                        broken.inc();
                    }
                    Poll::Ready(None) => exchange.finish(),
                    Poll::Ready(Some(Ok(_))) if body.is_end_stream() => exchange.finish(),
                    _ => return polled,
                }
                *in_hand = None;
                polled
            }
            ResponseBody::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Endpoint { body, .. } => body.is_end_stream(),
            ResponseBody::Own(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Endpoint { body, .. } => body.size_hint(),
            ResponseBody::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}
