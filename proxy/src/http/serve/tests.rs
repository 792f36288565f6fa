//! Parked connections, over real sockets in virtual time.

use std::rc::Rc;

use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::world::{KernelNet, Listener};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

/// Longer than until an idle connection is parked.
const PAUSE: Duration = Duration::from_secs(5);

/// A client of a server whose answer to a path is what `work` says of it.
struct Wire {
    client: TcpStream,
    end: ClientEnd,
    drain: drain::Signal,
}

impl Wire {
    async fn ask(&mut self, request: &[u8]) -> String {
        self.client.write_all(request).await.unwrap();
        self.hear("\r\n\r\nok").await
    }

    /// Reads to what an answer ends with.
    async fn hear(&mut self, last: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(last.as_bytes()) {
            assert_ne!(self.client.read_buf(&mut heard).await.unwrap(), 0, "{heard:?}");
        }
        String::from_utf8(heard).unwrap()
    }

    /// How long it takes the server to close the connection.
    async fn closes_in(&mut self) -> Duration {
        let begun = Instant::now();
        let mut rest = Vec::new();
        self.client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
        begun.elapsed()
    }
}

/// Runs `test` with a client of a server that answers "ok" when `work` has done with the body.
async fn serving<W: Future<Output = ()> + 'static>(
    work: impl Fn(Incoming) -> W + 'static,
    test: impl AsyncFnOnce(&mut Wire),
) {
    let net = KernelNet::default();
    let mut listener = net.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = net.connect(listener.local_addr().unwrap(), None).await.unwrap();
    let (io, _) = listener.accept().await.unwrap();
    // The kernel's time is not virtual: it would still wait for an acknowledgement.
    client.set_nodelay(true).unwrap();
    io.set_nodelay(true).unwrap();
    tokio::time::pause();
    let (drain, watch) = drain::channel();
    let end = ClientEnd::default();
    let mut wire = Wire { client, end: end.clone(), drain };
    let work = Rc::new(work);
    let refuse = |_: &Error| Response::new(Bytes::new());
    let settings = Settings::default();
    let server = http1(io, &settings, watch, end, refuse, |request: Request<Incoming>, _| {
        let work = work.clone();
        async move {
            work(request.into_body()).await;
            Response::new(Full::new(Bytes::from_static(b"ok")))
        }
    });
    let server = async {
        let _ = server.await;
        std::future::pending::<()>().await;
    };
    let test = timeout(Duration::from_secs(600), test(&mut wire));
    tokio::select! {
        ended = test => ended.expect("it ends"),
        () = server => {}
    }
}

async fn nothing(_: Incoming) {}

#[tokio::test]
async fn a_client_that_asks_nothing_for_a_while_is_parked_and_answered_when_it_asks_again() {
    serving(nothing, async |wire| {
        for _ in 0..3 {
            sleep(PAUSE).await;
            assert!(wire.end.is_parked());
            let answer = wire.ask(REQUEST).await;
            assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("connection"), "{answer}");
            assert!(!wire.end.is_parked());
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_at_work_is_not_parked() {
    serving(nothing, async |wire| {
        for _ in 0..20 {
            wire.ask(REQUEST).await;
            sleep(PARK_AFTER / 2).await;
            assert!(!wire.end.is_parked());
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_whose_answer_takes_its_time_is_not_parked() {
    serving(
        async |_| sleep(PAUSE).await,
        async |wire| {
            wire.client.write_all(REQUEST).await.unwrap();
            sleep(PAUSE / 2 + PAUSE / 4).await;
            assert!(!wire.end.is_parked());
            wire.hear("ok").await;
        },
    )
    .await;
}

#[tokio::test]
async fn neither_is_one_that_comes_in_pieces_head_or_body() {
    let read = async |body: Incoming| assert_eq!(body.collect().await.unwrap().to_bytes(), "body");
    serving(read, async |wire| {
        wire.ask(&[POST, b"4\r\nbody\r\n0\r\n\r\n"].concat()).await;
        sleep(PAUSE).await;
        for part in [&POST[..20], &POST[20..], b"4\r\nbo", b"dy\r\n0\r\n"] {
            wire.client.write_all(part).await.unwrap();
            sleep(PAUSE).await;
            assert!(!wire.end.is_parked());
        }
        wire.ask(b"\r\n").await;
        sleep(PAUSE).await;
        assert!(wire.end.is_parked());
    })
    .await;
}

/// hyper reads no further in a body than somebody takes it, and nobody but hyper knows that.
#[tokio::test]
async fn a_body_that_is_read_slowly_behind_its_answer_is_not_lost() {
    let (give, mut bodies) = mpsc::channel(1);
    let hand_on = move |body| {
        give.try_send(body).expect("one request");
        std::future::ready(())
    };
    serving(hand_on, async |wire| {
        wire.ask(&[POST, b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"].concat()).await;
        let mut body: Incoming = bodies.recv().await.unwrap();
        for part in ["a", "b", "c"] {
            sleep(PAUSE).await;
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), part);
        }
    })
    .await;
}

#[tokio::test]
async fn a_parked_connection_ends_with_its_client() {
    serving(nothing, async |wire| {
        wire.ask(REQUEST).await;
        sleep(PAUSE).await;
        assert!(wire.end.is_parked());
        wire.client.shutdown().await.unwrap();
        assert!(wire.closes_in().await < Duration::from_millis(100));
    })
    .await;
}

#[tokio::test]
async fn a_parked_connection_ends_when_it_was_idle_for_as_long_as_it_may() {
    serving(nothing, async |wire| {
        wire.ask(REQUEST).await;
        let idle = wire.closes_in().await;
        assert!((HEADER_TIMEOUT..HEADER_TIMEOUT + PARK_AFTER * 2).contains(&idle), "{idle:?}");
    })
    .await;
}

/// Such as one in memory.
#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_tell_whether_it_is_readable_is_idle_for_no_longer() {
    let (_client, io) = tokio::io::duplex(64);
    let (_drain, watch) = drain::channel();
    let refuse = |_: &Error| Response::new(Bytes::new());
    let answer = async |_: Request<Incoming>, _| Response::new(Full::new(Bytes::new()));
    let begun = Instant::now();
    http1(io, &Settings::default(), watch, ClientEnd::default(), refuse, answer).await.unwrap();
    assert!(begun.elapsed() < HEADER_TIMEOUT + PARK_AFTER * 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_drain_ends_a_parked_connection() {
    serving(nothing, async |wire| {
        wire.ask(REQUEST).await;
        sleep(PAUSE).await;
        assert!(wire.end.is_parked());
        let (_, ended) = tokio::join!(wire.drain.drain(Instant::now() + HEADER_TIMEOUT), async {
            let begun = Instant::now();
            wire.client.read_to_end(&mut Vec::new()).await.unwrap();
            begun.elapsed()
        });
        assert!((LAST_REQUEST..LAST_REQUEST * 2).contains(&ended), "{ended:?}");
    })
    .await;
}

#[tokio::test]
async fn a_request_on_its_way_to_a_parked_connection_when_a_drain_begins_is_its_last() {
    serving(nothing, async |wire| {
        sleep(PAUSE).await;
        assert!(wire.end.is_parked());
        let Wire { client, drain, .. } = wire;
        tokio::join!(drain.drain(Instant::now() + HEADER_TIMEOUT), async {
            sleep(LAST_REQUEST / 2).await;
            client.write_all(REQUEST).await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert!(heard.contains("connection: close") && heard.ends_with("ok"), "{heard}");
        });
    })
    .await;
}
