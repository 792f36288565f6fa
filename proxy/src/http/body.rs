//! Bodies as they pass through. Enums and not boxes: a body is polled for every frame of every message.
//!
//! A response body that is dropped before its end takes its connection with it, which tells the endpoint that the client
//! has gone.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Sleep;

use crate::endpoint::InHand;
use crate::endpoint::pool::Exchange;
use crate::world::Net;

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// None, so the request can be made again.
    Empty,
    /// The client's.
    Client(Incoming, Rc<Cell<Stage>>),
    /// The client's, which waits for the next hop to want it.
    Withheld(Box<Withheld>),
}

/// How far a body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for `100 Continue`.
    Withheld,
    /// It is being sent.
    UnderWay,
    /// It was answered before it was wanted.
    Unwanted,
}

/// A body that waits for `100 Continue`.
#[derive(Debug)]
pub struct Withheld {
    body: Incoming,
    stage: Rc<Cell<Stage>>,
    wanted: Arc<AtomicBool>,
    limit: Pin<Box<Sleep>>,
}

/// Tells whether a request body still has bytes to send. It outlives the body.
#[derive(Debug, Default)]
pub struct Upload(Option<Rc<Cell<Stage>>>);

impl Upload {
    /// Whether the body has not been sent to its end, nor been given up.
    pub fn is_unfinished(&self) -> bool {
        self.0.as_ref().is_some_and(|stage| Rc::strong_count(stage) > 1)
    }

    /// The response has come: if the body still waited to be wanted, it is not sent any more. Whether it is so.
    pub fn is_refused(&self) -> bool {
        let Some(stage) = self.0.as_ref().filter(|stage| stage.get() != Stage::UnderWay) else {
            return false;
        };
        stage.set(Stage::Unwanted);
        true
    }
}

impl RequestBody {
    /// The body of a client's request.
    pub fn new(body: Incoming) -> Self {
        if body.is_end_stream() {
            RequestBody::Empty
        } else {
            RequestBody::Client(body, Rc::new(Cell::new(Stage::UnderWay)))
        }
    }

    /// Watches it from outside.
    pub fn upload(&self) -> Upload {
        match self {
            RequestBody::Empty => Upload::default(),
            RequestBody::Client(_, stage) => Upload(Some(stage.clone())),
            RequestBody::Withheld(withheld) => Upload(Some(withheld.stage.clone())),
        }
    }

    /// Keeps it back until `wanted` is true or `limit` is over. False if there is none.
    pub(super) fn withhold(&mut self, wanted: Arc<AtomicBool>, limit: Sleep) -> bool {
        let RequestBody::Client(body, stage) = std::mem::replace(self, RequestBody::Empty) else {
            return false;
        };
        stage.set(Stage::Withheld);
        *self = RequestBody::Withheld(Box::new(Withheld { body, stage, wanted, limit: Box::pin(limit) }));
        true
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let RequestBody::Withheld(withheld) = this {
            if !withheld.is_wanted(cx) {
                return Poll::Pending;
            }
            withheld.stage.set(Stage::UnderWay);
            if let RequestBody::Withheld(withheld) = std::mem::replace(this, RequestBody::Empty) {
                *this = RequestBody::Client(withheld.body, withheld.stage);
            }
        }
        match this {
            RequestBody::Client(body, _) => Pin::new(body).poll_frame(cx),
            RequestBody::Empty | RequestBody::Withheld(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client(body, _) => body.is_end_stream(),
            RequestBody::Withheld(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Client(body, _) => body.size_hint(),
            RequestBody::Withheld(withheld) => withheld.body.size_hint(),
        }
    }
}

impl Withheld {
    fn is_wanted(&mut self, cx: &mut Context<'_>) -> bool {
        self.stage.get() != Stage::Unwanted
            && (self.wanted.load(Ordering::Relaxed) || self.limit.as_mut().poll(cx).is_ready())
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
    /// None, but hyper is to believe in one, or it would drop the `Content-Length` of a 304.
    NotModified,
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
            ResponseBody::NotModified => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Endpoint { body, .. } => body.is_end_stream(),
            ResponseBody::Own(bytes) => bytes.is_none(),
            ResponseBody::NotModified => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Endpoint { body, .. } => body.size_hint(),
            ResponseBody::NotModified => SizeHint::default(),
            ResponseBody::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}
