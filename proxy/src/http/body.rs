//! Bodies as they pass through. Enums and not boxes: a body is polled for every frame of every message.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::endpoint::InHand;
use crate::endpoint::pool::Exchange;
use crate::world::Net;

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// None, so the request can be made again.
    Empty,
    /// The client's.
    Client(Incoming),
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
            RequestBody::Client(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Client(body) => body.size_hint(),
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
    },
    /// The sidecar's own words.
    Own(Option<Bytes>),
}

impl<N: Net> ResponseBody<N> {
    /// The body of a response that has just begun to arrive.
    pub fn endpoint(body: Incoming, exchange: Exchange<N>, in_hand: Option<InHand>) -> Self {
        ResponseBody::Endpoint { body, exchange, in_hand }
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
            ResponseBody::Endpoint { body, exchange, in_hand } => {
                exchange.drive(cx);
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                if frame.is_none() || body.is_end_stream() {
                    exchange.finish();
                    *in_hand = None;
                }
                Poll::Ready(frame)
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

impl<N: Net> Drop for ResponseBody<N> {
    fn drop(&mut self) {
        // A response without a body is never polled. One that was not read to its end takes its connection with it,
        // which tells the endpoint that the client has gone.
        if let ResponseBody::Endpoint { body, exchange, .. } = self
            && body.is_end_stream()
        {
            exchange.finish();
        }
    }
}
