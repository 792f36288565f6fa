//! Parts that need both ends of a connection: the check of HTTP/2's first frame, hyper's server
//! with what the sidecar does to a head behind it, and HPACK.
//!
//! The connections are in memory and the futures are polled by hand, so there is no runtime, no
//! other thread and nothing to wait for.

use std::cell::RefCell;
use std::convert::Infallible;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use proxy::connection::WireProtocol;
use proxy::http::forward;
use proxy::http::preface::FirstFrame;
use proxy::world::RngTree;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, duplex};

use crate::Kernel;
use crate::cases::HEAD;

/// In the order of a request.
pub const ALL: &[Kernel] = &[
    Kernel { name: "preface", prepare: preface },
    Kernel { name: "forward", prepare: forward },
    Kernel { name: "hpack", prepare: hpack },
];

/// Bytes that fit into a connection.
const BUFFER: usize = 64 << 10;
const BODY: &[u8] = &[b'x'; 1024];

/// The first bytes of a client and of a server through the check of the first frame.
fn preface(_: usize) -> Box<dyn FnMut()> {
    const CLIENT: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
    let mut buffer = [0; 256];
    Box::new(move || {
        let mut client = FirstFrame::of_a_client(black_box(CLIENT));
        assert_eq!(read(&mut client, &mut buffer), CLIENT.len());
        let settings = &CLIENT[24..];
        let mut server = FirstFrame::of_a_server(black_box(settings));
        assert_eq!(read(&mut server, &mut buffer), settings.len());
    })
}

/// A request through hyper's server into the head that goes to the next hop, and its answer.
fn forward(_: usize) -> Box<dyn FnMut()> {
    let (mut client, server) = duplex(BUFFER);
    let mut rng = RngTree::new(1).rng();
    let answer = move |request: Request<Incoming>| {
        forward::check_request(&request, WireProtocol::Http1).expect("what was sent can be forwarded");
        black_box(forward::request(request, ([10, 96, 0, 1], 80).into(), &mut rng));
        let mut response = Response::new(Full::new(Bytes::from_static(BODY)));
        forward::response(&mut response);
        response
    };
    let answer = RefCell::new(answer);
    let service = hyper::service::service_fn(move |request| {
        std::future::ready(Ok::<_, Infallible>((answer.borrow_mut())(request)))
    });
    let mut http1 = hyper::server::conn::http1::Builder::new();
    let mut connection =
        Box::pin(http1.auto_date_header(false).serve_connection(TokioIo::new(server), service));
    let mut buffer = vec![0; BUFFER];
    Box::new(move || {
        write(&mut client, HEAD);
        assert!(step(connection.as_mut()).is_pending(), "the connection lasts");
        assert!(read(&mut client, &mut buffer) > BODY.len(), "the whole answer is there");
    })
}

/// One request and its answer over HTTP/2: mostly the compression of heads, and frames.
fn hpack(_: usize) -> Box<dyn FnMut()> {
    let (client, server) = duplex(BUFFER);
    let opened = now(h2::client::Builder::new().handshake::<_, Bytes>(client));
    let (mut sender, mut near) = opened.expect("nothing is waited for");
    assert!(step(Pin::new(&mut near)).is_pending(), "the connection lasts");
    let mut far =
        now(h2::server::Builder::new().handshake::<_, Bytes>(server)).expect("the client has begun");
    let request = Request::builder()
        .uri("http://orders/checkout/cart?id=42")
        .header("user-agent", "curl/8.5.0")
        .header("accept-encoding", "gzip, br")
        .header("cookie", "session=0123456789abcdef0123456789abcdef")
        .body(())
        .expect("a valid request");
    Box::new(move || {
        let (mut answer, _) = sender.send_request(request.clone(), true).expect("there is room for a stream");
        assert!(step(Pin::new(&mut near)).is_pending(), "the connection lasts");
        let asked = now(std::future::poll_fn(|cx| far.poll_accept(cx)));
        let (_, mut respond) = asked.expect("one request").expect("the server's end lasts");
        let response = Response::builder().header("content-type", "application/json").body(());
        respond.send_response(response.expect("a valid response"), true).expect("the client waits for it");
        let more = step(std::pin::pin!(std::future::poll_fn(|cx| far.poll_accept(cx))));
        assert!(more.is_pending(), "there is no second request");
        assert!(step(Pin::new(&mut near)).is_pending(), "the connection lasts");
        black_box(now(&mut answer).expect("the answer is there"));
    })
}

/// Polls once.
fn step<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The result of something that has all it needs.
fn now<F: Future>(future: F) -> F::Output {
    match step(std::pin::pin!(future)) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits for something, and nothing else runs"),
    }
}

fn write(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    let written = now(std::future::poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, bytes)));
    assert_eq!(written.expect("memory"), bytes.len());
}

fn read(io: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> usize {
    let mut into = ReadBuf::new(buffer);
    now(std::future::poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut into))).expect("memory");
    into.filled().len()
}
