//! The body of a response on its way to the client, with all that must live as long as it does. An enum and not a box: a
//! body is polled for every frame of every message.
//!
//! A body that is dropped before its end takes its connection (HTTP/1) or its stream (HTTP/2) with it, which tells the
//! endpoint that the client has gone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{InHand, h2, pool};
use crate::error::Kind;
use crate::grpc;
use crate::world::Net;

/// What a response arrives on.
pub enum Carrier<N: Net> {
    /// A connection of its own.
    Http1(pool::Exchange<N>),
    /// A stream of a shared connection.
    Http2(h2::Stream),
}

/// The body of a response on its way to the client.
pub enum ResponseBody<N: Net> {
    /// An endpoint's.
    Endpoint(Passing<N>),
    /// The sidecar's own words.
    Own(Option<Bytes>),
}

/// A body that passes through.
pub struct Passing<N: Net> {
    body: Incoming,
    carrier: Option<Carrier<N>>,
    /// Keeps the endpoint's count of requests in hand up.
    in_hand: Option<InHand>,
    /// Counts bodies that break off.
    broken: Counter,
    /// When the caller of a gRPC method gives up.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<N: Net> ResponseBody<N> {
    /// The body of a response that has just begun to arrive. `deadline` is that of a gRPC call.
    pub fn endpoint(
        body: Incoming,
        carrier: Carrier<N>,
        in_hand: Option<InHand>,
        broken: Counter,
        deadline: Option<Instant>,
    ) -> Self {
        let deadline = deadline.map(|at| Box::pin(sleep_until(at)));
        let mut passing = Passing { body, carrier: Some(carrier), in_hand, broken, deadline };
        // A body of length zero is never polled.
        if passing.body.is_end_stream() {
            passing.finish();
        }
        ResponseBody::Endpoint(passing)
    }

    /// A body that the sidecar makes itself.
    pub fn own(bytes: Bytes) -> Self {
        ResponseBody::Own((!bytes.is_empty()).then_some(bytes))
    }
}

impl<N: Net> Passing<N> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(Carrier::Http1(exchange)) = &mut self.carrier
        {
            // Nothing there, but now the connection knows that more is wanted.
            exchange.drive(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        match &polled {
            Poll::Ready(Some(Err(_))) => {
                self.broken.inc();
                self.in_hand = None;
            }
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.finish(),
            _ => {}
        }
        polled
    }

    /// The body has been read to its end.
    fn finish(&mut self) {
        if let Some(Carrier::Http1(mut exchange)) = self.carrier.take() {
            exchange.finish();
        }
        self.in_hand = None;
        self.deadline = None;
    }

    fn is_too_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }
}

impl<N: Net> Body for ResponseBody<N> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match this {
            ResponseBody::Endpoint(passing) => {
                let polled = passing.poll_frame(cx);
                if polled.is_pending() && passing.is_too_late(cx) {
                    // The stream to the endpoint is reset with it.
                    *this = ResponseBody::Own(None);
                    let mut trailers = HeaderMap::new();
                    grpc::put_status(&mut trailers, Kind::Deadline.grpc(), "the caller's deadline passed");
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                polled
            }
            ResponseBody::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Endpoint(passing) => passing.body.is_end_stream(),
            ResponseBody::Own(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Endpoint(passing) => passing.body.size_hint(),
            ResponseBody::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}
